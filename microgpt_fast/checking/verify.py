"""Training compared, number by number, with the scalar reference or the user's microgpt.py.

Two comparisons. *Single steps*: the engine begins each step where the reference begins it, with the
reference's parameters and Adam's moments, so that the first wrong step and its wrong tensors can be named and
no earlier difference blurs a later one. *The run*: the engine trains on its own from the initial parameters,
as `train` does.
"""

import random
from typing import NamedTuple

import numpy as np

from ..backends import name_of
from ..config import UsageError
from ..data.load import BUILTIN
from ..parameters import products
from ..reference import ReferenceGPT, initial_parameters
from ..training.trainer import Trainer
from .differences import Difference, difference, distance, ordered
from .promises import FLOOR, PROMISES
from .relu_sides import RECTIFIERS, first_changed_side

MOST_PRODUCTS = 10**7  # of scalars in a document: they take some gigabytes, and minutes for a step
PRINTED_STEPS = 1000  # beyond these the rounding of fast numerics begins to show
PARTS = ("gradient", "first moment", "second moment", "parameters")


class State(NamedTuple):
    """A step of the reference: its loss, its gradient, and the state that it leaves; flat float64 [P]."""

    loss: float
    gradient: np.ndarray
    first_moment: np.ndarray
    second_moment: np.ndarray
    parameters: np.ndarray


