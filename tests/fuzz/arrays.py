"""Arrays of any layout in one piece of memory, so that everything that a call writes is seen.

An array is described by (shape, dtype, layout, place), all plain values: it can be made twice.
"""

import math

import numpy as np

GAP = 64  # bytes between arrays that nobody may touch
NUMBERS = np.random.default_rng(0).standard_normal(1 << 14)
LAYOUTS = [
    "contiguous",
    "every second",
    "wide rows",
    "fortran",
    "backwards",
    "unaligned",
    "read-only",
    "broadcast",
]
ODD_DTYPES = [
    "float16",
    "int64",
    "int32",
    "uint8",
    "bool",
    "complex128",
    ">f8",
    ">i4",
    "object",
    "U3",
    "M8[s]",
    "V4",
]


class Arena:
    """Memory for the arrays of one call."""

    def __init__(self, size=1 << 16):
        self.memory = np.full(size, 0xA5, np.uint8)
        self._end = GAP
        self._starts = []

    def array(self, shape, dtype, layout="contiguous", onto=None):
        """A new array of these; `onto` is the number of an earlier one whose memory it shares."""
        dtype = np.dtype(dtype)
        if dtype.hasobject:
            return np.full(shape, "x", dtype)
        shape = tuple(shape)
        held = {
            "every second": (*shape[:-1], 2 * shape[-1]) if shape else shape,
            "wide rows": (*shape[:-1], shape[-1] + 3) if shape else shape,
            "fortran": shape[::-1],
            "broadcast": (1,) * len(shape),
        }.get(layout, shape)
        size = math.prod(held) * dtype.itemsize
        start = self._end + (layout == "unaligned")
        if onto is not None and self._starts:
            start = self._starts[onto % len(self._starts)] // 16 * 16
        self._starts.append(start)
        if start + size + GAP > self.memory.size:
            raise MemoryError
        self._end = max(self._end, (start + size + 2 * GAP) // GAP * GAP)
        array = self.memory[start : start + size].view(dtype).reshape(held)
        if dtype.kind == "f":
            array.reshape(-1)[:] = NUMBERS[start % 1000 :][: array.size]
        elif onto is None:
            array[...] = np.zeros(array.shape, dtype)
        if layout == "every second" and shape:
            array = array[..., ::2]
        elif layout == "wide rows" and shape:
            array = array[..., : shape[-1]]
        elif layout == "fortran":
            array = array.T
        elif layout == "backwards" and shape:
            array = array[::-1]
        elif layout == "broadcast":
            array = np.broadcast_to(array, shape)
        elif layout == "read-only":
            array.flags.writeable = False
        return array

    def touched(self, before, outputs):
        """Whether anything but these arrays has changed since `before`, a copy of the memory."""
        now = self.memory.copy()
        for array in outputs:
            start = array.__array_interface__["data"][0] - self.memory.ctypes.data
            if 0 <= start < self.memory.size:
                for memory in (now, before):
                    np.ndarray(array.shape, array.dtype, memory.data, start, array.strides)[...] = 0
        return not np.array_equal(now, before)
