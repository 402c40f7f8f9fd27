"""The bench's jobs in JAX: the whole step compiled, several steps per call where a step is short."""

from functools import partial

import numpy as np
from peer import padded_batches, serve, tensors

SHORT_STEP = 2e8  # operations; below, a call scans over SCANNED steps, so that the calls cost little
SCANNED = 16


class JaxProgram:
    def __init__(self, job, dtype, threads):
        import jax

        jax.config.update("jax_enable_x64", dtype == "float64")
        self.name = f"JAX {jax.__version__}"
        weights = {name: jax.numpy.array(value) for name, value in tensors(job, dtype).items()}
        zeros = {name: jax.numpy.zeros_like(value) for name, value in weights.items()}
        self.state = (weights, zeros, {name: value.copy() for name, value in zeros.items()}, 0)
        *self.batches, longest = padded_batches(job, dtype)
        self.steps_per_call = SCANNED if job.operations(longest) < SHORT_STEP else 1
        self.steps = jax.jit(
            partial(steps, config=job.config, learning_rate=job.learning_rate), donate_argnums=0
        )
        self.step = 0

    def train(self):
        chosen = np.arange(self.step, self.step + self.steps_per_call) % len(self.batches[0])
        self.step += self.steps_per_call
        self.state, losses = self.steps(self.state, tuple(x[chosen] for x in self.batches))
        return losses.block_until_ready().tolist()


def steps(state, batches, config, learning_rate):
    """Adam steps over the first axis of `batches`; returns the new state and the losses."""
    import jax

    def step(state, batch):
        p, m, v, t = state
        loss, g = jax.value_and_grad(loss_of)(p, *batch, config)
        t = t + 1
        correction1, correction2 = 1 - 0.85**t, 1 - 0.99**t

        def adam(p, m, v, g):
            m = 0.85 * m + 0.15 * g
            v = 0.99 * v + 0.01 * g * g
            return p - learning_rate * (m / correction1) / (jax.numpy.sqrt(v / correction2) + 1e-8), m, v

        new = {name: adam(p[name], m[name], v[name], g[name]) for name in p}
        return (*({name: new[name][i] for name in p} for i in range(3)), t), loss

    if len(batches[0]) == 1:
        state, loss = step(state, tuple(x[0] for x in batches))
        return state, loss[None]
    return jax.lax.scan(step, state, batches)


def loss_of(p, inputs, targets, weights, c):
    """Mean over documents of each one's mean cross-entropy; inputs [B, T], padded documents first."""
    import jax
    import jax.numpy as jnp

    def norm(x):
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)

    B, T = inputs.shape
    causal = jnp.tril(jnp.ones((T, T), bool))
    x = norm(p["wte"][inputs] + p["wpe"])
    for i in range(c.n_layer):
        qkv = (norm(x) @ p[f"layer{i}.attn_qkv"].T).reshape(B, T, 3, c.n_head, c.head_dim)
        q, k, v = (qkv[:, :, j].transpose(0, 2, 1, 3) for j in range(3))
        scores = jnp.where(causal, q @ k.transpose(0, 1, 3, 2) * c.head_dim**-0.5, -jnp.inf)
        y = (jax.nn.softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(B, T, c.n_embd)
        x = x + y @ p[f"layer{i}.attn_wo"].T
        x = x + jax.nn.relu(norm(x) @ p[f"layer{i}.mlp_fc1"].T) @ p[f"layer{i}.mlp_fc2"].T
    log_p = jax.nn.log_softmax(x @ p["lm_head"].T)
    return -(jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0] * weights).sum()


if __name__ == "__main__":
    serve("jax", JaxProgram)
