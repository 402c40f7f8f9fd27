# The short way through ops: a call whose arrays are plainly right is checked and made in a microsecond. Whatever is not
# (another kind of array, a copy to be made, an error to be named) is NotImplemented here, and nothing has been written.

from cpython.buffer cimport PyBuffer_IsContiguous

cdef object ndarray = np.ndarray, np_empty = np.empty, np_zeros = np.zeros
cdef object FLOAT32 = np.dtype(np.float32), FLOAT64 = np.dtype(np.float64), INT32 = np.dtype(np.int32)
cdef object INDICES = frozenset(("tokens", "positions", "targets", "lengths"))

cdef object MOST_INT = 2**62  # nobody means a larger constant
cdef enum:
    MOST = 24  # arguments of a kernel, arrays among them, sizes

cdef enum source:  # of an argument of the C function
    ARRAY, SIZE, STRIDE, OFFSETS, CONSTANT

cdef struct plain_array:
    char *start
    char *end
    char type  # 'f', 'd' or 'i', as in the struct module
    int ndim
    Py_ssize_t shape[4]
    bint read_only


cdef bint look(object array, plain_array *seen) except -1:
    """What kind of array this is; False unless it is NumPy's own, contiguous, aligned and not empty."""
    cdef Py_buffer view
    cdef int i
    if type(array) is not ndarray:
        return False
    try:
        PyObject_GetBuffer(array, &view, PyBUF_FORMAT | PyBUF_STRIDES)
    except (BufferError, ValueError):
        return False
    seen.start, seen.end = <char *> view.buf, <char *> view.buf + view.len
    seen.type, seen.ndim, seen.read_only = view.format[0], view.ndim, view.readonly
    plain = (
        view.format[1] == 0 and view.len > 0 and view.ndim <= 4
        and <size_t> view.buf % <size_t> view.itemsize == 0 and PyBuffer_IsContiguous(&view, b"C")
    )
    if plain:
        for i in range(view.ndim):
            seen.shape[i] = view.shape[i]
    PyBuffer_Release(&view)
    return plain


