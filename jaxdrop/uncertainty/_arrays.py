"""Arrays as the other files want them: in float32 or better, readable where they are known."""

from fractions import Fraction

import jax
import jax.numpy as jnp
from jax.core import Tracer


def as_array(x, name):
    """``x`` as a jax array; lists of numbers are welcome."""
    try:
        return jnp.asarray(float(x) if isinstance(x, Fraction) else x)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name}: expected an array of numbers, got {type(x).__name__}; "
            "convert it first, for example with np.asarray(x, float) or jnp.stack"
        ) from None


def widen(x):
    """``x`` in float32, or in its own dtype if that is wider."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def known(x):
    """Whether the values of ``x`` can be read now."""
    return not isinstance(x, Tracer)


def read(fn, x):
    """Python numbers of ``fn(x)`` for a known ``x``, also while something else is traced."""
    with jax.ensure_compile_time_eval():
        return [value.item() for value in jax.device_get(fn(x))]


@jax.jit
def extremes(x):
    """Smallest and largest entry of ``x``, both NaN if one is."""
    return x.min(), x.max()


def runs(ranked):
    """For each of sorted numbers, where its run of equal ones starts and ends; ends are past it."""
    count = ranked.size
    number = jnp.arange(count, dtype=jnp.int32)
    changes = ranked[1:] != ranked[:-1]
    first = jnp.concatenate([jnp.ones(1, bool), changes])
    last = jnp.concatenate([changes, jnp.ones(1, bool)])
    start = jax.lax.cummax(jnp.where(first, number, 0))
    return start, jax.lax.cummin(jnp.where(last, number + 1, count), reverse=True)


def one_hot(labels, like):
    """Booleans of the shape of ``like``, True where the last axis counts the label."""
    # Compared rather than gathered or scattered: that partitions wherever the arrays do.
    labels = jnp.expand_dims(labels, -1)
    return labels == jax.lax.broadcasted_iota(labels.dtype, like.shape, like.ndim - 1)
