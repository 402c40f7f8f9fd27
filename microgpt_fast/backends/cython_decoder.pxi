# One stream of tokens, and many at once.

cdef inline int64_t index_of(value) except? -1:
    """A whole number; one that 64 bits do not hold is out of any range."""
    try:
        return PyNumber_Index(value)  # a conversion alone would cut 1.5 to 1
    except OverflowError:
        raise IndexError(f"{value} is out of range") from None

cdef class Decoder(Owned):
    """Token by token through the model, with a cache of keys and values."""
    cdef Engine engine
    cdef object params
    cdef void *p
    cdef unsigned char[::1] memory
    cdef object sampled
    cdef int32_t[::1] sample
    cdef Py_ssize_t position

    def __init__(self, Engine engine, params):
        cdef Py_ssize_t size
        self.sample = self.sampled = np.empty(engine.config.block_size, np.int32)
        self.engine = engine
        self.params = params
        self.p = engine.flat(params, False, "params")
        size = gpt_decoder_size(&engine.tables, &engine.config)
        self.memory = np.empty(size, np.uint8)  # in huge pages: from small ones large weights are read at half the pace
        with nogil:
            gpt_decoder_init(&engine.tables, &self.memory[0], self.p, &engine.config)

    def step(self, token, position):
        """Logits [V] after `token` at `position`. Positions come in order; 0 begins a new document.

        Raises
        ------
        IndexError
            For a token outside the vocabulary or a position out of turn.
        """
        cdef Engine e = self.engine
        cdef int64_t id = index_of(token), at = index_of(position)
        if not 0 <= id < e.config.vocab_size:
            raise IndexError(f"token {token} is not in the vocabulary, 0 to {e.config.vocab_size - 1}")
        if at >= e.config.block_size or at not in (0, self.position):
            raise IndexError(f"position {position} is out of turn: {self.position} of {e.config.block_size} comes next, or 0")
        logits = np.empty(e.config.vocab_size, e.dtype)
        cdef void *out = address(logits, e.kind(), True, "logits")
        self.begin()
        with nogil:
            gpt_decode(&e.tables, out, <int32_t>id, at, self.p, &e.config, &self.memory[0])
        self.at_work = False
        self.position = at + 1
        return logits

    def generate(self, Random random, bos, double temperature):
        """One document sampled from `bos` on, up to the next `bos` or block_size tokens: int32, without bos."""
        cdef Engine e = self.engine
        cdef Py_ssize_t n
        cdef int64_t first = index_of(bos)
        if not 0 <= first < e.config.vocab_size:
            raise IndexError(f"token {bos} is not in the vocabulary, 0 to {e.config.vocab_size - 1}")
        cdef int32_t *out = &self.sample[0]
        random.check_idle()
        self.begin()
        random.begin()
        with nogil:
            n = gpt_generate(&e.tables, out, &random.state, self.p, <int32_t>first, temperature, &e.config, &self.memory[0])
        random.at_work = self.at_work = False
        self.position = 0
        return self.sampled[:n].copy()


