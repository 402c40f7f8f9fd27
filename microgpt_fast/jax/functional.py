"""The kernels as functions of JAX arrays with derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ..config import ACTIVATIONS
from .calls import call

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def _check(kernel, arrays):
    """The arrays as JAX's: of one dtype, and of the shapes that name sizes; (name, array, "N C")."""
    sizes, checked = {}, []
    for name, array, shape in arrays:
        array = jnp.asarray(array)
        if array.dtype not in FLOATS:
            raise TypeError(f"{name} must be float32 or float64, not {array.dtype}")
        if checked and array.dtype != checked[0].dtype:
            raise TypeError(
                f"{kernel} takes arrays of one dtype, not {checked[0].dtype} and {name} {array.dtype}"
            )
        letters = shape.split()
        fits = array.ndim == len(letters)
        if not fits or any(sizes.setdefault(s, n) != n for s, n in zip(letters, array.shape)):
            known = ", ".join(f"{s} = {sizes[s]}" for s in letters if s in sizes)
            known = f" with {known}" if known else ""
            raise ValueError(
                f"{kernel} takes {name} [{', '.join(letters)}]{known}, not the shape {array.shape}"
            )
        checked.append(array)
    return checked


def _rows(array):
    """[..., C] as [N, C]"""
    array = jnp.asarray(array)
    return array.reshape(-1, array.shape[-1]) if array.ndim else array


def _ids(name, array):
    """Token ids, positions or targets as the kernels read them: one dimension, int32."""
    array = jnp.asarray(array)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be of an integer dtype, not {array.dtype}")
    return array.astype(np.int32).reshape(-1)


def rmsnorm(x, gain=None, eps=1e-5):
    """y = x / sqrt(mean(x^2) + eps) (* gain) over the last dimension.

    Parameters
    ----------
    x : array [..., C]
    gain : array [C], optional
    eps : float

    Returns
    -------
    y : array [..., C]
    """
    rows = _rows(x)
    if gain is None:
        [rows], gain = _check("rmsnorm", [("x", rows, "N C")]), jnp.empty(0, rows.dtype)
    else:
        rows, gain = _check("rmsnorm", [("x", rows, "N C"), ("gain", gain, "C")])
    return _rmsnorm(rows, gain, float(eps)).reshape(jnp.shape(x))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rmsnorm(x, gain, eps):
    return _rmsnorm_forward(x, gain, eps)[0]


def _rmsnorm_forward(x, gain, eps):
    y, rstd = call("rmsnorm_forward", (x.shape, x.shape[:1]), x, gain, eps=eps)
    return y, (x, gain, rstd)


def _rmsnorm_backward(eps, saved, dy):
    x, gain, rstd = saved
    return call("rmsnorm_backward", (x.shape, gain.shape), dy, x, gain, rstd)


_rmsnorm.defvjp(_rmsnorm_forward, _rmsnorm_backward)


def linear(x, w):
    """y = x w^T for x [..., C] and w [O, C]."""
    rows, w = _check("linear", [("x", _rows(x), "N C"), ("w", w, "O C")])
    return _gemm_nt(rows, w).reshape(*jnp.shape(x)[:-1], w.shape[0])


def gemm_nn(a, b):
    """c = a b for a [M, K] and b [K, N]."""
    return _gemm_nn(*_check("gemm_nn", [("a", a, "M K"), ("b", b, "K N")]))


def gemm_nt(a, b):
    """c = a b^T for a [M, K] and b [N, K]."""
    return _gemm_nt(*_check("gemm_nt", [("a", a, "M K"), ("b", b, "N K")]))


def gemm_tn(a, b):
    """c = a^T b for a [K, M] and b [K, N]."""
    return _gemm_tn(*_check("gemm_tn", [("a", a, "K M"), ("b", b, "K N")]))


@jax.custom_vjp
def _gemm_nn(a, b):
    [c] = call("gemm_nn", ((a.shape[0], b.shape[1]),), a, b)
    return c


@jax.custom_vjp
def _gemm_nt(a, b):
    [c] = call("gemm_nt", ((a.shape[0], b.shape[0]),), a, b)
    return c


@jax.custom_vjp
def _gemm_tn(a, b):
    [c] = call("gemm_tn", ((a.shape[1], b.shape[1]),), a, b)
    return c


def _with_inputs(function):
    return lambda a, b: (function(a, b), (a, b))


# c = a b: da = dc b^T, db = a^T dc.  c = a b^T: da = dc b, db = dc^T a.  c = a^T b: da = b dc^T, db = a dc.
_gemm_nn.defvjp(_with_inputs(_gemm_nn), lambda ab, dc: (_gemm_nt(dc, ab[1]), _gemm_tn(ab[0], dc)))
_gemm_nt.defvjp(_with_inputs(_gemm_nt), lambda ab, dc: (_gemm_nn(dc, ab[1]), _gemm_tn(dc, ab[0])))
_gemm_tn.defvjp(_with_inputs(_gemm_tn), lambda ab, dc: (_gemm_nt(ab[1], dc), _gemm_nn(ab[0], dc)))


