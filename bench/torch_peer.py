"""The bench's jobs in PyTorch: eager, with its fused attention and Adam.

torch.compile makes the jobs b and c slower on the processors tried, and F.rms_norm costs more than `norm`.
"""

from peer import padded_batches, serve, tensors


class TorchProgram:
    """One step a call: eager PyTorch returns to Python after every operation anyway."""

    steps_per_call = 1

    def __init__(self, job, dtype, threads):
        import torch

        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        self.name = f"PyTorch {torch.__version__.partition('+')[0]}"
        self.config = job.config
        self.parameters = {
            name: torch.tensor(value, requires_grad=True) for name, value in tensors(job, dtype).items()
        }
        self.adam = torch.optim.Adam(
            self.parameters.values(), lr=job.learning_rate, betas=(0.85, 0.99), eps=1e-8, fused=True
        )
        inputs, targets, weights, longest = padded_batches(job, dtype)
        arrays = (inputs.astype("int64"), targets.astype("int64"), weights)
        self.batches = [
            tuple(torch.from_numpy(array[i, :, :n]) for array in arrays) for i, n in enumerate(longest)
        ]
        self.padded = not (weights == weights[0, 0, 0]).all()
        self.step = 0

    def train(self):
        batch = self.batches[self.step % len(self.batches)]
        self.step += 1
        losses = token_losses(self.parameters, self.config, *batch[:2])
        loss = (losses * batch[2]).sum() if self.padded else losses.mean()
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        self.adam.step()
        return [loss.item()]


def token_losses(p, c, inputs, targets):
    """The cross-entropy at each token: [B, T], as are inputs and targets; p: parameters by name, c: GPTConfig."""
    import torch.nn.functional as F

    B, T = inputs.shape
    x = norm(F.embedding(inputs, p["wte"]) + p["wpe"][:T])
    for i in range(c.n_layer):
        qkv = F.linear(norm(x), p[f"layer{i}.attn_qkv"])
        q, k, v = qkv.view(B, T, 3, c.n_head, c.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.linear(y.transpose(1, 2).reshape(B, T, c.n_embd), p[f"layer{i}.attn_wo"])
        h = F.relu(F.linear(norm(x), p[f"layer{i}.mlp_fc1"]))
        x = x + F.linear(h.square() if c.activation == "relu2" else h, p[f"layer{i}.mlp_fc2"])
    logits = F.linear(x, p["lm_head"]).view(B * T, c.vocab_size)
    return F.cross_entropy(logits, targets.reshape(-1), reduction="none").view(B, T)


def norm(x):
    return x * (x * x).mean(-1, keepdim=True).add(1e-5).rsqrt()


if __name__ == "__main__":
    serve("torch", TorchProgram)
