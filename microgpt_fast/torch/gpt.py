"""The whole model as a module, from and to this package's model files."""

import numpy as np
import torch
from torch import nn

from ..config import GPTConfig
from ..model import GPT as Model
from ..parameters import outside_layers
from ..training import checkpoint
from . import functional
from .modules import MLP, CausalSelfAttention, RMSNorm


class Layer(nn.Module):
    """x += attention(rmsnorm(x)); x += mlp(rmsnorm(x))."""

    def __init__(self, config, **kind):
        super().__init__()
        self.norm = RMSNorm(config.n_embd)
        self.attention = CausalSelfAttention(config.n_embd, config.n_head, **kind)
        self.mlp = MLP(config.n_embd, config.mlp_width, config.activation, **kind)

    def forward(self, x, cu_seqlens=None):
        x = x + self.attention(self.norm(x), cu_seqlens)
        return x + self.mlp(self.norm(x))


class GPT(nn.Module):
    """The model of `microgpt_fast.GPT`: the same logits, losses and gradients.

    Parameters
    ----------
    config : microgpt_fast.GPTConfig
    tokenizer : optional
        Kept for `to_file`.
    device, dtype
        As for torch's modules.

    Attributes
    ----------
    config, tokenizer
    """

    def __init__(self, config: GPTConfig, tokenizer=None, *, device=None, dtype=None):
        super().__init__()
        kind = {"device": device, "dtype": dtype}
        self.config, self.tokenizer = config, tokenizer
        for parameter in outside_layers(config):
            self.register_parameter(parameter.name, nn.Parameter(torch.empty(parameter.shape, **kind)))
        self.norm = RMSNorm(config.n_embd)
        self.layers = nn.ModuleList(Layer(config, **kind) for _ in range(config.n_layer))
        named = self.original_names()
        if {name: tuple(p.shape) for name, p in named.items()} != config.shapes() or any(
            parameter.tied_to for parameter in config.parameters()
        ):
            raise ValueError(f"microgpt_fast.torch has no module for this configuration: {config}")
        for parameter in named.values():
            nn.init.normal_(parameter, std=0.08)

    def original_names(self):
        """The parameters by their names in the original and in model files, such as "layer0.attn_wq"."""
        names = {parameter.name: getattr(self, parameter.name) for parameter in outside_layers(self.config)}
        for i, layer in enumerate(self.layers):
            for module in (layer.attention, layer.mlp):
                names |= {f"layer{i}.{name}": p for name, p in module.named_parameters()}
        return names

    def forward(self, tokens, cu_seqlens=None):
        """The logits of the token that follows each token.

        Parameters
        ----------
        tokens : integer tensor [T], [B, T], or [N] with cu_seqlens
        cu_seqlens : int32 tensor [B + 1], optional
            Documents end to end: document b has the tokens cu_seqlens[b] .. cu_seqlens[b + 1] - 1.

        Returns
        -------
        logits : tensor [..., vocab_size]
        """
        positions = _positions(tokens, cu_seqlens)
        x = self.norm(functional.embedding(tokens, positions, self.wte, self.wpe))
        for layer in self.layers:
            x = layer(x, cu_seqlens)
        return functional.linear(x, self.lm_head)

    def loss(self, tokens, targets, cu_seqlens=None):
        """The mean over documents of each one's mean cross-entropy, as `microgpt_fast.Trainer` has it."""
        losses = functional.cross_entropy(self(tokens, cu_seqlens), targets)
        if cu_seqlens is None:
            return losses.mean()
        lengths = cu_seqlens.diff()
        weights = 1 / (lengths * len(lengths)).to(losses.dtype)
        return losses @ weights.repeat_interleave(lengths, output_size=len(losses))

    @classmethod
    def from_file(cls, path):
        """A model that `to_file`, `microgpt_fast.save` or the command line wrote, in the file's dtype."""
        return cls.from_model(checkpoint.load(path))

    @classmethod
    def from_model(cls, model):
        """A copy of a `microgpt_fast.GPT`."""
        copy = cls(model.config, model.tokenizer, dtype=getattr(torch, model.parameters.dtype.name))
        with torch.no_grad():
            for name, parameter in copy.original_names().items():
                parameter.copy_(torch.from_numpy(model.tensors[name]))
        return copy

    def to_model(self, **options):
        """A copy as a `microgpt_fast.GPT`, to sample and score with; options as there."""
        model = Model(
            self.config, self.tokenizer, dtype=str(self.wte.dtype).removeprefix("torch."), **options
        )
        for name, parameter in self.original_names().items():
            np.copyto(model.tensors[name], parameter.detach().cpu().numpy())
        return model

    def to_file(self, path):
        """Write the model to a file that `from_file`, `microgpt_fast.load` and the command line read."""
        checkpoint.save(self.to_model(), path)


def _positions(tokens, cu_seqlens):
    """Each token's place in its document, from 0."""
    count = torch.arange(tokens.shape[-1], dtype=torch.int32, device=tokens.device)
    if cu_seqlens is None:
        return count.expand(tokens.shape)
    starts = cu_seqlens[:-1].repeat_interleave(cu_seqlens.diff(), output_size=len(count))
    return count - starts.to(torch.int32)
