"""The whole model from one backend's kernels: training steps, forward, backward and cached decoding."""

import operator

import numpy as np

from ..config import ACTIVATIONS
from ..parameters import runs_by_decay
from ..random_stream import sampling_weights
from . import name_of

NORM_EPS = 1e-5


class _Batch:
    """Some documents, packed: `inputs`, `targets`, `positions` [N] and `cu_seqlens` [B + 1], all int32."""

    def __init__(self, tokens, starts, lengths):
        self.lengths = np.asarray(lengths, np.int64)
        self.cu_seqlens = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)
        self.B, self.N = len(self.lengths), int(self.cu_seqlens[-1])
        self.positions = (np.arange(self.N) - np.repeat(self.cu_seqlens[:-1], self.lengths)).astype(np.int32)
        rows = np.repeat(np.asarray(starts, np.int64), self.lengths) + self.positions
        self.inputs, self.targets = tokens[rows], tokens[rows + 1]


class ComposedEngine:
    """The whole model on the kernels of one backend.

    Parameters, gradients and moments are flat arrays [P] in the order of `config.shapes()`. Document i of a
    batch reads tokens[starts[i]] .. tokens[starts[i] + lengths[i]]: each but the last is an input, each but
    the first a target. The loss is the mean over the documents of each document's mean cross-entropy.

    Parameters
    ----------
    kernels : module
        With the functions of microgpt_fast_kernels.h.
    config : GPTConfig
    dtype : float32 or float64
    numerics : "fast"
        ValueError for "exact", which only the compiled backend has.
    threads : int
        Not used here.
    """

    def __init__(self, kernels, config, dtype, numerics="fast", threads=1):
        if numerics != "fast":
            raise ValueError(f"numerics is {numerics!r}: the {name_of(kernels)} backend has only 'fast'")
        self.kernels = kernels
        self.config, self.dtype = config, np.dtype(dtype)
        self.activation = ACTIVATIONS.index(config.activation)
        self.scale = config.head_dim**-0.5
        self.heads = (config.n_head, config.head_dim)

    @property
    def path(self):
        """Which code trains; here it is "composed" of kernels."""
        return "composed"

    def _named(self, flat):
        """Views into a flat buffer by name; attn_qkv [3C, C] is a layer's attn_wq, attn_wk and attn_wv."""
        views = {}
        for parameter in self.config.parameters():
            name, start = parameter.name, parameter.offset
            views[name] = flat[parameter.place].reshape(parameter.shape)
            if name.endswith("attn_wq"):
                rows, columns = parameter.shape
                fused = flat[start : start + 3 * parameter.size].reshape(3 * rows, columns)
                views[name.replace("attn_wq", "attn_qkv")] = fused
        return views

    def _check(self, tokens, starts, lengths):
        block_size, vocab_size = self.config.block_size, self.config.vocab_size
        for document, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist())):
            if not 1 <= length <= block_size:
                raise IndexError(f"document {document}: length {length} is not in 1 .. {block_size}")
            if not 0 <= start < len(tokens) - length:
                span = f"tokens[{start}] .. tokens[{start + length}]"
                raise IndexError(f"document {document}: {span} are not all within {len(tokens)} tokens")
            text = tokens[start : start + length + 1]
            if text.min() < 0 or text.max() >= vocab_size:
                bad = text[(text < 0) | (text >= vocab_size)][0]
                raise IndexError(f"document {document}: token {bad} is not in 0 .. {vocab_size - 1}")

    def _empty(self, *shape):
        return np.empty(shape, self.dtype)

    def _norm(self, x):
        y, rstd = np.empty_like(x), self._empty(len(x))
        self.kernels.rmsnorm_forward(y, rstd, x, None, *x.shape, NORM_EPS)
        return y, rstd

    def _linear(self, x, w):
        y = self._empty(len(x), len(w))
        self.kernels.linear_forward(y, x, w, len(x), *w.T.shape)
        return y

    def _split(self, qkv):
        """q, k, v [N, H, D] as views into qkv [N, 3C]"""
        return [part.reshape(len(qkv), *self.heads) for part in np.split(qkv, 3, axis=1)]

    def _forward(self, w, batch):
        """Logits [N, V] and, for the backward, what each layer computed."""
        kernels, cu_seqlens, B = self.kernels, batch.cu_seqlens, batch.B
        N, C, V, T = batch.N, self.config.n_embd, self.config.vocab_size, self.config.block_size
        F = self.config.mlp_width
        embedded = self._empty(N, C)
        kernels.embedding_forward(embedded, batch.inputs, batch.positions, w["wte"], w["wpe"], N, C, V, T)
        x, rstd = self._norm(embedded)
        saved = [(embedded, rstd)]
        for layer in range(self.config.n_layer):
            block = f"layer{layer}."
            x1 = x
            y1, rstd1 = self._norm(x1)
            qkv = self._linear(y1, w[block + "attn_qkv"])
            o, lse = self._empty(N, *self.heads), self._empty(N, self.config.n_head)
            kernels.attention_forward(
                o, lse, *self._split(qkv), C, 3 * C, cu_seqlens, B, *self.heads, self.scale, None
            )
            x2 = x1 + self._linear(o.reshape(N, C), w[block + "attn_wo"])
            y2, rstd2 = self._norm(x2)
            y, h = self._empty(N, C), self._empty(N, F)
            fc1, fc2 = w[block + "mlp_fc1"], w[block + "mlp_fc2"]
            kernels.mlp_forward(y, h, y2, fc1, fc2, N, C, F, self.activation)
            x = x2 + y
            saved.append((x1, y1, rstd1, qkv, o, lse, x2, y2, rstd2, h))
        saved.append(x)
        return self._linear(x, w["lm_head"]), saved

    def _losses(self, logits, batch):
        """Each row's log of its sum of exponentials, and each document's mean loss."""
        losses, lse = self._empty(batch.N), self._empty(batch.N)
        self.kernels.cross_entropy_forward(losses, lse, logits, batch.targets, *logits.shape)
        return lse, np.add.reduceat(losses.astype(np.float64), batch.cu_seqlens[:-1]) / batch.lengths

    def _backward(self, grads, params, batch):
        """The losses of the documents; grads += the gradient of their mean."""
        kernels, cu_seqlens, B = self.kernels, batch.cu_seqlens, batch.B
        w, dw = self._named(params), self._named(grads)
        N, C, V, T = batch.N, self.config.n_embd, self.config.vocab_size, self.config.block_size
        F = self.config.mlp_width
        logits, saved = self._forward(w, batch)
        lse, losses = self._losses(logits, batch)

        dlogits, dx = np.empty_like(logits), self._empty(N, C)
        dlosses = np.repeat(1 / (batch.B * batch.lengths), batch.lengths).astype(self.dtype)
        kernels.cross_entropy_backward(dlogits, dlosses, lse, logits, batch.targets, N, V)
        kernels.linear_backward(dx, dw["lm_head"], dlogits, saved.pop(), w["lm_head"], N, C, V, False)
        for layer in reversed(range(self.config.n_layer)):
            block = f"layer{layer}."
            x1, y1, rstd1, qkv, o, lse, x2, y2, rstd2, h = saved.pop()
            fc1, fc2 = block + "mlp_fc1", block + "mlp_fc2"
            dy2, dh = self._empty(N, C), self._empty(N, F)
            kernels.mlp_backward(
                dy2, dw[fc1], dw[fc2], dh, dx, h, y2, w[fc1], w[fc2], N, C, F, self.activation
            )
            kernels.rmsnorm_backward(dx, None, dy2, x2, None, rstd2, N, C, True)

            d_o, dqkv, delta = np.empty_like(o), np.empty_like(qkv), np.empty_like(lse)
            wo, w_qkv = block + "attn_wo", block + "attn_qkv"
            d_o_rows, o_rows = d_o.reshape(N, C), o.reshape(N, C)
            kernels.linear_backward(d_o_rows, dw[wo], dx, o_rows, w[wo], N, C, C, False)
            kernels.attention_backward(
                *self._split(dqkv), delta, d_o, o, lse, *self._split(qkv), C, 3 * C, cu_seqlens, B,
                *self.heads, self.scale, None,
            )  # fmt: skip
            dy1 = self._empty(N, C)
            kernels.linear_backward(dy1, dw[w_qkv], dqkv, y1, w[w_qkv], N, C, 3 * C, False)
            kernels.rmsnorm_backward(dx, None, dy1, x1, None, rstd1, N, C, True)
        embedded, rstd = saved.pop()
        dembedded = self._empty(N, C)
        kernels.rmsnorm_backward(dembedded, None, dx, embedded, None, rstd, N, C, False)
        dwte, dwpe = dw["wte"], dw["wpe"]
        kernels.embedding_backward(dwte, dwpe, dembedded, batch.inputs, batch.positions, N, C, V, T)
        return losses

    def forward(self, params, tokens, starts, lengths, logits=None):
        """Losses [B] float64 of the documents.

        Parameters
        ----------
        params : array [P]
        tokens : int32 array
        starts : int64 array [B]
        lengths : int32 array [B]
        logits : array [N, V], optional
            Overwritten with the logits of every input token.

        Raises
        ------
        IndexError
            A token or length is out of range; nothing has been written.
        """
        self._check(tokens, starts, lengths)
        batch = _Batch(tokens, starts, lengths)
        computed, _ = self._forward(self._named(params), batch)
        if logits is not None:
            logits[...] = computed
        return self._losses(computed, batch)[1]

    def backward(self, grads, params, tokens, starts, lengths):
        """As `forward`; the gradient of the mean of the losses is added to grads [P]."""
        self._check(tokens, starts, lengths)
        return self._backward(grads, params, _Batch(tokens, starts, lengths))

    def train_steps(self, losses, params, m, v, tokens, starts, lengths, batch_size, lr, adam, first_step):
        """k = len(lr) training steps of `batch_size` documents each.

        Parameters
        ----------
        losses : float64 array [k]
            Overwritten with the loss of each step.
        params, m, v : arrays [P]
            Parameters and Adam's moments, updated in place.
        tokens, starts, lengths
            As in `forward`, for all k * batch_size documents.
        lr : sequence of k float
        adam : (beta1, beta2, eps, weight_decay)
        first_step : int
            Adam's number of the first of these steps, from 1.
        """
        if not len(starts) == len(lengths) == len(lr) * batch_size:
            steps = f"{len(lr)} steps of {batch_size} documents"
            raise ValueError(f"{steps} need as many starts ({len(starts)}) and lengths ({len(lengths)})")
        self._check(tokens, starts, lengths)
        grads = np.empty_like(params)
        for i, rate in enumerate(lr):
            documents = slice(i * batch_size, (i + 1) * batch_size)
            grads[...] = 0
            batch = _Batch(tokens, starts[documents], lengths[documents])
            losses[i] = self._backward(grads, params, batch).mean()
            self._move(params, m, v, grads, rate, adam, first_step + i)

    def _move(self, params, m, v, grads, lr, adam, step):
        """One step of AdamW; weight decay applies where the table of parameters says so."""
        *constants, weight_decay = adam
        for part, decays in runs_by_decay(self.config):
            arrays = params[part], m[part], v[part], grads[part]
            self.kernels.adamw_step(*arrays, len(arrays[0]), lr, *constants, weight_decay * decays, step)

    def update(self, params, m, v, grads, lr, adam, step, divisor=1.0, max_norm=0.0):
        """One step of AdamW with what `backward` has added to grads.

        Parameters
        ----------
        params, m, v, grads : arrays [P]
            Updated in place; grads become 0.
        lr : float
        adam : (beta1, beta2, eps, weight_decay)
        step : int
            Adam's number of this step, from 1.
        divisor : float
            The gradient is grads / divisor, as for the mean over so many batches.
        max_norm : float
            A gradient of a larger Euclidean norm is scaled down to this one; 0 for none.

        Returns
        -------
        norm : float
            The gradient's, before it is clipped; 0 where max_norm is 0.
        """
        # not BLAS, whose sum depends on its threads
        squares = np.einsum("i,i->", grads, grads, dtype=np.float64) if max_norm else 0.0
        norm = float(np.sqrt(squares)) / divisor
        factor = max_norm / norm if norm > max_norm else 1
        grads *= grads.dtype.type(factor / divisor)
        self._move(params, m, v, grads, lr, adam, step)
        grads[...] = 0
        return norm

    def decoder(self, params):
        """A `Decoder` of these parameters (it keeps views, so do not change them while decoding)."""
        return Decoder(self, params)

    def streams(self, params, size):
        """`Streams` of these parameters (they keep views, so do not change them while decoding)."""
        return Streams(self, params, size)