cdef class Streams(Owned):
    """Up to `size` documents that go through the model together, a token each at a time."""
    cdef Engine engine
    cdef object params
    cdef void *p
    cdef unsigned char[::1] memory
    cdef int32_t[::1] next
    cdef int64_t[::1] stepped
    cdef int64_t steps
    cdef Py_ssize_t[::1] randoms
    cdef Py_ssize_t size

    def __init__(self, Engine engine, params, Py_ssize_t size):
        cdef Py_ssize_t memory_size
        if engine.tables.exact != NULL:
            raise ValueError("exact numerics decode one document at a time: many streams need 'fast'")
        if size < 1:
            raise ValueError(f"there must be at least 1 stream, not {size}")
        self.engine, self.params, self.size = engine, params, size
        self.p = engine.flat(params, False, "params")
        self.next, self.stepped = np.zeros(size, np.int32), np.zeros(size, np.int64)
        self.randoms = np.zeros(size, np.intp)
        memory_size = gpt_streams_size(&engine.tables, &engine.config, size)
        self.memory = np.empty(memory_size, np.uint8)  # in huge pages
        with nogil:
            gpt_streams_init(&engine.tables, &self.memory[0], self.p, size, &engine.config)

    cdef Py_ssize_t accept(self, int32_t[::1] slots, int32_t[::1] tokens, int32_t[::1] positions) except -1:
        # how many streams take a step; refuses what is not one
        cdef mgf_config *c = &self.engine.config
        cdef Py_ssize_t i, n = slots.shape[0]
        if not n == tokens.shape[0] == positions.shape[0] or n == 0 or n > self.size:
            raise ValueError(f"a step takes one token and position for each of some of {self.size} streams, not {n} streams, "
                             f"{tokens.shape[0]} tokens, {positions.shape[0]} positions")
        for i in range(n):
            if not 0 <= slots[i] < self.size:
                raise IndexError(f"stream {slots[i]} is not in 0 .. {self.size - 1}")
            if not 0 <= tokens[i] < c.vocab_size:
                raise IndexError(f"token {tokens[i]} is not in the vocabulary, 0 to {c.vocab_size - 1}")
            if positions[i] >= c.block_size or positions[i] not in (0, self.next[slots[i]]):
                raise IndexError(f"position {positions[i]} is not the next of stream {slots[i]}: {self.next[slots[i]]} of "
                                 f"{c.block_size}, or 0")
        self.steps += 1
        for i in range(n):
            if self.stepped[slots[i]] == self.steps:
                raise ValueError(f"a step takes one token for each of some different streams; stream {slots[i]} comes twice")
            self.stepped[slots[i]] = self.steps
        for i in range(n):
            self.next[slots[i]] = positions[i] + 1
        return n

    def step(self, slots, tokens, positions):
        """Logits [n, V] after tokens[i] at positions[i] of stream slots[i], for n different streams.

        The positions of a stream come in order; 0 begins a new document. A row's bits do not depend on the others.

        Raises
        ------
        ValueError
            For arrays of different lengths, none, or a stream twice.
        IndexError
            For a stream, a token or a position out of range or turn.
        """
        cdef Engine e = self.engine
        cdef int32_t[::1] which = np.array(slots, np.int32), ids = np.array(tokens, np.int32)
        cdef int32_t[::1] at = np.array(positions, np.int32)
        cdef Py_ssize_t n = self.accept(which, ids, at)
        logits = np.empty((n, e.config.vocab_size), e.dtype)
        cdef void *out = address(logits, e.kind(), True, "logits")
        self.begin()
        cdef Workspace w = e.begin()
        with nogil:
            gpt_streams_decode(&e.tables, out, &which[0], &ids[0], &at[0], n, self.p, self.size, &e.config, &self.memory[0], w.pool)
        e.end(w)
        self.at_work = False
        return logits

    def draw(self, slots, tokens, positions, randoms, double temperature):
        """As `step`, but the next tokens, int32 [n]: drawn from randoms[i], of type Random; where that is None, -1."""
        cdef Engine e = self.engine
        cdef int32_t[::1] which = np.array(slots, np.int32), ids = np.array(tokens, np.int32)
        cdef int32_t[::1] at = np.array(positions, np.int32)
        if len(randoms) != which.shape[0]:
            raise ValueError(f"{len(randoms)} random streams are not one for each of {which.shape[0]} streams")
        cdef Py_ssize_t i, n = self.accept(which, ids, at)
        cdef Random random
        self.begin()
        for i in range(n):
            random = randoms[i]
            self.randoms[i] = 0 if random is None else <Py_ssize_t> &random.state
        drawn = np.empty(n, np.int32)
        cdef int32_t[::1] out = drawn
        cdef mgf_random **from_where = <mgf_random **> &self.randoms[0]
        cdef Workspace w = e.begin()
        with nogil:
            gpt_streams_draw(&e.tables, &out[0], from_where, temperature, &which[0], &ids[0], &at[0], n, self.p, self.size, &e.config, &self.memory[0], w.pool)
        e.end(w)
        self.at_work = False
        return drawn