def mlp(x, w1, w2, activation="relu"):
    """y = f(x w1^T) w2^T for x [..., C], w1 [F, C], w2 [C, F]; f is one of `microgpt_fast.config.ACTIVATIONS`."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    arrays = _check("mlp", [("x", _rows(x), "N C"), ("w1", w1, "F C"), ("w2", w2, "C F")])
    return _mlp(*arrays, ACTIVATIONS.index(activation)).reshape(jnp.shape(x))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _mlp(x, w1, w2, activation):
    return _mlp_forward(x, w1, w2, activation)[0]


def _mlp_forward(x, w1, w2, activation):
    shapes = x.shape, (x.shape[0], w1.shape[0])
    y, h = call("mlp_forward", shapes, x, w1, w2, activation=activation)
    return y, (h, x, w1, w2)


def _mlp_backward(activation, saved, dy):
    h, x, w1, w2 = saved
    shapes = x.shape, w1.shape, w2.shape, h.shape
    return call("mlp_backward", shapes, dy, h, x, w1, w2, activation=activation)[:3]


_mlp.defvjp(_mlp_forward, _mlp_backward)


def cross_entropy(logits, targets):
    """losses = log sum_j exp(logits_j) - logits[targets], one per row.

    Parameters
    ----------
    logits : array [..., V]
    targets : integer array [...]
        From 0 to V - 1; another one is an error when the call is run.

    Returns
    -------
    losses : array [...]
    """
    targets = jnp.asarray(targets)
    if targets.shape != jnp.shape(logits)[:-1]:
        shapes = f"{targets.shape} for logits of shape {jnp.shape(logits)}"
        raise ValueError(f"targets must have one id per row of logits, not the shape {shapes}")
    [rows] = _check("cross_entropy", [("logits", _rows(logits), "N V")])
    return _cross_entropy(rows, _ids("targets", targets)).reshape(targets.shape)


@jax.custom_vjp
def _cross_entropy(logits, targets):
    return _cross_entropy_forward(logits, targets)[0]


def _cross_entropy_forward(logits, targets):
    losses, lse = call("cross_entropy_forward", (targets.shape, targets.shape), logits, targets)
    return losses, (lse, logits, targets)


def _cross_entropy_backward(saved, dlosses):
    lse, logits, targets = saved
    return call("cross_entropy_backward", (logits.shape,), dlosses, lse, logits, targets)[0], None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def embedding(tokens, positions, wte, wpe):
    """x = wte[tokens] + wpe[positions] for wte [V, C], wpe [T, C]; an id out of range is an error when it is run."""
    wte, wpe = _check("embedding", [("wte", wte, "V C"), ("wpe", wpe, "T C")])
    ids = _ids("tokens", tokens), _ids("positions", positions)
    if jnp.shape(tokens) != jnp.shape(positions):
        shapes = f"{jnp.shape(tokens)} and {jnp.shape(positions)}"
        raise ValueError(f"tokens and positions must have one shape, not {shapes}")
    return _embedding(*ids, wte, wpe).reshape(*jnp.shape(tokens), wte.shape[1])


@jax.custom_vjp
def _embedding(tokens, positions, wte, wpe):
    [x] = call("embedding_forward", ((*tokens.shape, wte.shape[1]),), tokens, positions, wte, wpe)
    return x


def _embedding_forward(tokens, positions, wte, wpe):
    return _embedding(tokens, positions, wte, wpe), (tokens, positions, wte, wpe)


def _embedding_backward(saved, dx):
    tokens, positions, wte, wpe = saved
    return None, None, *call("embedding_backward", (wte.shape, wpe.shape), dx, tokens, positions)


_embedding.defvjp(_embedding_forward, _embedding_backward)


def attention(q, k, v, cu_seqlens=None, *, scale=None, slopes=None):
    """Causal attention: each position attends to the earlier ones of its document and to itself.

    Parameters
    ----------
    q, k, v : arrays [N, H, D] or [B, T, H, D]
        Documents end to end, or B sequences of one length.
    cu_seqlens : int32 array [B + 1], optional
        For [N, H, D]: document b has the rows cu_seqlens[b] .. cu_seqlens[b + 1] - 1; None means one document.
    scale : float, optional
        D ** -0.5 if not given.
    slopes : array [H], optional
        Slopes of a bias that grows with the distance (ALiBi); their gradient is zero.

    Returns
    -------
    o : array of the shape of q
    """
    shape = jnp.shape(q)
    layout = "B T H D" if len(shape) == 4 else "N H D"
    arrays = [("q", q, layout), ("k", k, layout), ("v", v, layout)]
    if slopes is not None:
        arrays.append(("slopes", slopes, "H"))
    q, k, v, *given = _check("attention", arrays)
    if len(shape) == 4:
        if cu_seqlens is not None:
            raise ValueError("cu_seqlens goes with q of shape [N, H, D], not with [B, T, H, D]")
        cu_seqlens = np.arange(shape[0] + 1) * shape[1]
        q, k, v = (part.reshape(-1, *shape[2:]) for part in (q, k, v))
    elif cu_seqlens is None:
        cu_seqlens = np.array([0, shape[0]])
    offsets = _ids("cu_seqlens", cu_seqlens)
    slopes = given[0] if given else jnp.empty(0, q.dtype)
    scale = shape[-1] ** -0.5 if scale is None else float(scale)
    return _attention(q, k, v, offsets, slopes, scale).reshape(shape)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attention(q, k, v, cu_seqlens, slopes, scale):
    return _attention_forward(q, k, v, cu_seqlens, slopes, scale)[0]


def _attention_forward(q, k, v, cu_seqlens, slopes, scale):
    o, lse = call("attention_forward", (q.shape, q.shape[:2]), q, k, v, cu_seqlens, slopes, scale=scale)
    return o, (o, lse, q, k, v, cu_seqlens, slopes)


def _attention_backward(scale, saved, d_o):
    q, slopes = saved[2], saved[-1]
    shapes = q.shape, q.shape, q.shape, q.shape[:2]
    dq, dk, dv, _ = call("attention_backward", shapes, d_o, *saved, scale=scale)
    return dq, dk, dv, None, jnp.zeros_like(slopes)


_attention.defvjp(_attention_forward, _attention_backward)
