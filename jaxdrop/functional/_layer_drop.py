"""Dropout of whole layers, which cost nothing where they are dropped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key
from jaxdrop.functional._skipping import cond
from jaxdrop.masks import _internal as masks


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
        key: PRNG key; unused if ``deterministic`` is True.
        block: function of ``x`` that keeps its structure, shapes and dtypes.
        x: array, or a pytree of arrays.
        rate: probability of skipping, in [0, 1]; a scalar, may be traced: one rate per layer under
            ``jax.lax.scan``, for example.
        deterministic: if true, runs the block; may be traced.
        rescale: if true, a block that runs gives ``x + (block(x) - x) / (1 - rate)``, so that the
            mean is exact; for floating arrays, and for blocks that end in a sum with ``x``.

    Returns:
        What ``block(x)`` returns, or ``x``.

    Raises:
        TypeError: ``key`` is not a PRNG key, or another argument is of the wrong type.
        ValueError: ``rate`` lies outside [0, 1] or is not a scalar, ``block`` changes shapes or
            dtypes, or ``key`` is a batch of keys.

    Example:
        >>> keys = jax.random.split(jax.random.key(0), 6)
        >>> [float(layer_drop(key, jnp.negative, jnp.ones(()), 0.5)) for key in keys]
        [1.0, -1.0, 1.0, 1.0, -1.0, 1.0]

    References:
        Fan et al., "Reducing transformer depth on demand with structured dropout", 2020, section
        3.2.
    """
    masks.refuse_keys(block=block, rate=rate)
    masks.refuse_key(x, "x", "what follows the key", legacy=False)
    call = lambda block, x: block(x)  # noqa: E731
    return run_or_skip(key, block, x, rate, deterministic, rescale, call=call)


def run_or_skip(
    key: Key,
    block: Any,
    x: Any,
    rate: ArrayLike,
    deterministic: Flag,
    rescale: bool,
    *,
    call: Callable[[Any, Any], Any],
    **traced: Callable[..., Any],
) -> Any:
    """`layer_drop` of what ``call(block, x)`` computes; ``traced`` is that of `cond`."""
    if not callable(block):
        raise TypeError(
            f"block: expected a function of x, got {type(block).__name__}; "
            "give what computes the layer, not its output"
        )
    x = jax.tree.map(jnp.asarray, x)
    checked = masks.check_rate(rate, deterministic=deterministic)
    if jnp.ndim(checked.value):
        raise ValueError(
            f"rate: expected a scalar, since a call is one decision, got shape {jnp.shape(rate)}; "
            "for one rate per layer scan over them, for one decision per example there is drop_path"
        )
    if checked.settled:
        return x if checked.known else _checked(call(block, x), x)
    masks.check_key(key)
    keep, keep_prob = _decide(key, checked)

    def run(block: Any) -> Any:
        y = _checked(call(block, x), x)
        return jax.tree.map(lambda x, y: _rescaled(x, y, keep_prob), x, y) if rescale else y

    return cond(keep, run, lambda block: x, block, **traced)


@jax.jit
def _decide(key: jax.Array, rate: masks.Rate) -> tuple[jax.Array, jax.Array]:
    mask = masks.draw(key, rate, ())
    return mask.unpack(), mask.keep_prob


def _rescaled(x: jax.Array, y: jax.Array, keep_prob: jax.Array) -> jax.Array:
    """``x + (y - x) / keep_prob``, rounded once; ``y`` itself if the block is never skipped."""
    wide = masks.wide_dtype(masks.check_array(x))
    difference = (y.astype(wide) - x.astype(wide)) / keep_prob.astype(jnp.finfo(wide).dtype)
    return jnp.where(keep_prob == 1, y, (x.astype(wide) + difference).astype(y.dtype))


def _checked(y: Any, x: Any) -> Any:
    """The output of a block, refused if a block that is skipped gives another kind."""
    # Whether a type is weak does not matter: it is not, once a random decision was taken.
    kind = lambda leaf: jax.typeof(leaf).strip_weak_type()  # noqa: E731
    got, expected = (jax.tree.map(kind, tree) for tree in (y, x))
    if got != expected:
        raise ValueError(
            f"block: expected an output like x, {expected}, since a block that is skipped gives x, "
            f"got {got}; project and cast it inside the block"
        )
    return y
