"""What a sublayer reads of those before it: the residual stream, and what may take its place; forward beside backward.

Each class begins with the embedding x [N, C]. In the forward, `read` gives what a sublayer ("attn_" or "mlp_" of a
layer) reads, `write` takes its output, `end` gives what lm_head reads. The backward calls the opposites in reverse:
`end_backward` takes a gradient, `write_backward` gives one, `read_backward` takes one, `begin_backward` gives the
embedding's. docs/models.md has the formulas.
"""

import numpy as np

from .numpy_activations import sigmoid


def residual_of(calls, w, x):
    """The residual stream of a model that begins with x."""
    if calls.config.residual == "hyper":
        return _Streams(calls, w, x)
    return (_Sum if calls.config.residual == "plain" else _Mixture)(calls, w, x)


class _Sum:
    """x = x + y; with residual_scalars x = a x + b x_0 before each layer."""

    def __init__(self, calls, w, x):
        self.scales = calls.config.residual_scalars
        self.w, self.x, self.x0, self.before = w, x, x, []

    def read(self, layer, sublayer):
        if self.scales and sublayer == "attn_":
            self.before.append(self.x)
            self.x = self._scale("residual", layer) * self.x + self._scale("embedding", layer) * self.x0
        return self.x

    def write(self, layer, sublayer, y):
        self.x = self.x + y

    def end(self):
        return self.x

    def _scale(self, of, layer):
        return self.w[f"layer{layer}.{of}_scale"]

    def end_backward(self, dw, dx):
        self.dx, self.dx0 = dx, 0

    def write_backward(self, dw, layer, sublayer):
        return self.dx

    def read_backward(self, dw, layer, sublayer, dread):
        self.dx = self.dx + dread
        if self.scales and sublayer == "attn_":
            dw[f"layer{layer}.residual_scale"] += np.sum(self.dx * self.before.pop())
            dw[f"layer{layer}.embedding_scale"] += np.sum(self.dx * self.x0)
            self.dx0 = self.dx0 + self._scale("embedding", layer) * self.dx
            self.dx = self._scale("residual", layer) * self.dx

    def begin_backward(self, dw):
        return self.dx + self.dx0 if self.scales else self.dx


class _Mixture:
    """Attention residuals: h = sum_i alpha_i v_i, alpha = softmax_i(w . rms(v_i)), over the values so far.

    A value is the embedding, the output of a sublayer, or the sum of those of a block of layers.
    """

    def __init__(self, calls, w, x):
        self.calls, self.w, self.values, self.kept = calls, w, [x], []

    def _mix(self, name):
        v = np.stack(self.values)
        normed, rstd = self.calls.norm(v.reshape(-1, v.shape[2]))
        normed = normed.reshape(v.shape)
        z = (normed * self.w[name]).sum(axis=2, keepdims=True)
        alpha = np.exp(z - z.max(axis=0))
        alpha /= alpha.sum(axis=0)
        self.kept.append((v, normed, rstd, alpha))
        return (alpha * v).sum(axis=0)

    def _mix_backward(self, dw, name, dh):
        """dalpha_i = dh . v_i, dz = softmax', dw += sum dz_i rms(v_i), dv_i += alpha_i dh + rms'(dz_i w; v_i)"""
        v, normed, rstd, alpha = self.kept.pop()
        dalpha = (dh * v).sum(axis=2, keepdims=True)
        dz = alpha * (dalpha - (alpha * dalpha).sum(axis=0))
        dw[name] += (dz * normed).sum(axis=(0, 1))
        rows = v.reshape(-1, v.shape[2])
        through_norm = self.calls.norm_backward(
            None, (dz * self.w[name]).reshape(rows.shape), rows, None, rstd
        )
        for dv, part in zip(self.dvalues, alpha * dh + through_norm.reshape(v.shape), strict=True):
            dv += part

    def _begins_value(self, layer, sublayer):
        config = self.calls.config
        return config.residual == "attention" or (
            sublayer == "attn_" and layer % config.layers_per_block == 0
        )

    def read(self, layer, sublayer):
        return self._mix(f"layer{layer}.{sublayer}res_proj")

    def write(self, layer, sublayer, y):
        if self._begins_value(layer, sublayer):
            self.values.append(y)
        else:
            self.values[-1] = self.values[-1] + y

    def end(self):
        return self._mix("out_res_proj")

    def end_backward(self, dw, dx):
        self.dvalues = [np.zeros_like(v) for v in self.values]
        self._mix_backward(dw, "out_res_proj", dx)

    def write_backward(self, dw, layer, sublayer):
        return self.dvalues.pop() if self._begins_value(layer, sublayer) else self.dvalues[-1]

    def read_backward(self, dw, layer, sublayer, dread):
        self._mix_backward(dw, f"layer{layer}.{sublayer}res_proj", dread)

    def begin_backward(self, dw):
        return self.dvalues.pop()