class Streams:
    """Up to `size` documents that go through the model together, a token each at a time."""

    def __init__(self, engine, params, size):
        if size < 1:
            raise ValueError(f"there must be at least 1 stream, not {size}")
        self.engine, self.weights, self.size = engine, engine._named(params), size
        config = engine.config
        self.caches = np.zeros((config.n_layer, 2, size, config.block_size, *engine.heads), engine.dtype)

    def step(self, slots, tokens, positions):
        """Logits [n, V] after tokens[i] at positions[i] of stream slots[i], for n different streams.

        The positions of a stream come in order; 0 begins a new document.

        Raises
        ------
        ValueError
            Arrays of different lengths, none, or a stream twice.
        IndexError
            A stream, token or position is out of range.
        """
        engine, config, w, n = self.engine, self.engine.config, self.weights, len(slots)
        C, V, T = config.n_embd, config.vocab_size, config.block_size
        if not n == len(tokens) == len(positions) == len(set(slots)) or n == 0:
            raise ValueError(
                f"a step takes one token and position for each of some different streams, not {n} streams "
                f"({len(set(slots))} different), {len(tokens)} tokens, {len(positions)} positions"
            )
        limits = (("stream", slots, self.size), ("token", tokens, V), ("position", positions, T))
        for name, values, end in limits:
            for value in values:
                if not 0 <= value < end:
                    raise IndexError(f"{name} {value} is not in 0 .. {end - 1}")
        slots, tokens, positions = (np.array(values, np.int32) for values in (slots, tokens, positions))
        x, F = engine._empty(n, C), engine.config.mlp_width
        engine.kernels.embedding_forward(x, tokens, positions, w["wte"], w["wpe"], n, C, V, T)
        x, _ = engine._norm(x)
        for layer, caches in enumerate(self.caches):
            block = f"layer{layer}."
            q, k, v = engine._split(engine._linear(engine._norm(x)[0], w[block + "attn_qkv"]))
            caches[0, slots, positions], caches[1, slots, positions] = k, v
            k_cache, v_cache = caches if self.size == 1 else (cache[slots] for cache in caches)
            o, q = np.empty(q.shape, engine.dtype), np.ascontiguousarray(q)
            lengths = positions + np.int32(1)
            engine.kernels.attention_decode(
                o, q, k_cache, v_cache, lengths, n, T, *engine.heads, engine.scale, None
            )
            x = x + engine._linear(o.reshape(n, C), w[block + "attn_wo"])
            y, h = np.empty_like(x), engine._empty(n, F)
            fc1, fc2 = w[block + "mlp_fc1"], w[block + "mlp_fc2"]
            engine.kernels.mlp_forward(y, h, engine._norm(x)[0], fc1, fc2, n, C, F, engine.activation)
            x = x + y
        return engine._linear(x, w["lm_head"])

    def draw(self, slots, tokens, positions, randoms, temperature):
        """As `step`, but the next tokens, int32 [n]: drawn from randoms[i]; where that is None, -1."""
        weights = sampling_weights(self.step(slots, tokens, positions), temperature)
        drawn = [-1 if r is None else r.choices(row) for r, row in zip(randoms, weights, strict=True)]
        return np.array(drawn, np.int32)


