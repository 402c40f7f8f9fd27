"""Token and position embedding."""

import numpy as np

from ._call import call, integer


def embedding_forward(tokens, positions, wte, wpe, *, out=None, backend="auto"):
    """x_i = wte[tokens_i] + wpe[positions_i].

    Parameters
    ----------
    tokens, positions : int32 [N]
        Ids below V, positions below T.
    wte, wpe : [V, C], [T, C]
        The tables.
    out : [N, C], optional
        Overwritten with the result.
    backend : str or module

    Returns
    -------
    x : [N, C]

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`.
    IndexError
        For a token or position out of range; the text names it and the size.
    """
    inputs = dict(tokens=tokens, positions=positions, wte=wte, wpe=wpe)
    return call("embedding_forward", inputs, out=out, backend=backend)


def embedding_backward(dx, tokens, positions, *, vocab_size=None, block_size=None, out=None, backend="auto"):
    """dwte[tokens_i] += dx_i and dwpe[positions_i] += dx_i, in ascending order of i.

    Parameters
    ----------
    dx : [N, C]
        The loss's derivative with respect to x.
    tokens, positions : int32 [N]
    vocab_size, block_size : int, optional
        V and T; needed for a gradient that is not in `out`.
    out : ([V, C] or None, [T, C] or None), optional
        dwte and dwpe, added to. Each may be a part of a larger buffer.
    backend : str or module

    Returns
    -------
    dwte, dwpe : [V, C], [T, C]

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`; ValueError also if neither `out` nor an option gives the size of a table.
    IndexError
        For a token or position out of range.
    """
    sizes = {}
    given = out if isinstance(out, (tuple, list)) and len(out) == 2 else (None, None)
    for letter, name, size, table, array in (
        ("V", "vocab_size", vocab_size, "dwte", given[0]),
        ("T", "block_size", block_size, "dwpe", given[1]),
    ):
        if size is not None:
            sizes[letter] = integer(name, size)
        elif array is None:
            raise ValueError(f"embedding_backward needs {name}, or an array in out with that many rows")
        elif not isinstance(array, np.ndarray):
            raise TypeError(f"out for {table} must be a NumPy array, not {type(array).__name__}")
        elif array.ndim != 2:
            raise ValueError(f"out for {table} must have shape [{letter}, C], not {array.shape}")
        else:
            sizes[letter] = len(array)
    inputs = dict(dx=dx, tokens=tokens, positions=positions)
    return call("embedding_backward", inputs, sizes=sizes, out=out, backend=backend)
