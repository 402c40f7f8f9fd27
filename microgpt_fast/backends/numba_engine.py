"""The whole model in one jitted call: what Python does around the functions of numba_general and numba_narrow."""

from collections import defaultdict
from contextlib import contextmanager

import numpy as np

from . import numba_narrow
from .composed import ComposedEngine, Decoder


class JitEngine(ComposedEngine):
    """The whole model on a backend's jitted functions; the interface is `ComposedEngine`'s.

    Each call is one call of a compiled function, which releases the GIL, on the first path that serves the model:

    - "narrow": training steps of numba_narrow, everything else as in "general";
    - "general": numba_general;
    - "composed": the kernels one by one, as in `ComposedEngine`.

    Several threads may call an engine at once: each call has memory of its own, which is kept for later calls.
    """

    def __init__(self, kernels, config, dtype, numerics="fast", threads=1):
        super().__init__(kernels, config, dtype, numerics, threads)
        self._spare = defaultdict(
            list
        )  # for a layout: rows, documents and workspace, of those that no call uses
        self._path = kernels.path_of(config)

    @property
    def path(self):
        return self._path

    def workspace(self, layout, rows, documents):
        """Memory for batches of up to so many rows and documents: reals, int32, and the layout of both."""
        at, reals, integers = layout(self.config, self.activation, self.dtype.itemsize, rows, documents)
        size = reals * self.dtype.itemsize
        memory = np.zeros(size + 64, np.uint8)
        from_cache_line = memory[-memory.ctypes.data % 64 :][:size]
        return from_cache_line.view(self.dtype), np.empty(integers, np.int32), at

    def flat(self, array, name):
        """`array`, checked to be of all parameters."""
        if array.dtype != self.dtype:
            raise TypeError(f"{name} must be {self.dtype}, not {array.dtype}")
        if array.shape != (self.config.num_params,) or not array.flags.c_contiguous:
            raise ValueError(f"{name} must be contiguous [{self.config.num_params}], not {list(array.shape)}")
        return array

    @contextmanager
    def _batch(self, tokens, starts, lengths, batch_size, layout):
        """The documents as contiguous arrays, and a workspace for the largest batch, which no other call uses."""
        tokens = np.ascontiguousarray(tokens, np.int32)
        starts, lengths = np.ascontiguousarray(starts, np.int64), np.ascontiguousarray(lengths, np.int32)
        rows = int(np.add.reduceat(lengths, range(0, len(lengths), batch_size), dtype=np.int64).max())
        try:
            room = self._spare[layout].pop()
        except IndexError:
            room = (0, 0, None)
        if rows > room[0] or batch_size > room[1]:
            self._check(tokens, starts, lengths)  # first: what is out of range asks for any amount of memory
            room = rows, batch_size, self.workspace(layout, rows, batch_size)
        try:
            yield (tokens, starts, lengths), room[2]
        finally:
            self._spare[layout].append(room)

    def forward(self, params, tokens, starts, lengths, logits=None):
        params = self.flat(params, "params")
        if self.path == "composed":
            return super().forward(params, tokens, starts, lengths, logits)
        B, losses = len(starts), np.empty(len(starts))
        if not B:
            return losses
        with self._batch(tokens, starts, lengths, B, self.kernels.gpt_layout) as (batch, workspace):
            # always there, so that there is one type of call to compile
            out = np.empty((max(int(batch[2].sum()), 0), self.config.vocab_size), self.dtype)
            if self.kernels.gpt_forward(losses, out, params, *batch, B, *workspace) >= 0:
                self._check(*batch)
        if logits is not None:
            logits[...] = out
        return losses

    def backward(self, grads, params, tokens, starts, lengths):
        grads, params = self.flat(grads, "grads"), self.flat(params, "params")
        if self.path == "composed":
            return super().backward(grads, params, tokens, starts, lengths)
        B, losses = len(starts), np.empty(len(starts))
        if not B:
            return losses
        with self._batch(tokens, starts, lengths, B, self.kernels.gpt_layout) as (batch, workspace):
            if self.kernels.gpt_backward(losses, grads, params, *batch, B, *workspace) >= 0:
                self._check(*batch)
        return losses

    def train_steps(self, losses, params, m, v, tokens, starts, lengths, batch_size, lr, adam, first_step):
        tensors = [self.flat(array, name) for array, name in ((params, "params"), (m, "m"), (v, "v"))]
        if self.path == "composed":
            documents = tokens, starts, lengths
            return super().train_steps(losses, *tensors, *documents, batch_size, lr, adam, first_step)
        k = len(lr)
        if not len(starts) == len(lengths) == k * batch_size:
            steps = f"{k} steps of {batch_size} documents"
            raise ValueError(f"{steps} need as many starts ({len(starts)}) and lengths ({len(lengths)})")
        if not k:
            return
        steps, layout = self.kernels.gpt_train_steps, self.kernels.gpt_layout
        if self.path == "narrow":
            steps, layout = numba_narrow.train_steps(self.config), numba_narrow.narrow_layout
        computed, rates = np.empty(k), np.ascontiguousarray(lr, np.float64)
        adam = map(float, adam)
        with self._batch(tokens, starts, lengths, batch_size, layout) as (batch, workspace):
            bad = steps(computed, *tensors, *batch, k, batch_size, rates, *adam, int(first_step), *workspace)
            if bad >= 0:
                self._check(*batch)
        losses[:k] = computed

    def update(self, params, m, v, grads, lr, adam, step, divisor=1.0, max_norm=0.0):
        named = ((params, "params"), (m, "m"), (v, "v"), (grads, "grads"))
        tensors = [self.flat(array, name) for array, name in named]
        return self.kernels.gpt_update(
            *tensors, float(lr), *map(float, adam), int(step), float(divisor), float(max_norm)
        )

    def decoder(self, params):
        """A `JitDecoder` of these parameters (it keeps a view, so do not change them while decoding)."""
        return super().decoder(params) if self.path == "composed" else JitDecoder(self, params)


class JitDecoder(Decoder):
    """`Decoder` with one jitted call a token."""

    def __init__(self, engine, params):
        self.engine = engine
        self.params = engine.flat(params, "params")
        self.workspace = engine.workspace(engine.kernels.gpt_layout, engine.config.block_size, 1)
        self.next = 0

    def step(self, token, position):
        token, position = self.check(token, position)
        logits = np.empty(self.engine.config.vocab_size, self.engine.dtype)
        self.engine.kernels.gpt_decode(logits, token, position, self.params, *self.workspace)
        self.next = position + 1
        return logits