class Decoder:
    """One document, token after token, with the keys and values of what came before kept."""

    def __init__(self, engine, params):
        self.engine, self._stream, self.next = engine, Streams(engine, params, 1), 0

    def check(self, token, position):
        """The two as whole numbers, if they are in range and in turn."""
        config, token, position = self.engine.config, operator.index(token), operator.index(position)
        if not 0 <= token < config.vocab_size:
            raise IndexError(f"token {token} is not in the vocabulary, 0 to {config.vocab_size - 1}")
        if position not in (0, self.next) or position >= config.block_size:
            raise IndexError(f"position {position} is not the next: {self.next} of {config.block_size}, or 0")
        return token, position

    def step(self, token, position):
        """Logits [V] that follow `token` at `position`; positions come in order from 0.

        Raises
        ------
        IndexError
            The token is out of range, or the position out of turn.
        """
        token, position = self.check(token, position)
        logits = self._stream.step([0], [token], [position])[0]
        self.next = position + 1
        return logits

    def generate(self, random, bos, temperature):
        """Sample one document.

        Parameters
        ----------
        random
            Its choices(weights) draws one index for each token.
        bos : int
            The token that begins and ends a document.
        temperature : float
            Token i has the probability softmax(logits / temperature)_i.

        Returns
        -------
        int32 array
            At most block_size tokens, without `bos`.
        """
        token, sample, temperature = (
            bos,
            [],
            temperature + 0.0,
        )  # what is no number fails before the first step
        for position in range(self.engine.config.block_size):
            token = random.choices(sampling_weights(self.step(token, position), temperature))
            if token == bos:
                break
            sample.append(token)
        self.next = 0
        return np.array(sample, np.int32)
