"""Dropout of keys before the softmax of attention."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, Rule, apply_masked
from jaxdrop.masks import Mask
from jaxdrop.masks import _internal as masks


def drop_key(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
) -> jax.Array:
    """Drops keys of attention: their logits become -inf before the softmax.

    Each logit is dropped with probability ``rate``, for each query, head and example on its own;
    the softmax of what is left needs no scale. If every logit of a row above -inf would be
    dropped, the row is left unchanged, so the softmax is NaN only for rows that were all -inf to
    begin with. The gradient of a dropped logit is 0. On a mesh, devices that hold whole rows need
    not talk to each other, unless a word of 32 decisions is cut between them.

    Args:
        key: PRNG key that this call consumes; unused if ``deterministic`` is True.
        x: floating array of attention logits, of shape ``(..., H, Q, K)``, masks such as a causal
            one already put in as -inf.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to the shape of ``x``. At 1, every row stays.
        deterministic: if true, returns ``x``; may be traced.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: as `dropout`, or ``x`` is complex, or of a dtype without -inf (float8_e4m3fn).
        ValueError: ``rate`` lies outside [0, 1] or does not broadcast, ``key`` is a batch of keys,
            or ``x`` is of a rank below 2.

    Example:
        >>> logits = drop_key(jax.random.key(0), jnp.zeros((2, 4, 4)), 0.5)
        >>> sorted({float(v) for v in logits.ravel()})
        [-inf, 0.0]
        >>> bool(jnp.isfinite(jax.nn.softmax(logits)).all())
        True

    References:
        Li et al., "DropKey for vision transformer", 2023, algorithm 1.
    """
    x = masks.check_array(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"x: expected floating logits, got dtype {x.dtype}; "
            "pass the real numbers that the softmax over keys is taken of"
        )
    if not np.isinf(np.asarray(-np.inf, x.dtype)):  # where it would be NaN, or a finite number
        raise TypeError(
            f"x: expected logits of a dtype that holds -inf, got {x.dtype}; "
            "cast them first, for example x.astype(jnp.bfloat16)"
        )
    if x.ndim < 2:
        raise ValueError(
            f"x: expected logits of shape (..., Q, K), got {x.shape}; "
            f"for a single query write x[None]{masks.order_hint(x.ndim)}"
        )
    return apply_masked(key, x, rate, x.shape, deterministic=deterministic, rule=_LOGITS)


def _mask_logits(mask: Mask, x: jax.Array) -> jax.Array:
    mask = _spare_rows(mask, x)
    return masks.nan_if_invalid(mask, masks.where_kept(mask, x, np.asarray(-np.inf, x.dtype)))


def _spare_rows(mask: Mask, x: jax.Array) -> Mask:
    """The mask with all of a row kept if no logit above -inf would survive.

    It is written into the words, so that they are all that is kept for the backward pass.
    """
    layout = masks.layout_of(mask.shape)
    keep = masks.unpack_like(mask.words, layout, x)
    lost = ~jnp.any(keep & (x > -jnp.inf), axis=-1, keepdims=True)
    spared = masks.pack(masks.whole_runs(lost, layout), layout)
    return dataclasses.replace(mask, words=mask.words | spared)


_LOGITS = Rule(apply=_mask_logits, dropped=lambda x: x, draw=masks.draw)
