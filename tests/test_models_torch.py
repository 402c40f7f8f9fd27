"""Options of the model against a PyTorch model written for this test: losses and gradients, float64."""

import random

import numpy as np
import pytest

from microgpt_fast.backends import numpy_backend
from microgpt_fast.backends.engines import engine_of
from microgpt_fast.config import GPTConfig

torch = pytest.importorskip("torch")
F = torch.nn.functional

MODELS = {
    "plain": {},
    "tied": dict(tie_embeddings=True),
    "rope": dict(position="rope"),
    "alibi": dict(position="alibi"),
    "no-position": dict(position="none"),
    "qk-norm": dict(qk_norm=True, qk_norm_scale=2.0),
    "gains": dict(norm_gain=True, final_norm=True),
    "swiglu": dict(mlp="gated", activation="silu"),
    "geglu": dict(mlp="gated", activation="gelu", mlp_hidden=10),
    "softcap": dict(logit_softcap=2.0),
    "value-embedding": dict(value_embedding=True),
    "tied-alibi": dict(tie_embeddings=True, position="alibi", qk_norm=True, activation="relu2"),
    "llama-like": dict(position="rope", norm_gain=True, final_norm=True, mlp="gated", activation="silu"),
    "attention": dict(residual="attention"),
    "attention-block": dict(residual="attention_block", layers_per_block=2, n_layer=3),
}
ACTIVATIONS = {
    "relu": F.relu,
    "relu2": lambda h: F.relu(h).square(),
    "gelu": lambda h: F.gelu(h, approximate="tanh"),
    "silu": F.silu,
}


def rms(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


def rotated(x):
    """RoPE of [H, T, D] in complex numbers: the halves of a head are real and imaginary parts."""
    H, T, D = x.shape
    frequencies = 10_000.0 ** (-torch.arange(D // 2, dtype=x.dtype) * 2 / D)
    angles = torch.arange(T, dtype=x.dtype)[:, None] * frequencies
    turned = torch.complex(x[..., : D // 2], x[..., D // 2 :]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


class Model:
    """The whole model for one document, on named tensors."""

    def __init__(self, config, w):
        self.config, self.w = config, w

    def loss(self, tokens):
        config, w, T = self.config, self.w, len(tokens) - 1
        ids = torch.tensor(tokens)
        x = w["wte"][ids[:-1]]
        if config.position == "learned":
            x = x + w["wpe"][:T]
        mixes = config.residual.startswith("attention")
        if not mixes:
            x = self.norm("embd_norm", x)
        values = [x]
        for layer in range(config.n_layer):
            block = f"layer{layer}."
            for name, sublayer in (("attn_", self.attention), ("mlp_", self.mlp)):
                read = self.mixture(w[f"{block}{name}res_proj"], values) if mixes else values[-1]
                y = sublayer(block, self.norm(f"{block}{name}norm", read), ids[:-1])
                begins = config.residual == "attention" or (
                    name == "attn_" and layer % config.layers_per_block == 0
                )
                values = [*values, y] if mixes and begins else [*values[:-1], values[-1] + y]
        x = self.mixture(w["out_res_proj"], values) if mixes else values[-1]
        if config.final_norm:
            x = self.norm("final_norm", x)
        logits = x @ w["lm_head"].T
        if config.logit_softcap:
            logits = config.logit_softcap * torch.tanh(logits / config.logit_softcap)
        return F.cross_entropy(logits, ids[1:])

    def norm(self, name, x):
        return rms(x) * self.w[name] if self.config.norm_gain else rms(x)

    def mixture(self, w, values):
        stacked = torch.stack(values)
        alpha = torch.softmax((rms(stacked) * w).sum(-1, keepdim=True), dim=0)
        return (alpha * stacked).sum(0)

    def attention(self, block, x, ids):
        config, w, T = self.config, self.w, len(x)
        q, k, v = (x @ w[f"{block}attn_w{name}"].T for name in "qkv")
        if config.value_embedding:
            v = v + w[block + "attn_ve"][ids]
        q, k, v = (part.view(T, config.n_head, -1).transpose(0, 1) for part in (q, k, v))
        if config.qk_norm:
            q, k = rms(q), rms(k)
        if config.position == "rope":
            q, k = rotated(q), rotated(k)
        scores = (
            q @ k.transpose(1, 2) * ((config.qk_norm_scale if config.qk_norm else 1) / config.head_dim**0.5)
        )
        distance = torch.arange(T)[:, None] - torch.arange(T)
        if config.position == "alibi":  # for heads whose number is a power of two
            slopes = 2.0 ** (-8 * torch.arange(1, config.n_head + 1, dtype=x.dtype) / config.n_head)
            scores = scores - slopes[:, None, None] * distance
        p = torch.softmax(scores.masked_fill(distance < 0, -torch.inf), dim=-1)
        return (p @ v).transpose(0, 1).reshape(T, -1) @ w[block + "attn_wo"].T

    def mlp(self, block, x, ids):
        hidden = ACTIVATIONS[self.config.activation](x @ self.w[block + "mlp_fc1"].T)
        if self.config.mlp == "gated":
            hidden = hidden * (x @ self.w[block + "mlp_fc3"].T)
        return hidden @ self.w[block + "mlp_fc2"].T


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_pytorchs(name):
    config = GPTConfig(9, **{**dict(n_layer=2, n_embd=16, n_head=4, block_size=7), **MODELS[name]})
    draw = random.Random(4)
    params = np.array([draw.gauss(0, 0.4) for _ in range(config.num_params)])
    documents = [[draw.randrange(9) for _ in range(n + 1)] for n in (7, 2, 5)]

    leaf = torch.tensor(params.tolist(), dtype=torch.float64, requires_grad=True)
    weights = {p.name: leaf[p.place].view(p.shape) for p in config.parameters()}
    losses = [Model(config, weights).loss(document) for document in documents]
    (sum(losses) / len(losses)).backward()
    wanted = np.array(leaf.grad.tolist())

    grads = np.zeros_like(params)
    starts = np.cumsum([0, *map(len, documents)])[:-1]
    tokens, lengths = np.concatenate(documents).astype(np.int32), np.array([7, 2, 5], np.int32)
    got = engine_of(numpy_backend, config, "float64").backward(grads, params, tokens, starts, lengths)
    np.testing.assert_allclose(got, [loss.item() for loss in losses], rtol=1e-10)
    for parameter in config.parameters():
        part = parameter.place
        atol = 1e-10 * np.abs(wanted[part]).max()
        np.testing.assert_allclose(grads[part], wanted[part], rtol=0, atol=atol, err_msg=parameter.name)
