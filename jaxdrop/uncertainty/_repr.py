"""Results as a few short lines, because every element of every array would be unreadable."""

import reprlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.uncertainty._checks import known

_COLUMNS = 80


def short(result: Any, note: str = "") -> str:
    """Name of a named tuple, a note, and a line per field: dtype, shape and, if known, numbers."""
    width = max(map(len, result._fields))
    lines = [type(result).__name__ + note]
    lines += [f"  {name:{width}}  {_field(value)}" for name, value in result._asdict().items()]
    return "\n".join(
        line if len(line) <= _COLUMNS else line[: _COLUMNS - 1] + "…" for line in lines
    )


def readable(x: Any) -> bool:
    """Whether ``x`` is an array that can be read: not traced, deleted or on another host."""
    if not isinstance(x, jax.Array):
        return isinstance(x, np.ndarray | np.generic)
    return known(x) and not x.is_deleted() and x.is_fully_addressable


def _field(value: Any) -> str:
    leaves = jax.tree.leaves(value)
    if len(leaves) == 1:
        value = leaves[0]
    elif leaves:
        return f"{len(leaves)} arrays: {', '.join(map(_kind, leaves[:9]))}"
    numbers = _numbers(value)
    return f"{_kind(value)}  {numbers}" if numbers else _kind(value)


def _kind(x: Any) -> str:
    if not (hasattr(x, "dtype") and hasattr(x, "shape")):
        return reprlib.repr(x).replace("\n", " ")
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"


def _numbers(x: Any) -> str:
    kinds = jnp.floating, jnp.integer, jnp.bool_
    if not readable(x) or not x.size or not any(jnp.issubdtype(x.dtype, kind) for kind in kinds):
        return ""
    every = np.asarray(x).astype(np.float64)
    if not every.ndim:
        return f"{every:.3g}"
    some = every[~np.isnan(every)]
    missing = f"{every.size - some.size} NaN" if some.size < every.size else ""
    if not some.size:
        return missing
    with np.errstate(all="ignore"):  # a mean of infinities is one or NaN
        found = f"mean {some.mean():.3g}, {some.min():.3g} to {some.max():.3g}"
    return f"{found}, {missing}" if missing else found
