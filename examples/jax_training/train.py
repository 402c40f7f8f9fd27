"""Train a GPT on the built-in names with JAX, its kernels from microgpt_fast, and sample from it.

python train.py [steps]
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import microgpt_fast
from microgpt_fast.jax import attention, cross_entropy, embedding, linear, mlp, rmsnorm

B, T = 32, 16  # documents per step, and their longest length
LAYER = "attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2"


def logits_of(params, config, tokens):
    """[..., T, V]; params are named as in the original."""
    heads = config.n_head, config.head_dim
    x = rmsnorm(
        embedding(tokens, jnp.broadcast_to(jnp.arange(T), tokens.shape), params["wte"], params["wpe"])
    )
    for i in range(config.n_layer):
        layer = {name: params[f"layer{i}.{name}"] for name in LAYER}
        y = rmsnorm(x)
        q, k, v = (linear(y, layer[name]).reshape(*x.shape[:-1], *heads) for name in LAYER[:3])
        x = x + linear(attention(q, k, v).reshape(x.shape), layer["attn_wo"])
        x = x + mlp(rmsnorm(x), layer["mlp_fc1"], layer["mlp_fc2"])
    return linear(x, params["lm_head"])


def batch_of(corpus, documents):
    """Tokens, targets [B, T], and weights that are 0 behind the end of a document."""
    tokens = np.zeros((len(documents), T + 1), np.int32)
    weights = np.zeros((len(documents), T), np.float32)
    for row, d in enumerate(documents):
        text = corpus.tokens[corpus.offsets[d] : corpus.offsets[d + 1]][: T + 1]
        tokens[row, : len(text)] = text
        weights[row, : len(text) - 1] = 1 / (len(text) - 1) / len(documents)
    return tokens[:, :-1], tokens[:, 1:], weights


def main(steps=300):
    corpus = microgpt_fast.load_corpus()
    config = microgpt_fast.GPTConfig(corpus.tokenizer.vocab_size, n_layer=2, n_embd=32, block_size=T)
    model = microgpt_fast.GPT(config, corpus.tokenizer, dtype="float32")
    rng = np.random.default_rng(0)
    params = {name: 0.08 * rng.standard_normal(shape, np.float32) for name, shape in config.shapes().items()}

    def loss_of(params, tokens, targets, weights):
        return (weights * cross_entropy(logits_of(params, config, tokens), targets)).sum()

    @jax.jit
    def train(params, m, v, step, *batch):
        """One step of Adam."""
        loss, grads = jax.value_and_grad(loss_of)(params, *batch)
        m = jax.tree.map(lambda m, g: 0.85 * m + 0.15 * g, m, grads)
        v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, v, grads)
        rate = 0.01 * jnp.sqrt(1 - 0.99**step) / (1 - 0.85**step)
        params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, m, v)
        return params, m, v, loss

    m = v = jax.tree.map(np.zeros_like, params)
    for step in range(1, steps + 1):
        batch = batch_of(corpus, rng.integers(len(corpus), size=B))
        params, m, v, loss = train(params, m, v, step, *batch)
        if step == 1 or step == steps:
            print(f"step {step}: loss {loss:.4f}")
    for name, tensor in model.tensors.items():
        tensor[:] = params[name]
    for name in microgpt_fast.generate(model, 5, seed=1):
        print(name)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
