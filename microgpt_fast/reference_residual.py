"""What a layer of the scalar model reads of those before it: the residual stream, and what may take its place.

Each class begins with the embedding of one token. `read` gives what a sublayer ("attn_" or "mlp_" of a layer) reads
before its rmsnorm, `write` takes its output, `end` gives what lm_head reads. docs/models.md has the formulas.
"""

from .scalar import added, dot, linear, rmsnorm, sigmoid, softmax, total


def residual_of(config, weights, x):
    """The residual stream of a model that begins with x."""
    if config.residual == "hyper":
        return _Streams(config, weights, x)
    if config.residual == "plain":
        return _Sum(config, weights, x)
    return _Mixture(config, weights, x)


class _Sum:
    """x = x + y, with residual_scalars x = a x + b x_0 before each layer."""

    def __init__(self, config, weights, x):
        self.config, self.weights, self.x, self.x0 = config, weights, x, x

    def read(self, layer, sublayer):
        if self.config.residual_scalars and sublayer == "attn_":
            [[of_x], [of_x0]] = (
                self.weights[f"layer{layer}.{name}"][0] for name in ("residual_scale", "embedding_scale")
            )
            self.x = [x * of_x + x0 * of_x0 for x, x0 in zip(self.x, self.x0)]
        return self.x

    def write(self, layer, sublayer, y):
        self.x = added(y, self.x)

    def end(self):
        return self.x


class _Mixture:
    """Attention residuals: a softmax over the values so far, which are the outputs of sublayers or sums of them."""

    def __init__(self, config, weights, x):
        self.config, self.weights, self.values = config, weights, [x]

    def _mix(self, w):
        alpha = softmax([dot(w, rmsnorm(value)) for value in self.values])
        return [dot(alpha, column) for column in zip(*self.values)]

    def read(self, layer, sublayer):
        return self._mix(self.weights[f"layer{layer}.{sublayer}res_proj"][0])

    def write(self, layer, sublayer, y):
        if begins_value(self.config, layer, sublayer):
            self.values.append(y)
        else:
            self.values[-1] = added(self.values[-1], y)

    def end(self):
        return self._mix(self.weights["out_res_proj"][0])


def begins_value(config, layer, sublayer):
    """Whether a sublayer's output is a value of its own rather than added to the last one."""
    if config.residual == "attention":
        return True
    return sublayer == "attn_" and layer % config.layers_per_block == 0


class _Streams:
    """Hyper-connections: n streams, of which each sublayer reads a weighted sum, and which it mixes."""

    def __init__(self, config, weights, x):
        self.config, self.weights = config, weights
        self.streams = [x] * config.n_streams

    def read(self, layer, sublayer):
        self.pre, self.post, self.res = self._weights(f"layer{layer}.{sublayer}hyper_")
        return [dot(self.pre, column) for column in zip(*self.streams)]

    def write(self, layer, sublayer, y):
        columns = list(zip(*self.streams))
        self.streams = [
            [dot(row, column) + y_c * post for column, y_c in zip(columns, y)]
            for row, post in zip(self.res, self.post)
        ]

    def end(self):
        return [total(column) for column in zip(*self.streams)]

    def _weights(self, block):
        """H_pre [n], H_post [n] and H_res [n, n] of a sublayer, at these streams."""
        n, w = self.config.n_streams, self.weights
        pre, post, res = w[block + "pre"][0], w[block + "post"][0], w[block + "res"]
        if self.config.hyper_form == "static":
            return softmax(pre), softmax(post), sinkhorn([[z * 20 for z in row] for row in res], 10)
        z = linear(rmsnorm(sum(map(list, self.streams), [])), w[block + "phi"])
        of_pre, of_post, of_res = w[block + "alpha"][0]
        pre = [b + z_i * of_pre for b, z_i in zip(pre, z[:n])]
        post = [b + z_i * of_post for b, z_i in zip(post, z[n : 2 * n])]
        res = [[b + z[(2 + i) * n + j] * of_res for j, b in enumerate(row)] for i, row in enumerate(res)]
        return [sigmoid(z) for z in pre], [sigmoid(z) * 2 for z in post], sinkhorn(res, 20)


def sinkhorn(z, times):
    """e^z with its columns, then its rows divided by their sums, so many times: nearly doubly stochastic."""
    largest = max(element.value for row in z for element in row)
    m = [[(element + -largest).exp() for element in row] for row in z]
    for _ in range(times):
        m = transposed([divided(column) for column in zip(*m)])
        m = [divided(row) for row in m]
    return m


def divided(row):
    inverse = total(row) ** -1
    return [element * inverse for element in row]


def transposed(rows):
    return [list(column) for column in zip(*rows)]
