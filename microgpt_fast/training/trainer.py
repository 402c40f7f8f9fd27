"""Training: reads the data once, then takes chunks of steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import backends
from ..config import UsageError, resolve, stored_dtype
from ..data.batches import make_batches
from ..data.load import Corpus, Source, load_corpus
from ..model import GPT, resolve_numerics
from ..random_stream import seeded
from ..workload import check_memory, default_threads
from . import validation
from .budget import Budget
from .events import Evaluation, Steps
from .one_thread import Guarded, OneThread
from .pace import next_count
from .shards import ShardedSteps
from .steps import take_steps
from .team import Team
from .thread_trial import trial_of


class Trainer:
    """One training run, step by step.

    The random stream first shuffles the documents, then draws the parameters; samples may follow.

    Parameters
    ----------
    data : path, list of pathlib.Path, iterable of str, or Corpus, optional
        See `load_corpus`; None means the built-in list of first names.
    preset : str
        A key of `PRESETS`.
    communicator : mpi4py communicator, optional
        The processes that train this model together, each with a Trainer of the same arguments: see docs/cluster.md.
        They call `events`, `validate` and `moments` together.
    **options
        Any field of `TrainConfig`, or of `GPTConfig` except vocab_size, in place of the preset's.

    Attributes
    ----------
    model : GPT
        Trained in place.
    config : TrainConfig
    corpus : Corpus
    batches : batches.Lines or batches.Blocks
        The order of training, and what is held out.
    random : random stream
        After all draws so far: `generate(run.model, random=run.random)` continues it.
    step, tokens, seconds : int, int, float
        Steps taken, tokens predicted in them, and the time that they and the validations took.
    since : (int, int, float)
        Step, tokens and seconds at the beginning, or when the training was resumed.
    evaluations : list of Evaluation
    whole_loss : float or None
        In the end, the validation loss over everything that is held out, where validations read a sample of it.
    began, reserve : float, float
        When a time budget began, as time.perf_counter() counts: when the Trainer was made, unless it is set. And
        how many seconds of it are kept for what comes after the training.
    stopping : bool
        Set it to end `events` before the last step; any thread may.
    alone : OneThread
        The context in which steps are taken. Two threads can take turns; at once, the second gets a RuntimeError.
    best_parameters : array [P] or None
        With `keep_best`, those of the best validation. At the end the model has them.
    diverged : str or None
        What was not finite. The parameters then are of no use; those of the last checkpoint are.
    ended : str or None
        Why the training ended before its last step, if it did so by itself.
    note : str or None
        Why a float64 run is not exact although fast numerics were not asked for.

    Raises
    ------
    UsageError
        (a ValueError) for options that are not allowed, data that cannot be used, or a model that is too large.
    OSError
        if the data cannot be read.
    """

    def __init__(
        self,
        data: Source | Corpus = None,
        *,
        preset: str = "microgpt",
        communicator: Any = None,
        **options: Any,
    ) -> None:
        self.began, self.reserve = perf_counter(), 0.0
        make_model_config, self.config = resolve(preset, **options)
        config = self.config
        self.is_simple = config.gradient_accumulation_steps == 1 and not config.grad_clip
        backend = backends.load(config.backend)
        is_sharded = bool(config.shards or communicator)
        if communicator and config.time_budget is not None:
            raise UsageError("many processes take a number of steps, not a time_budget: give num_steps")
        is_plain = self.is_simple and not config.weight_decay and not is_sharded
        numerics, self.note = resolve_numerics(
            config.numerics, config.dtype, config.batch_size, backend, make_model_config(1), is_plain
        )
        if not isinstance(data, Corpus):
            block_size = make_model_config(1).block_size
            how = {name: getattr(config, name) for name in ("tokenizer", "include", "exclude")}
            data = load_corpus(data, config.bos, mode=config.data_mode, block_size=block_size, **how)
        self.corpus = data
        self.began += data.tokenising
        if config.data_mode != data.mode:
            config = self.config = replace(config, data_mode=data.mode)
        model_config = make_model_config(self.corpus.tokenizer.vocab_size)

        self.random = seeded(config.seed, backend)
        self.batches = make_batches(self.corpus, config, model_config.block_size, self.random, backend)
        check_memory(model_config, config, self.batches.longest)
        mean_length = min(self.batches.longest, len(self.corpus.tokens) // len(self.corpus))
        tokens = config.batch_size * mean_length
        self.model = GPT(
            model_config,
            self.corpus.tokenizer,
            dtype=config.dtype,
            backend=config.backend,
            numerics=numerics,
            threads=config.threads or default_threads(model_config, tokens),
        )
        self.trial = None if config.threads else trial_of(self.model, tokens)
        self.model.train_config = config
        self.model.initialise(self.random, config.init_std, config.zero_init)
        self.team = Team(communicator)
        self.sharded = ShardedSteps(self.model, config, self.team) if is_sharded else None
        if self.sharded:
            self.config = self.model.train_config = replace(config, shards=self.sharded.shards)

        self.step = self.tokens = 0
        self.seconds, self.since = 0.0, (0, 0, 0.0)
        self.evaluations: list[Evaluation] = []
        self.whole_loss: float | None = None
        self._budget: Budget | None = None
        self.alone = OneThread("Trainer")
        self.stopping = False
        self.diverged: str | None = None
        self.best_parameters: NDArray[Any] | None = None
        self._last_parameters: NDArray[Any] | None = None
        count = 0 if is_sharded else model_config.num_params
        self._moments = np.zeros((2, count), stored_dtype(config.dtype))
        self._losses: list[NDArray[np.float64]] = []
        self.gradient: NDArray[Any] | None = None  # the sum of a step's batches, where these are several

    def __repr__(self) -> str:
        return f"Trainer({self.model!r}, step {self.step} of {self.config.num_steps}, {self.corpus!r})"

    @property
    def losses(self) -> NDArray[np.float64]:
        """The loss of each step so far: float64 array [step]."""
        self._losses = [np.concatenate([np.empty(0), *self._losses])]
        return self._losses[0]

    @property
    def moments(self) -> NDArray[Any]:
        """Adam's moments m and v, array [2, P]; a copy, which takes all processes, where the steps are sharded."""
        return self.sharded.moments if self.sharded else self._moments

    @moments.setter
    def moments(self, moments: NDArray[Any]) -> None:
        if self.sharded:
            self.sharded.moments = moments
        else:
            self._moments[:] = moments

    @property
    def path(self) -> str:
        """What computes the steps: see `GPT.path`. The narrow path has no gradient that it could clip or add up."""
        has_gradient = self.sharded or not self.is_simple
        return "general" if has_gradient and self.model.path == "narrow" else self.model.path

    @property
    def order(self) -> NDArray[np.int64] | None:
        """The shuffled order of the documents that are trained on, int64 array; None for a stream."""
        return getattr(self.batches, "order", None)

    @property
    def best(self) -> Evaluation | None:
        """The best validation so far, or None."""
        return next((event for event in reversed(self.evaluations) if event.is_best), None)

    @property
    def deadline(self) -> float | None:
        """When the training of a time budget ends, as time.perf_counter() counts."""
        budget = self._budget
        return None if budget is None or budget.is_capped else budget.end

    @property
    def ended(self) -> str | None:
        """Why the training ended before its last step, if it did so by itself."""
        config, best = self.config, self.best
        if best is None:
            return None
        if config.target_loss is not None and best.loss <= config.target_loss:
            return f"the validation loss {best.loss:.4f} reached the target {config.target_loss}"
        since = len(self.evaluations) - 1 - self.evaluations.index(best)
        if config.patience and since >= config.patience:
            return f"{since} validations in a row were not better than {best.loss:.4f} at step {best.step}"
        return None

    def restore(
        self,
        step: int,
        tokens: int,
        seconds: float,
        losses: NDArray[np.float64],
        evaluations: list[Evaluation],
    ) -> None:
        """Move to a later step; the caller sets the parameters, the moments and the random stream."""
        self.step, self.tokens, self.seconds = step, tokens, seconds
        self.since = step, tokens, seconds
        self._losses, self.evaluations = [losses], evaluations

    @contextmanager
    def last_step(self) -> Iterator[None]:
        """In here the model is that of the last step, even if `keep_best` has replaced it."""
        parameters = self.model.parameters
        kept = parameters.copy()
        if self._last_parameters is not None:
            parameters[:] = self._last_parameters
        try:
            yield
        finally:
            parameters[:] = kept

    @property
    def kept(self) -> Evaluation | None:
        """The validation of the model as it is; None if there was none at its step."""
        step = self.step if self._last_parameters is None or self.best is None else self.best.step
        return next((event for event in self.evaluations if event.step == step), None)

    def chunks(self) -> Iterator[NDArray[np.float64]]:
        """The losses of the steps alone, as float64 arrays: see `events`."""
        for event in self.events():
            if isinstance(event, Steps):
                yield event.losses

    def events(self) -> Iterator[Steps | Evaluation]:
        """Train to the last step, and yield after every 30 ms or so of steps, and after every validation.

        Yields
        ------
        event : Steps or Evaluation

        Raises
        ------
        UsageError
            when a loss is not finite, after `Steps` of the last ones that were; `diverged` then says why.
        RuntimeError
            where another thread is at work with this Trainer.
        """
        return Guarded(self._events(), self.alone)

    def _events(self):
        self.team.agree_on_corpus(self.corpus)
        if self.config.time_budget is not None:
            start, self._budget = perf_counter(), Budget(self)
            self.seconds += perf_counter() - start
        budget = self._budget if self._budget and self._budget.has_plan else None
        count = 1
        if self._last_parameters is not None:  # more steps after the end
            self.model.parameters[:], self._last_parameters = self._last_parameters, None
        while True:
            is_renewed = budget is not None and self.step > 0 and budget.is_due()
            event = self._validate() if self._validation_is_due(is_renewed) else None
            if is_renewed:
                budget.renew()
            if event is not None:
                yield event
            config = self.config
            if self.team.any(
                self.stopping
            ):  # never back to False, which another thread's True would be lost in
                self.stopping = True
            if self.step >= config.num_steps or self.stopping or self.ended:
                self._check_finite()
                if not self.stopping:
                    self._finish()
                return
            start = perf_counter()
            count = min(count, config.num_steps - self.step)
            if config.eval_interval:
                count = min(count, config.eval_interval - self.step % config.eval_interval)
            count = min([count, *(step - self.step for step, _ in config.plan if step > self.step)])
            losses, tokens = self.take_steps(count)
            elapsed = perf_counter() - start
            bad = np.flatnonzero(~np.isfinite(losses))
            finite = losses[: bad[0]] if bad.size else losses
            self.step += len(finite)
            self.tokens += tokens
            self.seconds += elapsed
            self._losses.append(finite)
            if self.trial:
                self.trial.record(elapsed, tokens)
            if bad.size:
                self.diverged = f"the loss of step {self.step + 1} is {losses[bad[0]]}"
            count = self.team.first(next_count(count, elapsed))
            if len(finite):
                yield Steps(self.step, finite)
            if bad.size:
                self._diverge(self.diverged)

    def is_finite(self) -> bool:
        """Whether the model can be used: else training has diverged.

        Its parameters are so small that the squares of a row have a finite sum, as rmsnorm needs, and a sequence has a
        finite loss.
        """
        return not self.diverged and validation.is_finite(self)

    def _check_finite(self):
        if self.step and not self.is_finite():
            self._diverge(f"the parameters after step {self.step} are not finite or give no finite loss")

    def _diverge(self, what):
        self.diverged = what
        raise UsageError(
            f"{what}: training diverged; try a smaller learning_rate ({self.config.learning_rate}) or init_std"
        )

    def validate(self) -> float | None:
        """The loss over what is held out, or over `eval_tokens` of it; None if `stopping` was set meanwhile.

        Raises
        ------
        RuntimeError
            where another thread is at work with this Trainer.
        """
        with self.alone:
            return self.held_out_loss()

    def held_out_loss(self) -> float | None:
        """What `validate` returns, for a caller that is alone with this Trainer."""
        config = self.config
        return validation.mean_loss(
            self, validation.sample(self.batches.validation, config.eval_tokens, config.seed)
        )

    def _finish(self):
        """Take the best model; validate with everything that is held out, unless that was done or takes too long."""
        if self.best is not None and self.best.step < self.step and self.best_parameters is not None:
            self._last_parameters = self.model.parameters.copy()
            self.model.parameters[:] = self.best_parameters
        if self.config.eval_tokens is None or not self.step or self.batches.validation is None:
            return
        if self._budget is None or self._budget.whole_fits:
            self.whole_loss = validation.mean_loss(self, self.batches.validation)

    def _validation_is_due(self, is_renewed):
        config = self.config
        if self.batches.validation is None or not self.step:
            return False
        if self.evaluations and self.evaluations[-1].step == self.step:
            return False
        is_planned = is_renewed or any(step == self.step for step, _ in config.plan)
        is_between = config.eval_interval and self.step % config.eval_interval == 0
        return is_planned or is_between or self.step == config.num_steps

    def _validate(self):
        start = perf_counter()
        loss = self.held_out_loss()
        elapsed = perf_counter() - start
        self.seconds += elapsed
        if self._budget:
            self._budget.validating = elapsed
        if loss is None:
            return None
        if not np.isfinite(loss):
            self._diverge(f"the validation loss of step {self.step} is {loss}")
        self._check_finite()
        event = Evaluation(self.step, loss, self.best is None or loss < self.best.loss)
        self.evaluations.append(event)
        if event.is_best and self.config.keep_best:
            self.best_parameters = self.model.parameters.copy()
        return event

    def take_steps(self, count: int) -> tuple[NDArray[np.float64], int]:
        """Take the next steps, without any note of them: (their losses, the number of tokens predicted)."""
        return take_steps(self, count)