class _Streams:
    """Hyper-connections (mHC: arXiv:2512.24880): streams X [N, n, C], each X_s = x at first.

    A sublayer reads H_pre X and leaves X' = H_res X + H_post^T y; in the end the streams are added up. In the dynamic
    form Z = alpha (rms(vec X) phi^T) + b, and H_pre = sigmoid(Z), H_post = 2 sigmoid(Z), H_res = sinkhorn(Z); in the
    static form H_pre = softmax(b), H_post = softmax(b), H_res = sinkhorn(20 b).
    """

    def __init__(self, calls, w, x):
        self.calls, self.w, self.n = calls, w, calls.config.n_streams
        self.is_dynamic = calls.config.hyper_form == "dynamic"
        self.streams = np.repeat(x[:, None], self.n, axis=1)
        self.kept = []

    def _weights(self, block):
        """H_pre [N, n], H_post [N, n], H_res [N, n, n] (static: N = 1), and what their backward needs."""
        n, w = self.n, self.w
        b = np.concatenate([w[block + name].ravel() for name in ("pre", "post", "res")])
        if not self.is_dynamic:
            parts = softmax(b[None, :n]), softmax(b[None, n : 2 * n])
            h_res, steps = sinkhorn(20 * b[None, 2 * n :].reshape(1, n, n), 10)
            return *parts, h_res, (steps, None)
        rows = self.streams.reshape(len(self.streams), -1)
        normed, rstd = self.calls.norm(rows)
        z = self.calls.linear(normed, w[block + "phi"])
        total = z * np.repeat(w[block + "alpha"], [n, n, n * n]) + b
        h_res, steps = sinkhorn(total[:, 2 * n :].reshape(-1, n, n), 20)
        return (
            sigmoid(total[:, :n]),
            2 * sigmoid(total[:, n : 2 * n]),
            h_res,
            (steps, (rows, normed, rstd, z)),
        )

    def read(self, layer, sublayer):
        pre, post, res, kept = self._weights(f"layer{layer}.{sublayer}hyper_")
        self.kept.append((self.streams, pre, post, res, kept))
        return (pre[:, :, None] * self.streams).sum(axis=1)

    def write(self, layer, sublayer, y):
        streams, pre, post, res, kept = self.kept.pop()
        self.streams = res @ streams + post[:, :, None] * y[:, None]
        self.kept.append((streams, pre, post, res, kept, y))

    def end(self):
        return self.streams.sum(axis=1)

    def end_backward(self, dw, dx):
        self.dstreams = np.repeat(dx[:, None], self.n, axis=1)

    def write_backward(self, dw, layer, sublayer):
        """dy = H_post G, dH_post = G y, dH_res = G X^T, where G is the streams' gradient"""
        streams, _, post, res, _, y = self.kept[-1]
        g = self.dstreams
        self.dpost, self.dres = (g * y[:, None]).sum(axis=2), g @ streams.transpose(0, 2, 1)
        self.dstreams = res.transpose(0, 2, 1) @ g
        return (post[:, :, None] * g).sum(axis=1)

    def read_backward(self, dw, layer, sublayer, dread):
        """dX += H_pre^T du, dH_pre = du X^T; then the weights' gradients, through sigmoid, softmax and sinkhorn"""
        streams, pre, post, _, (steps, dynamic), _ = self.kept.pop()
        self.dstreams = self.dstreams + pre[:, :, None] * dread[:, None]
        dpre, dpost, dres = (streams * dread[:, None]).sum(axis=2), self.dpost, self.dres
        if dynamic is None:
            dpre, dpost, dres = (d.sum(axis=0, keepdims=True) for d in (dpre, dpost, dres))
            dpre, dpost = pre * (dpre - (pre * dpre).sum()), post * (dpost - (post * dpost).sum())
            dres = 20 * sinkhorn_backward(dres, steps)
        else:
            dpre, dpost = dpre * pre * (1 - pre), dpost * post * (1 - post / 2)
            dres = sinkhorn_backward(dres, steps)
        dz = np.concatenate([dpre, dpost, dres.reshape(len(dpre), -1)], axis=1)
        self._weights_backward(dw, f"layer{layer}.{sublayer}hyper_", dz, dynamic)

    def _weights_backward(self, dw, block, dtotal, dynamic):
        n, w, sizes = self.n, self.w, [self.n, self.n, self.n**2]
        of_b = dtotal.sum(axis=0)
        dw[block + "pre"] += of_b[:n]
        dw[block + "post"] += of_b[n : 2 * n]
        dw[block + "res"] += of_b[2 * n :].reshape(n, n)
        if dynamic is None:
            return
        rows, normed, rstd, z = dynamic
        ends = np.cumsum([0, *sizes])[:-1]
        dw[block + "alpha"] += np.add.reduceat((dtotal * z).sum(axis=0), ends)
        dz = dtotal * np.repeat(w[block + "alpha"], sizes)
        dnormed = self.calls.linear_backward(dw[block + "phi"], dz, normed, w[block + "phi"])
        drows = self.calls.norm_backward(None, dnormed, rows, None, rstd)
        self.dstreams = self.dstreams + drows.reshape(self.dstreams.shape)

    def begin_backward(self, dw):
        return self.dstreams.sum(axis=1)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sinkhorn(z, times):
    """M [N, n, n] from e^z, its columns, then its rows divided by their sums, so many times; and every M on the way.

    In logarithms, which a very small element leaves finite.
    """
    steps = []
    for _ in range(times):
        for axis in (1, 2):
            largest = z.max(axis=axis, keepdims=True)
            z = z - largest - np.log(np.exp(z - largest).sum(axis=axis, keepdims=True))
            steps.append(np.exp(z))
    return steps[-1], steps


def sinkhorn_backward(dm, steps):
    """dz of sinkhorn. Of one division in logarithms, z' = z - log sum e^z: dz = dz' - M' sum dz'"""
    dz = dm * steps[-1]
    for i in reversed(range(len(steps))):
        dz = dz - steps[i] * dz.sum(axis=1 + i % 2, keepdims=True)
    return dz
