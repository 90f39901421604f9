"""Dropout of whole layers, which cost nothing where they are dropped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.functional._drop import Flag, Key
from jaxdrop.functional._either import either
from jaxdrop.masks import _keys, _mask, _rate


def layer_drop(
    key: Key,
    block: Callable[[Any], Any],
    x: Any,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    rescale: bool = False,
) -> Any:
    """Runs a whole block, its residual connection included, or skips it and returns ``x``.

    The decision is one for the call: that of ``masks.sample(key, rate, ())``. A block that is
    skipped is not computed, forward or backward, and nothing in it spreads. Under ``jax.vmap``
    over keys, rates or flags, though, JAX computes both ways and selects. As in the paper nothing
    is rescaled, so the mean over keys is ``x + (1 - rate) * (block(x) - x)``; with ``rescale`` it
    is ``block(x)``.

    Args:
        key: PRNG key that this call consumes; may be None where nothing is drawn: if
            ``deterministic`` is True or the rate a known 0 or 1.
        block: function of ``x`` that keeps its structure, shapes and dtypes.
        x: array, or a pytree of arrays.
        rate: probability of skipping, in [0, 1]; a scalar, may be traced: one rate a layer under
            ``jax.lax.scan``, for example.
        deterministic: if true, runs the block; may be traced.
        rescale: if true, a block that runs gives ``x + (block(x) - x) / (1 - rate)``, so that the
            mean is exact; for floating arrays, and for blocks that end in a sum with ``x``.

    Returns:
        What ``block(x)`` returns, or ``x``.

    Raises:
        TypeError: ``key`` is no PRNG key, or another argument is of the wrong type.
        ValueError: ``rate`` lies outside [0, 1] or is no scalar, ``block`` changes shapes or
            dtypes, or ``key`` is a batch of keys.

    Example:
        >>> keys = jax.random.split(jax.random.key(0), 6)
        >>> [float(layer_drop(key, jnp.negative, jnp.ones(()), 0.5)) for key in keys]
        [1.0, -1.0, 1.0, 1.0, -1.0, 1.0]

    References:
        Fan et al., "Reducing transformer depth on demand with structured dropout", 2020, section
        3.2.
    """
    _keys.refuse_keys(block=block, rate=rate)
    _keys.refuse_key(x, "x", "what follows the key", legacy=False)
    call = lambda block, x: block(x)  # noqa: E731
    return run_or_skip(key, block, x, rate, deterministic, rescale, call=call, either=either)


def run_or_skip(key, block, x, rate, deterministic, rescale, *, call, either):
    """`layer_drop` of what ``call(block, x)`` computes, by `either` or a form of it for modules."""
    if not callable(block):
        raise TypeError(
            f"block: expected a function of x, got {type(block).__name__}; "
            "give what computes the layer, not its output"
        )
    x = jax.tree.map(jnp.asarray, x)
    checked = _rate.check_rate(rate, deterministic=deterministic)
    if jnp.ndim(checked.value):
        raise ValueError(
            f"rate: expected a scalar, since a call is one decision, got shape {rate.shape}; "
            "for one rate a layer scan over them, for one decision an example there is drop_path"
        )
    if checked.settled:
        return x if checked.known else _checked(call(block, x), x)
    _keys.check_key(key)
    keep, keep_prob = _decide(key, checked)

    def run(block):
        y = _checked(call(block, x), x)
        return jax.tree.map(lambda x, y: _rescaled(x, y, keep_prob), x, y) if rescale else y

    return either(keep, run, lambda block: x, block)


@jax.jit
def _decide(key, rate):
    mask = _mask.draw(key, rate, ())
    return mask.unpack(), mask.keep_prob


def _rescaled(x, y, keep_prob):
    """``x + (y - x) / keep_prob``, rounded once; ``y`` itself where nothing is ever skipped."""
    wide = _mask.wide_dtype(_mask.check_array(x))
    difference = (y.astype(wide) - x.astype(wide)) / keep_prob.astype(jnp.finfo(wide).dtype)
    return jnp.where(keep_prob == 1, y, (x.astype(wide) + difference).astype(y.dtype))


def _checked(y, x):
    """The output of a block, refused if a block that is skipped gives another kind."""
    # Whether a type is weak does not matter: it is not, once a random decision was taken.
    kind = lambda leaf: jax.typeof(leaf).strip_weak_type()  # noqa: E731
    came, expected = (jax.tree.map(kind, tree) for tree in (y, x))
    if came != expected:
        raise ValueError(
            f"block: expected an output like x, {expected}, since a block that is skipped gives x, "
            f"got {came}; project and cast it inside the block"
        )
    return y
