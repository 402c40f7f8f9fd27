"""Arguments of the kernels, of any shapes, layouts, dtypes, overlaps and values.

They are refused with nothing written, or the result is the NumPy twin's, and nothing but the outputs is written.
"""

import inspect
from types import SimpleNamespace

import numpy as np

from microgpt_fast import backends, ops
from microgpt_fast.backends import numpy_backend as twin
from microgpt_fast.native.shapes import ARGUMENTS

from ..arrays import LAYOUTS, ODD_DTYPES, Arena
from ..hostile import check_message

BACKEND = backends.load()
KERNELS = [*ARGUMENTS]
INTEGERS = {"tokens": "V", "targets": "V", "positions": "T", "lengths": "T_max", "cu_seqlens": "N"}
NUMBERS = [None, -1, 0, 1, 2, 1.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), 2**31, 2**63, 2**70, "1", "x",
           [], {}, True, "relu", "gelu", b"relu"]  # fmt: skip
INDICES = [-1, -(2**31), 2**31 - 1, 2**31, 2**32, 2**63 - 1, -(2**63)]
THINGS = [None, [], [[]], "x", 3, 2.5, {}, [[1.0, 2.0], [3.0]], [None], ["x"], (), object]
COUNT = np.arange(1000)
PARAMETERS = {kernel: inspect.signature(getattr(ops, kernel)).parameters for kernel in KERNELS}


def make(random):
    """A kernel, sizes, and what is odd about its arguments."""
    kernel = random.choice(KERNELS)
    outputs, inputs = ARGUMENTS[kernel]
    letters = dict.fromkeys(size for argument in [*outputs, *inputs] for size in argument.sizes)
    sizes = {letter: random.choice([1, 1, 2, 2, 3, 4, 5, 0, 9]) for letter in letters}
    names = [argument.name for argument in [*inputs, *outputs]]
    names += ["cu_seqlens"] * ("cu_seqlens" in PARAMETERS[kernel])
    changes = {}
    for _ in range(random.choice([0, 0, 1, 1, 1, 2, 3])):
        what = random.choice(["shape", "dtype", "layout", "layout", "onto", "onto", "value", "thing"])
        changes[random.choice(names)] = (what, random.randrange(1 << 16))
    constants = {}
    for name, parameter in PARAMETERS[kernel].items():
        is_given = parameter.kind == inspect.Parameter.KEYWORD_ONLY and name not in ("out", "backend", *names)
        if is_given and (parameter.default is inspect.Parameter.empty or random.random() < 0.3):
            good = {"step": 3, "lr": 0.1, "activation": random.choice(["relu", "relu2", "gelu", "silu"])}
            good |= {"vocab_size": sizes.get("V"), "block_size": sizes.get("T"), "eps": 1e-5, "scale": 0.5}
            constants[name] = random.choice(NUMBERS) if random.random() < 0.2 else good.get(name, 1)
    return SimpleNamespace(
        kernel=kernel,
        sizes=sizes,
        dtype=random.choice(["float32", "float64"]),
        changes=changes,
        constants=constants,
        out=random.choice(["none", "all", "all", "some", "odd"]),
    )


def call(case, backend):
    """Make the arguments, and call: (the arena, a copy of its memory before, the arrays, the results or an error)."""
    arena, arrays = Arena(), {}
    outputs, inputs = ARGUMENTS[case.kernel]
    sizes = {argument.name: argument.sizes for argument in [*inputs, *outputs]}
    for name in {**sizes, "cu_seqlens": None}:
        if name in sizes or name in PARAMETERS[case.kernel]:
            shape = [case.sizes[size] for size in sizes[name]] if name in sizes else [2]
            arrays[name] = _array(arena, name, shape, case)
    given = {name: arrays[name] for name in PARAMETERS[case.kernel] if name in arrays}
    if case.out != "none" and "out" in PARAMETERS[case.kernel]:
        out = [arrays[argument.name] for argument in outputs]
        if case.out == "some":
            out[0] = None
        given["out"] = {"odd": out[0]}.get(case.out, out[0] if len(out) == 1 else tuple(out))
    before = arena.memory.copy()
    try:
        with np.errstate(all="ignore"):
            results = getattr(ops, case.kernel)(**given, **case.constants, backend=backend)
    except (TypeError, ValueError, IndexError) as error:
        return arena, before, [], error
    if case.kernel == "adamw_step":
        results = [arrays[name] for name in "pmv"]
    results = [
        result
        for result in (results if isinstance(results, (tuple, list)) else [results])
        if result is not None
    ]
    return arena, before, results, None


def _array(arena, name, shape, case):
    """An argument, with what is odd about it."""
    what, number = case.changes.get(name, ("", 0))
    dtype = "int32" if name in INTEGERS else case.dtype
    layout, onto = "contiguous", None
    if what == "shape" and shape:
        place = number % len(shape)
        shape = [
            [*shape[:place], shape[place] + 1, *shape[place + 1 :]],
            [*shape[:place], max(0, shape[place] - 1), *shape[place + 1 :]],
            [*shape, 1],
            shape[:-1],
            [],
        ][number % 5]
    elif what == "dtype":
        dtype = [*ODD_DTYPES, "float32", "float64"][number % (len(ODD_DTYPES) + 2)]
    elif what == "layout":
        layout = LAYOUTS[number % len(LAYOUTS)]
    elif what == "onto":
        onto = number
    elif what == "thing":
        return THINGS[number % len(THINGS)]
    array = arena.array(shape, dtype, layout, onto)
    if name in INTEGERS and array.dtype.kind in "iu" and array.flags.writeable and (onto is None or onto % 2):
        limit = case.sizes.get(INTEGERS[name], len(COUNT))  # rope takes any position
        if name == "cu_seqlens":
            array[...] = 0
            array.flat[-1:] = limit
        elif name == "lengths":
            array[...] = 1 + (COUNT[: array.size] % max(1, limit)).reshape(array.shape)
        else:
            array[...] = (COUNT[: array.size] % max(1, limit)).reshape(array.shape)
        if what == "value" and array.size:
            wide = array.astype(np.int64)
            wide.flat[number % wide.size] = INDICES[number % len(INDICES)] if number % 3 else limit
            return wide
    if name == "v" and case.kernel == "adamw_step" and array.dtype.kind == "f" and array.flags.writeable:
        np.abs(array, out=array)
    return array


def run(case):
    """Call it on the fastest backend and on the twin."""
    try:
        arena, before, results, error = call(case, BACKEND)
        _, _, wanted, wanted_error = call(case, twin)
    except MemoryError:
        return
    assert type(error) is type(wanted_error), (error, wanted_error)
    assert not arena.touched(before, results)
    if error is not None:
        check_message(error)
        return
    if any(isinstance(value, (int, float)) and not abs(value) < 100 for value in case.constants.values()):
        return  # nothing is left of float32's precision
    precision = 1e-3 if case.dtype == "float32" else 1e-8
    for got, want in zip(results, wanted, strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        largest = np.abs(want).max(initial=1)
        # beyond, as where numbers are read from another array's bits, an order of summing may overflow
        if largest < 1e10:
            assert np.abs(got - want).max(initial=0) <= precision * largest
