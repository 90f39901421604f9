"""What is done to an array with a mask: scale what is kept, choose, show an invalid rate as NaN.

Nothing here checks or draws. What a backward pass keeps of a mask is its words.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxdrop.masks import _sharding
from jaxdrop.masks._layout import Layout, layout_of, unpack

if TYPE_CHECKING:
    from jaxdrop.masks._mask import Mask


def remember_words_only(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function(mask, ...)`` such that the words alone are kept for its backward pass.

    What follows from the words is computed again. CSE may merge both computations: they are
    element-wise and fuse into their consumers.
    """
    return jax.checkpoint(function, prevent_cse=False)


def scale_kept(mask: "Mask", x: jax.Array) -> jax.Array:
    """``x`` over the keep probability where an element survives, else 0."""
    return remember_words_only(_scale_kept)(mask, x)


def _scale_kept(mask: "Mask", x: jax.Array) -> jax.Array:
    return scale_kept_bools(keep_bools(mask, x), mask.keep_prob, x)


def scale_kept_bools(keep: jax.Array, keep_prob: Any, x: jax.Array) -> jax.Array:
    """`scale_kept` for decisions that are booleans, or multipliers, and broadcast to ``x``."""
    if keep.dtype != jnp.bool_:
        wide = wide_dtype(x)
        return (x.astype(wide) * keep.astype(wide)).astype(x.dtype)
    scaled = _scale(align(keep_prob, x), x)
    # Chosen before the rounding: the lanes of a narrow dtype are not as wide as those of the words.
    return jnp.where(keep, scaled, jnp.zeros((), scaled.dtype)).astype(x.dtype)


def where_kept(mask: "Mask", kept: jax.Array, dropped: Any) -> jax.Array:
    """``kept`` where an element survives, else ``dropped``; the mask broadcasts to ``kept``."""
    return remember_words_only(_where_kept)(mask, kept, dropped)


def _where_kept(mask: "Mask", kept: jax.Array, dropped: Any) -> jax.Array:
    keep = keep_bools(mask, kept)
    if keep.dtype == jnp.bool_:
        return jnp.where(keep, kept, dropped)
    wide = wide_dtype(kept)
    keep = (keep * align(mask.keep_prob, kept).astype(keep.dtype)).astype(wide)
    dropped = jnp.asarray(dropped).astype(wide)
    return (kept.astype(wide) * keep + dropped * (1 - keep)).astype(kept.dtype)


def nan_if_invalid(mask: "Mask", x: jax.Array) -> jax.Array:
    """``x``, and NaN where a traced rate lies outside [0, 1], since that cannot be refused.

    For variants that do not scale by the keep probability, which is NaN there.
    """
    if not isinstance(mask.keep_prob, jax.Array):  # a known rate has been checked
        return x
    return remember_words_only(_nan_if_nan)(align(mask.keep_prob, x), x)


def _nan_if_nan(keep_prob: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(keep_prob), jnp.full((), jnp.nan, x.dtype), x)


def keep_bools(mask: "Mask", x: jax.Array) -> jax.Array:
    """The mask's booleans, or multipliers, with the rank of ``x``, and sharded like it."""
    return _pad_rank(unpack_like(mask.words, layout_of(mask.shape), x), x)


def unpack_like(words: jax.Array, layout: Layout, x: jax.Array) -> jax.Array:
    """The booleans of packed words, sharded like the array that they broadcast to.

    Multipliers are what they are: inside ``tapped`` they stand where words would.
    """
    keep = words if jnp.issubdtype(words.dtype, jnp.floating) else unpack(words, layout)
    sharding = _sharding.mask_sharding(x, layout.shape)
    return keep if sharding is None else jax.sharding.reshard(keep, sharding)


def align(values: Any, x: jax.Array) -> Any:
    """Values that broadcast to ``x``, with its rank and sharded like it, unless it is a scalar."""
    values = _pad_rank(values, x)
    if values.ndim and _sharding.mask_sharding(x, values.shape) is not None:
        return jax.sharding.reshard(values, _sharding.mask_sharding(x, values.shape))
    return values


def _pad_rank(values: Any, x: jax.Array) -> Any:
    """Values that are not a scalar with leading axes of size 1 up to the rank of ``x``."""
    missing = x.ndim - values.ndim
    return values.reshape((1,) * missing + values.shape) if values.ndim and missing else values


def wide_dtype(x: jax.Array) -> Any:
    """The dtype to compute in before rounding once to that of ``x``: float32 or wider."""
    return x.dtype if x.dtype.itemsize >= 4 else jnp.float32


def widened(value: Any) -> jax.Array:
    """A real number, or an array of them, as an array of float32 or wider."""
    x = jnp.asarray(value)
    return x.astype(wide_dtype(x) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32)


def _scale(keep_prob: Any, x: jax.Array) -> jax.Array:
    """``x / keep_prob`` in float32 or better, to be rounded once to the dtype of ``x``."""
    wide = wide_dtype(x)
    real = jnp.finfo(wide).dtype
    x = x.astype(wide)
    # The scale is finite even if nothing survives: 0 * inf would put NaN into the gradient.
    some = jnp.where(keep_prob == 0, jnp.ones_like(keep_prob), keep_prob)
    scale = jax.lax.stop_gradient(1 / some.astype(real)).astype(wide)
    # Multiplying by 1 may still flush a denormal: at rate 0 the result is x, bit for bit. Asking
    # the scale and not keep_prob spares XLA from deriving the latter from the rate per element.
    return jnp.where(scale == 1, x, x * scale)
