"""What a PyTorch user gains from microgpt_fast.torch: both sides in one process, in turn, one thread, float32.

python bench/torch_modules.py [rounds]
"""

import sys
import time

import torch
from torch.nn import functional as F

import microgpt_fast
import microgpt_fast.torch as fast


def norm(x):
    return F.rms_norm(x, x.shape[-1:], eps=1e-5)


def torchs_logits(model, tokens):
    """The model from torch's own functions; q, k and v come from one product."""
    x = norm(F.embedding(tokens, model.wte) + model.wpe[: tokens.shape[1]])
    for layer in model.layers:
        a = layer.attention
        y = norm(x)
        q, k, v = (
            F.linear(y, w).unflatten(-1, (a.n_head, -1)).transpose(1, 2)
            for w in (a.attn_wq, a.attn_wk, a.attn_wv)
        )
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.linear(o.transpose(1, 2).flatten(-2), a.attn_wo)
        x = x + F.linear(F.relu(F.linear(norm(x), layer.mlp.mlp_fc1)), layer.mlp.mlp_fc2)
    return F.linear(x, model.lm_head)


def training_step(batch_size):
    """Both sides' training step of a model of 4 layers, 4 heads, width 128 and block 64."""
    config = microgpt_fast.GPTConfig(65, n_layer=4, n_head=4, n_embd=128, block_size=64)
    text = torch.randint(65, (batch_size, 65))
    tokens, targets = text[:, :-1], text[:, 1:]
    ours, theirs = fast.GPT(config), fast.GPT(config)

    def step(loss_of, optimizer):
        optimizer.zero_grad()
        loss_of().backward()
        optimizer.step()

    def torchs_loss():
        return F.cross_entropy(torchs_logits(theirs, tokens).flatten(0, 1), targets.flatten())

    sides = fast.AdamW(ours.parameters()), torch.optim.AdamW(theirs.parameters())
    return lambda: step(lambda: ours.loss(tokens, targets), sides[0]), lambda: step(torchs_loss, sides[1])


def function(ours, theirs, *shape):
    """Both sides' forward and backward of a function of one tensor."""
    x = torch.randn(shape, requires_grad=True)
    dy = torch.ones_like(theirs(x))
    return lambda: torch.autograd.grad(ours(x), x, dy), lambda: torch.autograd.grad(theirs(x), x, dy)


def best(sides, rounds):
    """The shortest time of each side."""
    times = [float("inf")] * len(sides)
    for _ in range(rounds):
        for i, side in enumerate(sides):
            start = time.perf_counter()
            side()
            times[i] = min(times[i], time.perf_counter() - start)
    return times


def main(rounds=100):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    targets = torch.randint(50_257, (64,))
    jobs = {
        "4/4/128/64 GPT, batch 1": training_step(1),
        "4/4/128/64 GPT, batch 12": training_step(12),
        "rmsnorm 768 x 128": function(fast.rmsnorm, norm, 768, 128),
        "rmsnorm 1024 x 768": function(fast.rmsnorm, norm, 1024, 768),
        "cross-entropy 64 x 50257": function(
            lambda x: fast.cross_entropy(x, targets),
            lambda x: F.cross_entropy(x, targets, reduction="none"),
            64,
            50_257,
        ),
    }
    print(f"{'forward and backward':26} {'ours':>9} {'torch':>9}  ratio")
    for name, sides in jobs.items():
        ours, theirs = best(sides, rounds)
        print(f"{name:26} {ours * 1e3:6.2f} ms {theirs * 1e3:6.2f} ms  {theirs / ours:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
