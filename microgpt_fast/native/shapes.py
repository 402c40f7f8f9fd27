"""The kernels' arrays: their sizes, which are written, and how.

The other arguments, and the order of all, are in the C header: see signatures.py.
"""

import re

# kernel: its outputs, its arrays to read. name[sizes]; "+": added to what is there; "?": may be None.
SHAPES = {
    "embedding_forward": ("x[N C]", "tokens[N] positions[N] wte[V C] wpe[T C]"),
    "embedding_backward": ("+dwte[V C] +dwpe[T C]", "dx[N C] tokens[N] positions[N]"),
    "rmsnorm_forward": ("y[N C] rstd[N]", "x[N C] ?gain[C]"),
    "rmsnorm_backward": ("dx[N C] +dgain[C]", "dy[N C] x[N C] ?gain[C] rstd[N]"),
    "linear_forward": ("y[N O]", "x[N C] w[O C]"),
    "linear_backward": ("dx[N C] +dw[O C]", "dy[N O] x[N C] w[O C]"),
    "attention_forward": ("o[N H D] lse[N H]", "q[N H D] k[N H D] v[N H D] ?slopes[H]"),
    "attention_backward": (
        "dq[N H D] dk[N H D] dv[N H D] delta[N H]",
        "d_o[N H D] o[N H D] lse[N H] q[N H D] k[N H D] v[N H D] ?slopes[H]",
    ),
    "attention_decode": (
        "o[B H D]",
        "q[B H D] k_cache[B T_max H D] v_cache[B T_max H D] lengths[B] ?slopes[H]",
    ),
    "rope_forward": ("y[N H D]", "x[N H D] positions[N]"),
    "rope_backward": ("dx[N H D]", "dy[N H D] positions[N]"),
    "mlp_forward": ("y[N C] h[N F]", "x[N C] w1[F C] w2[C F]"),
    "mlp_backward": ("dx[N C] +dw1[F C] +dw2[C F] dh[N F]", "dy[N C] h[N F] x[N C] w1[F C] w2[C F]"),
    "cross_entropy_forward": ("losses[N] lse[N]", "logits[N V] targets[N]"),
    "cross_entropy_backward": ("dlogits[N V]", "dlosses[N] lse[N] logits[N V] targets[N]"),
    "adamw_step": ("+p[n] +m[n] +v[n]", "g[n]"),
    "gemm_nn": ("c[M N]", "a[M K] b[K N]"),
    "gemm_nt": ("c[M N]", "a[M K] b[N K]"),
    "gemm_tn": ("c[M N]", "a[K M] b[K N]"),
}


class Argument:
    """One array of a kernel: its name, its sizes, whether it is added to, whether it may be None."""

    def __init__(self, text):
        mark, self.name, sizes = re.fullmatch(r"([+?]?)(\w+)\[(.*)\]", text).groups()
        self.adds, self.optional, self.sizes = mark == "+", mark == "?", sizes.split()


def _arguments(text):
    return [Argument(item) for item in re.findall(r"[+?]?\w+\[.*?\]", text)]


ARGUMENTS = {
    kernel: (_arguments(outputs), _arguments(inputs)) for kernel, (outputs, inputs) in SHAPES.items()
}
