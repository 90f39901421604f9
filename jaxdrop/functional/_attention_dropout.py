"""Dropout of attention weights."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, Rule, apply_masked, shared_shape
from jaxdrop.masks import Mask
from jaxdrop.masks import _internal as masks


def attention_dropout(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    broadcast_dims: Sequence[int] = (),
    renormalize: bool = False,
) -> jax.Array:
    """Zeros attention weights at random and rescales the rest.

    Each weight survives with probability ``1 - rate``, independently for each example, head, query
    and key. The survivors are divided by that probability, so the mean over keys is ``x``; or, if
    ``renormalize``, by the sum of the survivors of their query, so that each row sums to 1 again.
    A row without survivors is then 0 and has the gradient 0.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: attention weights after the softmax, floating or complex, of shape ``(..., H, Q, K)``:
            H heads, Q queries, K keys.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to the shape of ``x`` (with 1 on the ``broadcast_dims``).
        deterministic: if true, returns ``x``; may be traced.
        broadcast_dims: axes that share one decision.
        renormalize: if true, rows sum to 1. Where the rate is 0 they are those of ``x`` as it is.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating or complex array, ``key`` is not a PRNG key, or another
            argument is of the wrong type.
        ValueError: ``x`` has a rank below 2, ``rate`` lies outside [0, 1] or does not broadcast,
            ``key`` is a batch of keys, or ``broadcast_dims`` names an axis that ``x`` lacks, or
            one twice.

    Example:
        >>> weights = jax.nn.softmax(jnp.ones((2, 4, 8, 8)))
        >>> attention_dropout(jax.random.key(0), weights, 0.1).shape
        (2, 4, 8, 8)
        >>> y = attention_dropout(jax.random.key(0), weights, 0.1, renormalize=True)
        >>> bool(jnp.allclose(y.sum(-1), 1))
        True

    References:
        Vaswani et al., "Attention is all you need", 2017, section 5.4; Lin et al., "DropAttention:
        a regularization method for fully-connected self-attention networks", 2019, normalized
        rescaling.
    """
    x = masks.check_array(x)
    if x.ndim < 2:
        raise ValueError(
            f"x: expected attention weights of shape (..., H, Q, K), got shape {x.shape}; "
            f"for an array of another kind use dropout{masks.order_hint(x.ndim)}"
        )
    shape = shared_shape(x, masks.check_axes(broadcast_dims, x.ndim, "broadcast_dims"))
    rule = _RENORMALIZED if renormalize else Rule()
    return apply_masked(key, x, rate, shape, deterministic=deterministic, rule=rule)


def _renormalize(mask: Mask, x: jax.Array) -> jax.Array:
    """Survivors over their sum, in float32 or better and rounded once; x where the rate is 0."""
    wide = masks.wide_dtype(x)
    zero = jnp.zeros((), wide)
    keep_prob = masks.align(mask.keep_prob, x)
    whole = keep_prob == 1
    if whole.ndim:
        whole = whole.all(axis=-1, keepdims=True)
    # Unchanged rows are treated as empty here, so that a NaN in them cannot reach the gradient.
    kept = jnp.where(whole, zero, masks.where_kept(mask, x.astype(wide), zero))
    total = jax.lax.stop_gradient(kept.sum(axis=-1, keepdims=True))
    empty = total == 0
    one = jnp.ones((), wide)
    # Divided twice: the derivative of the first quotient by its divisor would square the divisor
    # and overflow for small sums; the second divisor is 1, up to rounding.
    share = kept / jnp.where(empty, one, total)
    share = share / jnp.where(empty, one, share.sum(axis=-1, keepdims=True))
    share = jnp.where(empty, zero, share)
    share = jnp.where(jnp.isnan(keep_prob), jnp.nan, share)  # a traced rate outside [0, 1]
    return jnp.where(whole, x, share.astype(x.dtype))


_RENORMALIZED = Rule(apply=masks.remember_words_only(_renormalize), draw=masks.draw)
