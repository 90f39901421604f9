"""Zoneout: elements of a recurrent state that keep their old value."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, Rule, apply_masked
from jaxdrop.masks import Mask
from jaxdrop.masks import _internal as masks


def zoneout(
    key: Key,
    h_old: ArrayLike,
    h_new: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
) -> jax.Array:
    """Keeps the old value of elements of a recurrent state at random; nothing is rescaled.

    Each element is that of ``h_old`` with probability ``rate``, else that of ``h_new``. The mean
    over keys is ``rate * h_old + (1 - rate) * h_new``, which ``deterministic`` returns, with the
    probability that the random bits really have, in float32 and rounded once. An inf or NaN in
    the state that is not taken is gone, and so is its gradient.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        h_old: state before the step, a floating or complex array of any shape.
        h_new: state after it, of the same shape and dtype.
        rate: probability of keeping the old value, in [0, 1]; may be traced; a scalar, or an array
            that broadcasts to the shape of the states.
        deterministic: if true, returns the mean; may be traced.

    Returns:
        Array with the shape and dtype of the states: ``h_new`` itself at a known rate of 0,
        ``h_old`` itself at one of 1.

    Raises:
        TypeError: a state is not a floating or complex array, the states differ in dtype, ``key``
            is not a PRNG key, or another argument is of the wrong type.
        ValueError: ``rate`` lies outside [0, 1] or does not broadcast, ``key`` is a batch of keys,
            or the states differ in shape.

    Example:
        >>> old, new = jnp.zeros((2, 8)), jnp.ones((2, 8))
        >>> h = zoneout(jax.random.key(0), old, new, 0.5)
        >>> sorted({float(v) for v in h.ravel()})
        [0.0, 1.0]
        >>> float(zoneout(None, old, new, 0.25, deterministic=True)[0, 0])
        0.75

    References:
        Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations",
        2017, eq. 2; the mean at test time, section 3.
    """
    masks.refuse_keys(h_old=h_old, h_new=h_new, rate=rate)
    h_old, h_new = masks.check_array(h_old, "h_old"), masks.check_array(h_new, "h_new")
    if h_old.dtype != h_new.dtype:
        raise TypeError(
            f"h_new: expected the dtype of h_old, {h_old.dtype}, got {h_new.dtype}; "
            "cast one of the states, for example h_new.astype(h_old.dtype)"
        )
    if h_old.shape != h_new.shape:
        raise ValueError(
            f"h_new: expected the shape of h_old, {h_old.shape}, got {h_new.shape}; "
            "pass the states before and after one step"
        )
    checked, off = masks.check_rate(rate, h_new.shape), masks.check_flag(deterministic)
    if checked.settled:
        return h_old if checked.known else h_new  # so is the mean
    if off is True:
        return _mean(h_old, h_new, checked)
    # The new state first: the mask follows its sharding.
    h = apply_masked(key, (h_new, h_old), rate, h_new.shape, deterministic=False, rule=_CHOSEN)
    return h if off is None else jnp.where(off, _mean(h_old, h_new, checked), h)


def _choose(mask: Mask, states: tuple[jax.Array, jax.Array]) -> jax.Array:
    return masks.nan_if_invalid(mask, masks.where_kept(mask, *states))


_CHOSEN = Rule(apply=_choose)


@jax.jit
def _mean(h_old: jax.Array, h_new: jax.Array, rate: masks.Rate) -> jax.Array:
    """The mean over keys; at the ends one of the states, even beside an inf in the other."""
    return masks.remember_words_only(_weighted)(h_old, h_new, rate)


def _weighted(h_old: jax.Array, h_new: jax.Array, rate: masks.Rate) -> jax.Array:
    keep_prob = masks.align(masks.odds(rate.effective).keep_prob, h_new)
    wide = masks.wide_dtype(h_new)
    new, old = keep_prob.astype(wide), (np.float32(1) - keep_prob).astype(wide)
    mean = (h_old.astype(wide) * old + h_new.astype(wide) * new).astype(h_new.dtype)
    return jnp.where(new == 1, h_new, jnp.where(old == 1, h_old, mean))