@cython.auto_pickle(False)
cdef class QuickCall:
    """A kernel behind its checks.

    Parameters
    ----------
    outputs, inputs : sequences of shapes.Argument
    order : sequence of str
        The names of the C function's arguments.
    function : function
        This module's, of the same name.
    """

    cdef object function
    cdef list names, optional, adds, constants
    cdef dict size_of
    cdef int count, outputs, arguments, sizes, lengths, t_max, d, n, b
    cdef int dims[MOST]
    cdef int letters[MOST][4]
    cdef int sources[MOST]
    cdef int which[MOST]

    def __init__(self, outputs, inputs, order, function):
        arrays = [*outputs, *inputs]
        self.function = function
        self.names = [a.name for a in arrays]
        self.optional, self.adds = [a.optional for a in arrays], [a.adds for a in arrays]
        self.count, self.outputs, self.arguments = len(arrays), len(outputs), len(order)
        letters = list(dict.fromkeys([*(letter for a in arrays for letter in a.sizes), "N", "D", "B"]))
        self.size_of = {letter: i for i, letter in enumerate(letters)}
        self.sizes, self.constants = len(letters), list(order)
        self.n, self.d, self.b = (self.size_of[letter] for letter in "NDB")
        self.lengths = self.names.index("lengths") if "lengths" in self.names else -1
        self.t_max = self.size_of.get("T_max", -1)
        for i, a in enumerate(arrays):
            self.dims[i] = len(a.sizes)
            for j, letter in enumerate(a.sizes):
                self.letters[i][j] = self.size_of[letter]
        for i, name in enumerate(order):
            if name in self.names:
                self.sources[i], self.which[i] = ARRAY, self.names.index(name)
            elif name in self.size_of:
                self.sources[i], self.which[i] = SIZE, self.size_of[name]
            elif name.startswith("ld_"):
                self.sources[i], self.which[i] = STRIDE, self.names.index(name[3])
            else:
                self.sources[i] = OFFSETS if name == "cu_seqlens" else CONSTANT

    def __call__(self, dict inputs, out, sizes, without, added, dict constants):
        """The results as ops returns them, or NotImplemented."""
        cdef plain_array seen[MOST]
        cdef Py_ssize_t size[MOST]
        cdef int i, j
        cdef char type = 0
        cdef list arrays = [None] * self.count
        for i in range(self.sizes):
            size[i] = -1
        for name in sizes:
            size[self.size_of[name]] = sizes[name]
        for i in range(self.count):
            seen[i].start = seen[i].end = NULL
        for i in range(self.outputs, self.count):
            value = inputs[self.names[i]]
            arrays[i] = value
            if value is None:
                if not self.optional[i]:
                    return NotImplemented
                continue
            if not look(value, &seen[i]) or not self.fits(i, &seen[i], size):
                return NotImplemented
            if seen[i].type == c'i':
                if not self.is_index(i):
                    return NotImplemented
            elif self.is_index(i) or (type and seen[i].type != type):
                return NotImplemented
            else:
                type = seen[i].type
        if type != c'f' and type != c'd':
            return NotImplemented
        if not self.given(arrays, out, without, seen, size, type):
            return NotImplemented
        if self.lengths >= 0 and not self.within(&seen[self.lengths], size[self.t_max]):
            return NotImplemented
        for i in range(self.outputs):
            if arrays[i] is None and self.names[i] not in without:
                shape = tuple([size[self.letters[i][j]] for j in range(self.dims[i])])
                make = np_zeros if self.adds[i] or self.names[i] in added else np_empty
                arrays[i] = make(shape, FLOAT32 if type == c'f' else FLOAT64)
        return self.call(arrays, seen, size, constants)

    cdef bint is_index(self, int i):
        return self.names[i] in INDICES

    cdef bint fits(self, int i, plain_array *seen, Py_ssize_t *size):
        """Whether an array has the sizes known so far; those that are not known become known."""
        cdef int j
        if seen.ndim != self.dims[i]:
            return False
        for j in range(seen.ndim):
            if size[self.letters[i][j]] < 0:
                size[self.letters[i][j]] = seen.shape[j]
            elif size[self.letters[i][j]] != seen.shape[j]:
                return False
        return True

    cdef bint given(self, list arrays, out, without, plain_array *seen, Py_ssize_t *size, char type) except -1:
        """Whether the caller's outputs can be written to, and lie apart from all else."""
        cdef int i, j
        if out is None:
            return True
        if self.outputs == 1:
            out = (out,)
        elif not isinstance(out, (tuple, list)) or len(out) != self.outputs:
            return False
        for i in range(self.outputs):
            value = out[i]
            arrays[i] = value
            if value is None:
                continue
            if self.names[i] in without or not look(value, &seen[i]) or seen[i].type != type or seen[i].read_only:
                return False
            if not self.fits(i, &seen[i], size):
                return False
            for j in range(self.count):
                if (j < i or j >= self.outputs) and seen[i].start < seen[j].end and seen[j].start < seen[i].end:
                    return False
        return True

    cdef bint within(self, plain_array *lengths, Py_ssize_t most):
        """Whether every length is from 1 to `most`."""
        cdef int32_t *values = <int32_t *> lengths.start
        cdef Py_ssize_t b
        for b in range(lengths.shape[0]):
            if not 1 <= values[b] <= most:
                return False
        return True

    cdef object offsets(self, given, plain_array *outputs, Py_ssize_t *size):
        """cu_seqlens, made for one document if there is none; None unless it rises from 0 to N, apart from the outputs."""
        cdef plain_array seen
        cdef int32_t *values
        cdef Py_ssize_t b
        if given is None:
            given = np_empty(2, INT32)
            look(given, &seen)
            (<int32_t *> seen.start)[0], (<int32_t *> seen.start)[1] = 0, size[self.n]
        elif not look(given, &seen) or seen.type != c'i' or seen.ndim != 1:
            return None
        for b in range(self.outputs):
            if outputs[b].start < seen.end and seen.start < outputs[b].end:
                return None
        values, size[self.b] = <int32_t *> seen.start, seen.shape[0] - 1
        if values[0] != 0 or values[size[self.b]] != size[self.n]:
            return None
        for b in range(size[self.b]):
            if values[b] > values[b + 1]:
                return None
        return given

    cdef object call(self, list arrays, plain_array *seen, Py_ssize_t *size, dict constants):
        """Call the kernel; where an index is out of range, or an argument is not plain, NotImplemented."""
        cdef list arguments = [None] * self.arguments
        cdef Py_ssize_t stride
        cdef int i, j, array
        for i in range(self.arguments):  # before the sizes: cu_seqlens tells B
            if self.sources[i] == OFFSETS:
                arguments[i] = self.offsets(constants["cu_seqlens"], seen, size)
                if arguments[i] is None:
                    return NotImplemented
        for i in range(self.arguments):
            if self.sources[i] == ARRAY:
                arguments[i] = arrays[self.which[i]]
            elif self.sources[i] == SIZE:
                arguments[i] = size[self.which[i]]
            elif self.sources[i] == STRIDE:
                array, stride = self.which[i], 1
                for j in range(1, self.dims[array]):
                    stride *= size[self.letters[array][j]]
                arguments[i] = stride
            elif self.sources[i] == CONSTANT:
                value = constants[self.constants[i]]
                if value is None and self.constants[i] == "scale":
                    value = size[self.d] ** -0.5
                if not isinstance(value, (int, float)) or (isinstance(value, int) and not -MOST_INT < value < MOST_INT):
                    return NotImplemented
                arguments[i] = value
        bad = self.function(*arguments)
        if bad is not None and bad >= 0:
            return NotImplemented
        return arrays[0] if self.outputs == 1 else tuple(arrays[:self.outputs])
