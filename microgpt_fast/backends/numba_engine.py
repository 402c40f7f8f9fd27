"""The whole model in one jitted call: what Python does around numba_backend's gpt_* functions."""

import numpy as np

from .composed import ComposedEngine, Decoder


class JitEngine(ComposedEngine):
    """The whole model on a backend's jitted functions; the interface is `ComposedEngine`'s.

    Each call is one call of a compiled function, which releases the GIL. Memory is kept from call to call.
    """

    def __init__(self, kernels, config, dtype, numerics="fast", threads=1):
        super().__init__(kernels, config, dtype, numerics, threads)
        self._reserved = self._workspace = None

    def layout(self, rows, documents):
        """The layout of numba_backend for batches of up to so many rows and documents, and memory for it."""
        c = self.config
        at, reals, integers = self.kernels.gpt_layout(
            c.n_layer, c.n_embd, 4 * c.n_embd, c.n_head, c.vocab_size, c.block_size, self.activation,
            self.dtype.itemsize, rows, documents,
        )  # fmt: skip
        memory = np.zeros(reals * self.dtype.itemsize + 64, np.uint8)
        memory = memory[-memory.ctypes.data % 64 :][: reals * self.dtype.itemsize]  # from a cache line on
        return memory.view(self.dtype), np.empty(integers, np.int32), at

    def _prepare(self, tokens, starts, lengths, batch_size):
        """The documents as contiguous arrays, and workspaces for the largest batch."""
        documents = np.ascontiguousarray(starts, np.int64), np.ascontiguousarray(lengths, np.int32)
        rows = int(np.add.reduceat(documents[1], range(0, len(lengths), batch_size), dtype=np.int64).max())
        if self._reserved is None or rows > self._reserved[0] or batch_size > self._reserved[1]:
            if rows > batch_size * self.config.block_size:
                self._check(tokens, starts, lengths)
            self._reserved = max(rows, 1), batch_size
            self._workspace = self.layout(*self._reserved)
        return np.ascontiguousarray(tokens, np.int32), *documents

    def forward(self, params, tokens, starts, lengths, logits=None):
        B, losses = len(starts), np.empty(len(starts))
        batch = self._prepare(tokens, starts, lengths, B)
        out = None if logits is None else np.empty(logits.shape, self.dtype)
        if self.kernels.gpt_forward(losses, out, writable(params), *batch, B, *self._workspace) >= 0:
            self._check(tokens, starts, lengths)
        if logits is not None:
            logits[...] = out
        return losses

    def backward(self, grads, params, tokens, starts, lengths):
        B, losses = len(starts), np.empty(len(starts))
        batch = self._prepare(tokens, starts, lengths, B)
        if self.kernels.gpt_backward(losses, grads, writable(params), *batch, B, *self._workspace) >= 0:
            self._check(tokens, starts, lengths)
        return losses

    def train_steps(self, losses, params, m, v, tokens, starts, lengths, batch_size, lr, adam, first_step):
        k = len(lr)
        if not len(starts) == len(lengths) == k * batch_size:
            steps = f"{k} steps of {batch_size} documents"
            raise ValueError(f"{steps} need as many starts ({len(starts)}) and lengths ({len(lengths)})")
        if k == 0:
            return
        batch = self._prepare(tokens, starts, lengths, batch_size)
        bad = self.kernels.gpt_train_steps(
            losses, params, m, v, *batch, k, batch_size, np.asarray(lr, np.float64), *adam, first_step,
            *self._workspace,
        )  # fmt: skip
        if bad >= 0:
            self._check(tokens, starts, lengths)

    def decoder(self, params):
        return JitDecoder(self, params)


class JitDecoder(Decoder):
    """`Decoder` with one jitted call a token."""

    def __init__(self, engine, params):
        super().__init__(engine, params)
        self.params = writable(params)
        self.workspace = engine.layout(engine.config.block_size, 1)

    def step(self, token, position):
        config = self.engine.config
        if not 0 <= token < config.vocab_size:
            raise IndexError(f"token {token} is not in 0 .. {config.vocab_size - 1}")
        if not 0 <= position < config.block_size:
            raise IndexError(f"position {position} is not in 0 .. {config.block_size - 1}")
        logits = np.empty(config.vocab_size, self.engine.dtype)
        self.engine.kernels.gpt_decode(logits, token, position, self.params, *self.workspace)
        return logits


def writable(array):
    """The array, or if it is read-only its writable twin: for Numba these are two types, and would be compiled twice."""
    return array
