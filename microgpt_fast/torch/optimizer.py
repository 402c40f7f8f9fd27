"""AdamW over the fused step."""

import torch

from .calls import run


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay: torch.optim.AdamW's arithmetic in one pass over the memory.

    p -= lr * (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay * p)

    Parameters
    ----------
    params : iterable of parameters or of groups
        float32 or float64, in the memory of the CPU, contiguous.
    lr : float
    betas : (float, float)
    eps : float
    weight_decay : float
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, but is {value}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in 0 .. 1 (1 excluded), not {betas}")
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        """One step for every parameter with a gradient; `closure`, where given, computes the loss first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group)
        return loss

    def _move(self, p, group):
        if p.grad.is_sparse:
            raise TypeError("AdamW takes no sparse gradients")
        if not p.is_contiguous():
            raise ValueError(f"AdamW moves contiguous parameters, not one of strides {p.stride()}")
        state = self.state[p]
        if not state:
            state["step"] = 0
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(p, memory_format=torch.contiguous_format)
        state["step"] += 1
        moments = state["exp_avg"], state["exp_avg_sq"]
        constants = (
            float(group["lr"]),
            *group["betas"],
            group["eps"],
            group["weight_decay"],
            int(state["step"]),
        )
        run("adamw_step", p, *moments, p.grad, p.numel(), *constants)
        torch.autograd.graph.increment_version([p, *moments])
