"""The whole model from one backend's kernels: training steps, forward, backward and cached decoding."""

import operator

import numpy as np

from ..config import ACTIVATIONS
from ..parameters import runs_by_decay
from ..random_stream import sampling_weights
from . import name_of
from .composed_layers import NORM_EPS, Attention, Calls, Mlp, softcap, softcap_backward  # noqa: F401
from .composed_residual import residual_of


class _Batch:
    """Some documents, packed: `inputs`, `targets`, `positions` [N] and `cu_seqlens` [B + 1], all int32."""

    def __init__(self, tokens, starts, lengths):
        self.lengths = np.asarray(lengths, np.int64)
        self.cu_seqlens = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)
        self.B, self.N = len(self.lengths), int(self.cu_seqlens[-1])
        self.positions = (np.arange(self.N) - np.repeat(self.cu_seqlens[:-1], self.lengths)).astype(np.int32)
        rows = np.repeat(np.asarray(starts, np.int64), self.lengths) + self.positions
        self.inputs, self.targets = tokens[rows], tokens[rows + 1]

    def attend(self, calls, layer, qkv):
        """Attention's output and softmax statistics: every row sees its document up to itself."""
        return calls.attention(qkv, self)


class _Step:
    """The next token of some streams: `inputs` and `positions` [N], whose keys and values join the caches."""

    def __init__(self, caches, slots, inputs, positions):
        self.caches, self.slots, self.inputs, self.positions = caches, slots, inputs, positions
        self.N = len(inputs)

    def attend(self, calls, layer, qkv):
        """Attention's output: every row sees its stream's cache up to itself."""
        caches = self.caches[layer]
        q, k, v = calls.split(qkv)
        caches[0, self.slots, self.positions], caches[1, self.slots, self.positions] = k, v
        cached = caches if caches.shape[1] == 1 else (cache[self.slots] for cache in caches)
        return calls.attention_decode(q, *cached, self.positions + np.int32(1)), None


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
        self.heads = (config.n_head, config.head_dim)
        self.calls = Calls(kernels, config, self.dtype)
        self.sublayers = {"attn_": Attention(self.calls), "mlp_": Mlp(self.calls)}

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

    def _forward(self, w, batch):
        """Logits [N, V] and, for the backward, a function that takes their gradient through the model."""
        calls, config = self.calls, self.config
        embedded = calls.embedding(w, batch)
        x, rstd = embedded, None
        if config.normalises_embedding:
            x, rstd = calls.norm(embedded, w.get("embd_norm"))
        residual = residual_of(calls, w, x)
        steps = []
        for layer in range(config.n_layer):
            for name, sublayer in self.sublayers.items():
                x = residual.read(layer, name)
                normed, of_norm = calls.norm(x, w.get(f"layer{layer}.{name}norm"))
                y, kept = sublayer.forward(w, layer, normed, batch)
                residual.write(layer, name, y)
                steps.append((layer, name, x, of_norm, normed, kept))
        top = x = residual.end()
        if config.final_norm:
            top, of_top = calls.norm(x, w.get("final_norm"))
        logits = linear = calls.linear(top, w["lm_head"])
        if config.logit_softcap:
            logits = softcap(linear, config.logit_softcap)

        def backward(dw, dlogits):
            if config.logit_softcap:
                dlogits = softcap_backward(dlogits, logits, config.logit_softcap)
            dx = calls.linear_backward(dw["lm_head"], dlogits, top, w["lm_head"])
            if config.final_norm:
                dx = calls.norm_backward(dw.get("final_norm"), dx, x, w.get("final_norm"), of_top)
            residual.end_backward(dw, dx)
            for layer, name, read, of_norm, normed, kept in reversed(steps):
                dy = residual.write_backward(dw, layer, name)
                dnormed = self.sublayers[name].backward(w, dw, layer, dy, normed, kept, batch)
                gain = f"layer{layer}.{name}norm"
                dread = calls.norm_backward(dw.get(gain), dnormed, read, w.get(gain), of_norm)
                residual.read_backward(dw, layer, name, dread)
            dx = residual.begin_backward(dw)
            if config.normalises_embedding:
                dx = calls.norm_backward(dw.get("embd_norm"), dx, embedded, w.get("embd_norm"), rstd)
            calls.embedding_backward(dw, dx, batch)

        return logits, backward

    def _losses(self, logits, batch):
        """Each row's log of its sum of exponentials, and each document's mean loss."""
        losses, lse = self.calls.empty(batch.N), self.calls.empty(batch.N)
        self.kernels.cross_entropy_forward(losses, lse, logits, batch.targets, *logits.shape)
        return lse, np.add.reduceat(losses.astype(np.float64), batch.cu_seqlens[:-1]) / batch.lengths

    def _backward(self, grads, params, batch):
        """The losses of the documents; grads += the gradient of their mean."""
        logits, backward = self._forward(self._named(params), batch)
        lse, losses = self._losses(logits, batch)
        dlosses = np.repeat(1 / (batch.B * batch.lengths), batch.lengths).astype(self.dtype)
        dlogits = np.empty_like(logits)
        self.kernels.cross_entropy_backward(dlogits, dlosses, lse, logits, batch.targets, *logits.shape)
        backward(self._named(grads), dlogits)
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
        engine, n = self.engine, len(slots)
        V, T = engine.config.vocab_size, engine.config.block_size
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
        return engine._forward(self.weights, _Step(self.caches, slots, tokens, positions))[0]

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
            raise IndexError(
                f"position {position} is out of turn: {self.next} of {config.block_size} comes next, or 0"
            )
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
