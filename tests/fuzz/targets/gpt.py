"""Arguments of the whole model: documents, parameters and constants of any kind.

They are refused with nothing written, or the result is the NumPy backend's, and nothing but the outputs is written.
"""

from types import SimpleNamespace

import numpy as np

from microgpt_fast import GPTConfig, backends, ops
from microgpt_fast.backends import numpy_backend as twin

from ..arrays import LAYOUTS, ODD_DTYPES, Arena
from ..hostile import check_message
from .kernels import INDICES, NUMBERS, THINGS

BACKEND = backends.load()
CONFIGS = [
    GPTConfig(5, n_embd=4, n_head=2, n_layer=1, block_size=6),
    GPTConfig(5, n_embd=16, n_head=4, n_layer=1, block_size=6),  # the narrow path
]
OUTPUTS = {"gpt_forward": ["logits"], "gpt_backward": ["out"], "gpt_train_steps": ["params", "m", "v"]}
CONSTANTS = {
    "beta1": 0.9,
    "beta2": 0.9,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "first_step": 2,
    "batch_size": 1,
    "lr": [0.01],
}


def make(random):
    """A function, documents, and what is odd."""
    function = random.choice([*OUTPUTS])
    names = ["tokens", "starts", "lengths", "params", *OUTPUTS[function]]
    lengths = [random.choice([1, 2, 3, 6]) for _ in range(random.choice([0, 1, 1, 2, 3]))]
    constants = {}
    if function == "gpt_train_steps":
        constants = {"lr": [0.01] * len(lengths)}
        for name in random.sample([*CONSTANTS], random.choice([0, 0, 1, 2])):
            constants[name] = random.choice(NUMBERS) if random.random() < 0.3 else CONSTANTS[name]
    changes = {}
    for _ in range(random.choice([0, 1, 1, 2])):
        what = random.choice(["shape", "dtype", "layout", "onto", "value", "value", "thing"])
        changes[random.choice(names)] = (what, random.randrange(1 << 16))
    return SimpleNamespace(
        function=function,
        config=random.randrange(len(CONFIGS)),
        dtype=random.choice(["float32", "float64"]),
        lengths=lengths,
        tokens=[random.randrange(5) for _ in range(sum(lengths) + len(lengths))],
        with_output=random.random() < 0.7,
        changes=changes,
        constants=constants,
    )


def call(case, backend):
    """(the arena, a copy of its memory before, the arrays that may be written, the results or an error)."""
    config, arena = CONFIGS[case.config], Arena(1 << 17)
    starts = [sum(case.lengths[:i]) + i for i in range(len(case.lengths))]
    values = {"starts": starts, "lengths": case.lengths, "tokens": case.tokens}
    dtypes = {"starts": "int64", "lengths": "int32", "tokens": "int32"}
    arrays = {}
    for name in ["params", *OUTPUTS[case.function], *values]:
        shape = [len(values[name])] if name in values else [config.num_params]
        if name == "logits":
            shape = [sum(case.lengths), config.vocab_size]
        arrays[name] = _array(arena, case, name, shape, dtypes.get(name, case.dtype), values.get(name))
    outputs = OUTPUTS[case.function] if case.with_output or case.function == "gpt_train_steps" else []
    given = {name: array for name, array in arrays.items() if name in ("params", *outputs, *values)}
    before = arena.memory.copy()
    try:
        with np.errstate(all="ignore"):
            results = getattr(ops, case.function)(**given, config=config, **case.constants, backend=backend)
    except (TypeError, ValueError, IndexError) as error:
        return arena, before, [], [], error
    results = list(results) if isinstance(results, tuple) else [results]
    written = [given[name] for name in outputs if given[name] is not None]
    return arena, before, written, [*results, *written], None


def _array(arena, case, name, shape, dtype, values):
    """An argument, with what is odd about it."""
    what, number = case.changes.get(name, ("", 0))
    layout, onto = "contiguous", None
    if what == "shape":
        shape = [[shape[0] + 1, *shape[1:]], [max(0, shape[0] - 1), *shape[1:]], [*shape, 1], []][number % 4]
    elif what == "dtype":
        dtype = [*ODD_DTYPES, "float32", "float64"][number % (len(ODD_DTYPES) + 2)]
    elif what == "layout":
        layout = LAYOUTS[number % len(LAYOUTS)]
    elif what == "onto":
        onto = number
    elif what == "thing":
        return THINGS[number % len(THINGS)]
    array = arena.array(shape, dtype, layout, onto)
    if (
        values is not None
        and array.shape == (len(values),)
        and array.dtype.kind in "iu"
        and array.flags.writeable
    ):
        array[...] = np.array(values, np.int64)
        if what == "value" and len(values):
            wide = array.astype(np.int64)
            wide[number % len(wide)] = [*INDICES, 5, 6, 7][number % (len(INDICES) + 3)]
            return wide
    if name in ("params", "m", "v") and array.dtype.kind == "f" and array.flags.writeable:
        array *= array.dtype.type(0.2)
        if name == "v":
            np.abs(array, out=array)
    return array


def run(case):
    """Call it on the fastest backend and on NumPy's."""
    try:
        arena, before, written, results, error = call(case, BACKEND)
        *_, wanted, wanted_error = call(case, twin)
    except MemoryError:
        return
    assert type(error) is type(wanted_error), (error, wanted_error)
    assert not arena.touched(before, written)
    if error is not None:
        check_message(error)
        return
    precision = 3e-3 if case.dtype == "float32" else 1e-6
    numbers = [abs(value) for value in case.constants.values() if isinstance(value, (int, float))]
    smallest = min(case.constants.get("beta2", 1), case.constants.get("eps", 1))
    if smallest < 1e-30 or not all(number < 100 for number in numbers):
        return  # a step is g / |g|, whose sign is that of rounding, or nothing is left of float32's precision
    for got, want in zip(results, wanted, strict=True):
        finite = np.isfinite(want)
        assert got.dtype == want.dtype and got.shape == want.shape and (np.isfinite(got) == finite).all()
        largest = np.abs(want[finite]).max(initial=1)
        assert np.abs(got[finite] - want[finite]).max(initial=0) <= precision * largest