class Verification:
    """Compares the first steps of one training run.

    Parameters
    ----------
    data : path, optional
        A text file; None is the built-in list of first names.
    preset : str
    compare_steps : int
        How many of the run's `num_steps` are compared.
    original : original.Program, optional
        A copy of microgpt.py, which takes the place of reference.py; the run has its constants.
    **options
        As for `Trainer`.

    Attributes
    ----------
    holds : bool
        Whether everything so far is as promised; all of it when `lines` has ended.
    wrong : dict
        What is not: step, counting from 1, -> what -> names of tensors, if it is about tensors.
    note : str or None
        Why a float64 run is not exact, where nobody asked for that.

    Raises
    ------
    UsageError
        for options that are not allowed.
    OSError
        if the data cannot be read.
    """

    def __init__(self, data=None, *, preset="microgpt", compare_steps=20, original=None, **options):
        if compare_steps < 1:
            raise UsageError(f"compare_steps must be at least 1, not {compare_steps}")
        if original is not None:
            for name, value in original.constants.items():
                if options.setdefault(name, value) != value:
                    raise UsageError(f"{name} is {value} in {original.path}, not {options[name]}")
        self.program = original
        self.data = BUILTIN if data is None else data
        self.trainer = Trainer(data, preset=preset, **options)
        self.train, self.model = self.trainer.config, self.trainer.model
        if self.train.num_steps < 1:
            raise UsageError("nothing to compare: num_steps must be at least 1")
        tokens = self.trainer.batches.longest
        count = products(self.model.config) * tokens
        if count > MOST_PRODUCTS:
            raise UsageError(
                f"verify computes with single scalars, and a document of {tokens} tokens would take {count:,} products "
                f"in this model, more than {MOST_PRODUCTS:,}: choose a smaller n_layer, n_embd or block_size"
            )
        self.count = min(compare_steps, self.train.num_steps)
        self.dtype = self.model.parameters.dtype
        self.is_exact = self.model.numerics == "exact"
        self.promise = PROMISES[self.model.numerics, self.model.dtype]
        self.tensors = _slices(self.model.config)
        self.worst = {name: dict.fromkeys(PARTS, Difference()) for name in self.tensors}
        self.note = self.trainer.note
        self.wrong = {}
        self.changed_sides = {}  # step -> its first ReLU on the other side

    @property
    def holds(self):
        return not self.wrong

    def lines(self):
        """Compare, and yield the lines of the report; the losses one by one, as the reference takes its time.

        Raises
        ------
        UsageError
            if the reference fails: training diverged, or the original does not run here.
        """
        yield from self._head()
        reference = self._reference()
        before = [next(reference), *np.zeros((2, self.model.config.num_params))]
        initial = difference(self.model.parameters, before[0])
        if initial.ulps:
            self._note(0, "initial parameters")
        yield f"initial parameters: {initial}"
        yield ""
        losses, parameters = self._run()
        yield f"{'step':>5}  {'loss of the reference':21}  {'here'}"
        wanted = np.empty(self.count)
        for step in range(self.count):
            state = self._next(reference, step)
            self._compare_step(step, before, state)
            before = state.parameters, state.first_moment, state.second_moment
            wanted[step] = state.loss
            yield f"{step + 1:5d}  {float(state.loss)!r:21}  {self._loss_cell(losses[step], state.loss)}"
        yield ""
        yield from self._table(parameters, before[0])
        yield ""
        yield from self._losses(losses, wanted)
        if self.model.dtype == "float32":
            yield self._relu_line()
        yield from self._verdict()

    def _head(self):
        model, train = self.model, self.train
        where = " ".join(filter(None, (name_of(model.backend), getattr(model.engine, "isa", None))))
        against = "reference.py" if self.program is None else self.program.path
        yield f"{where}, {self.model.dtype}, {model.numerics}, against {against}"
        yield (
            f"{len(self.trainer.corpus)} documents, {model.config.vocab_size} tokens, "
            f"{model.config.num_params} parameters; steps 1 to {self.count} of {train.num_steps}"
        )
        yield f"promised: {self.promise.text}"

    def _reference(self):
        """First the initial parameters, then for each step the fields of a State."""
        P = self.model.config.num_params
        if self.program is None:
            yield from reference_steps(self.data, self.model.config, self.train)
            return
        from .original import steps

        records = steps(self.program, self.data, self.count, P)
        yield next(records)
        for record in records:
            yield record[0], *record[1:].reshape(4, P)

    def _next(self, reference, step):
        try:
            state = State(*next(reference))
            if not np.isfinite(state.loss):
                raise ArithmeticError(f"its loss is {state.loss}")
        except UsageError:
            raise
        except (ArithmeticError, ValueError) as error:
            raise UsageError(f"the reference fails at step {step + 1}: {error}: training diverged") from None
        return state

    def _train(self, parameters, moments, first, count):
        """The engine's steps first ... first + count - 1, in one call; returns their losses."""
        train, corpus, B = self.train, self.trainer.corpus, self.train.batch_size
        batch = corpus.batches(self.trainer.order, first * B, count * B, self.model.config.block_size)
        rates = train.learning_rate * (1 - np.arange(first, first + count) / train.num_steps)
        adam = (train.beta1, train.beta2, train.eps_adam, 0.0)
        losses = np.empty(count)
        self.model.engine.train_steps(
            losses, parameters, *moments, corpus.tokens, *batch, B, rates, adam, first + 1
        )
        return losses

    def _run(self):
        """The run in one call: its losses and final parameters, which must equal those of one call per step."""
        ends = []
        for calls in (1, self.count):
            parameters = self.model.parameters.copy()
            moments = np.zeros((2, len(parameters)), self.dtype)
            size = self.count // calls
            losses = [self._train(parameters, moments, i * size, size) for i in range(calls)]
            ends.append((np.concatenate(losses), parameters))
        (losses, parameters), (single_losses, single_parameters) = ends
        for step in np.flatnonzero(ordered(losses) != ordered(single_losses))[:1]:
            self._note(int(step) + 1, "loss, in one call for all steps")
        if ordered(parameters).tobytes() != ordered(single_parameters).tobytes():
            self._note(self.count, "parameters, after one call for all steps")
        return losses, parameters

    def _compare_step(self, step, before, after):
        """One step of the engine from the reference's state."""
        model, train, corpus = self.model, self.train, self.trainer.corpus
        batch = corpus.batches(
            self.trainer.order, step * train.batch_size, train.batch_size, model.config.block_size
        )
        parameters, *moments = (array.astype(self.dtype) for array in before)
        gradient = np.zeros_like(parameters)
        losses = model.engine.backward(gradient, parameters, corpus.tokens, *batch)
        changed = None
        has_sides = model.config.activation in RECTIFIERS and model.config.mlp == "plain"
        if model.dtype == "float32" and has_sides:
            changed = first_changed_side(model.backend, model.config, before[0], corpus.tokens, *batch)
            if changed:
                self.changed_sides[step + 1] = changed
        [loss] = self._train(parameters, moments, step, 1)
        for name, value in (("loss", losses.mean()), ("loss in training", loss)):
            self._judge(step + 1, name, None, difference(value, after.loss, 1.0), self.promise.loss)

        jumps = changed is not None and model.config.activation == "relu"
        updated = after.parameters if self.is_exact else self._adam(step, before[0], *moments)
        for part, got, wanted, right, bound in zip(
            PARTS,
            (gradient, *moments, parameters),
            after[1:],
            (*after[1:4], updated),
            (self.promise.gradient, self.promise.moment, self.promise.moment, self.promise.update),
        ):
            floor = FLOOR * np.abs(right).max()
            if self.model.dtype == "bfloat16" and part != "parameters":
                self._judge(step + 1, part, None, Difference(1, distance(got, right)), bound)
            for name, where in self.tensors.items():
                worst = self.worst[name]
                worst[part] = worst[part].or_larger(difference(got[where], wanted[where]))
                if self.model.dtype == "bfloat16" and part != "parameters":
                    continue
                if part == "parameters" or not jumps:
                    self._judge(step + 1, part, name, difference(got[where], right[where], floor), bound)

    def _adam(self, step, parameters, first_moment, second_moment):
        """The parameters after a step with these new moments."""
        train = self.train
        m, v = first_moment.astype(np.float64), second_moment.astype(np.float64)
        corrected = m / (1 - train.beta1 ** (step + 1)), v / (1 - train.beta2 ** (step + 1))
        rate = train.learning_rate * (1 - step / train.num_steps)
        return parameters - rate * corrected[0] / (np.sqrt(corrected[1]) + train.eps_adam)

    def _judge(self, step, what, tensor, error, bound):
        if error.ulps > 0 if self.is_exact else not error.relative <= bound:
            self._note(step, what, tensor)

    def _note(self, step, what, tensor=None):
        self.wrong.setdefault(step, {}).setdefault(what, []).append(tensor)

    def _table(self, parameters, wanted):
        """Each tensor's largest differences; `parameters` are the run's in the end."""
        yield "largest difference of a tensor, in units in the last place and relative to its largest element"
        yield f"{'':16}  {'in single steps, each begun where the reference begins it':58}  in the run"
        yield _row("tensor", "gradient", "moments", "parameters", f"parameters, step {self.count}")
        for name, where in self.tensors.items():
            end = difference(parameters[where], wanted[where])
            if self.is_exact and end.ulps:
                self._note(self.count, "parameters in the run", name)
            gradient, first, second, single = self.worst[name].values()
            yield _row(name, gradient, first.or_larger(second), single, end)

    def _loss_cell(self, loss, wanted):
        error = difference(loss, wanted)
        if not error.ulps:
            return "identical"
        printed = f", printed {loss:.4f}" if f"{loss:.4f}" != f"{wanted:.4f}" else ""
        size = error if self.dtype == np.float64 else f"{error.relative:.1e}"
        return f"{float(loss)!r:21}  {size}{printed}"

    def _losses(self, losses, wanted):
        """The first steps of the run whose losses differ."""
        bits = np.flatnonzero(ordered(losses) != ordered(wanted))
        printed = [step for step in range(self.count) if f"{losses[step]:.4f}" != f"{wanted[step]:.4f}"]
        for what, steps in (("bits", bits), ("printed (4 decimals)", printed)):
            first = f"step {steps[0] + 1}, {len(steps)} of {self.count} in all" if len(steps) else "none"
            yield f"first loss of the run that differs, {what}: {first}"
        for steps, promised in ((bits, self.is_exact), (printed, self.dtype == np.float64)):
            if promised and len(steps) and (self.is_exact or steps[0] < PRINTED_STEPS):
                self._note(int(steps[0]) + 1, "loss in the run")

    def _relu_line(self):
        if not self.changed_sides:
            return "first ReLU that changes side: none"
        step, side = next(iter(self.changed_sides.items()))
        document = f"document {side.document}, " if self.train.batch_size > 1 else ""
        return (
            f"first ReLU that changes side: step {step}, layer {side.layer}, {document}"
            f"position {side.position}, unit {side.unit}: {side.float32:.2e} instead of {side.float64:.2e} "
            f"({len(self.changed_sides)} of {self.count} steps have one)"
        )

    def _verdict(self):
        if self.holds:
            yield "verdict: as promised"
            return
        step = min(self.wrong)
        yield f"verdict: NOT as promised, first at {f'step {step}' if step else 'the start'}"
        rank = {name: place for place, name in enumerate(_backward_order(self.tensors))}
        for what, tensors in self.wrong[step].items():
            names = sorted(filter(None, tensors), key=rank.get)
            yield f"  wrong {what}{': ' * bool(names)}{', '.join(names)}"


