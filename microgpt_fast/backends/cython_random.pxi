# The stream of Python's random module.

@cython.final
cdef class Random(Owned):
    """The generator of Python's ``random`` module, draw for draw, without Python's cost per draw.

    Parameters
    ----------
    seed : int
        As for ``random.seed``.
    """
    cdef mgf_random state

    def __init__(self, seed):
        size = max(1, (abs(seed).bit_length() + 31) // 32)
        cdef const uint32_t[::1] digits = np.frombuffer(abs(seed).to_bytes(4 * size, "little"), "<u4").astype(np.uint32)
        mgf_random_seed(&self.state, &digits[0], size)

    def random(self):
        """``random.random()``"""
        self.check_idle()
        return mgf_random_uniform(&self.state)

    def permutation(self, Py_ssize_t n):
        """int64 [n]: what ``random.shuffle`` makes of ``list(range(n))``."""
        order = np.empty(n, np.int64)
        cdef int64_t[::1] out = order
        self.check_idle()
        if n:
            mgf_random_permutation(&self.state, &out[0], n)
        return order

    def normal(self, double[::1] out, double std):
        """Fills `out` with ``random.gauss(0, std)``."""
        self.begin()
        if out.shape[0]:
            with nogil:
                mgf_random_normal(&self.state, &out[0], out.shape[0], std)
        self.at_work = False

    def choices(self, const double[::1] weights):
        """``random.choices(range(n), weights)[0]``"""
        if not weights.shape[0]:
            raise ValueError("nothing to choose from")
        self.check_idle()
        return mgf_random_choice(&self.state, &weights[0], weights.shape[0])

    def getstate(self):
        """As ``random.getstate()``: (3, 624 words and the index, the kept normal deviate or None)."""
        self.check_idle()
        words = tuple([self.state.state[i] for i in range(624)])
        return (3, words + (self.state.index,), self.state.gauss if self.state.has_gauss else None)

    def setstate(self, state):
        """As ``random.setstate()``."""
        version, words, gauss = _check_state(state)
        self.check_idle()
        for i in range(624):
            self.state.state[i] = words[i]
        self.state.index = words[624]
        self.state.has_gauss = gauss is not None
        self.state.gauss = gauss if gauss is not None else 0.0