def reference_steps(data, config, train):
    """Train reference.py from the text on, with nothing but the standard library.

    Parameters
    ----------
    data : path
    config : GPTConfig
    train : TrainConfig

    Yields
    ------
    float64 array [P], then tuples
        First the initial parameters, then the fields of a State, step by step.
    """
    with open(data, encoding="utf-8") as lines:
        texts = [line.strip() for line in lines if line.strip()]
    stream = random.Random(train.seed)
    stream.shuffle(texts)
    symbols = sorted(set("".join(texts)))
    bos = 0 if train.bos == "first" else len(symbols)
    symbols.insert(bos, None)
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    documents = [[bos, *(ids[char] for char in text), bos] for text in texts]
    reference = ReferenceGPT(config, initial_parameters(config, stream, train.init_std, train.zero_init))
    yield _flat(reference.parameters)
    for loss, gradients in reference.train_steps(documents, train):
        yield (
            loss,
            *map(_flat, (gradients, reference.first_moments, reference.second_moments, reference.parameters)),
        )


def _flat(tensors):
    return np.concatenate([np.array(rows, float).ravel() for rows in tensors.values()])


def _slices(config):
    """Where each tensor lies in the flat buffer, by its name."""
    return {parameter.name: parameter.place for parameter in config.parameters()}


def _backward_order(names):
    """As the backward pass reaches them: what is wrong first is nearest to the cause."""
    embeddings = [name for name in ("wpe", "wte", "embd_norm") if name in names]
    layers = [name for name in names if name.startswith("layer")]
    top = [name for name in names if name not in (*embeddings, *layers)]
    return [*top, *reversed(layers), *embeddings]


def _row(name, *cells):
    return (f"{name:16}" + "".join(f"  {cell!s:18}" for cell in cells)).rstrip()
