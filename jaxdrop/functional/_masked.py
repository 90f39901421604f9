"""What every function with a mask does: check, return early if all is settled, draw, apply."""

import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.masks import _internal as masks

Key = jax.Array | None
Flag = bool | jax.Array
Shape = tuple[int, ...]


class Rule(NamedTuple):
    """What a variant does with a mask.

    Attributes:
        apply: ``apply(mask, x)`` gives the result; x may be a tuple of arrays, the first of which
            has the shape that the mask broadcasts to.
        kept: result at a known rate of 0 and for ``deterministic=True``.
        dropped: result at a known rate of 1.
        draw: ``draw(key, rate, mask_shape, like=x)`` gives the mask; equal ones hash alike. If it
            is ``draw_or_tap``, ``apply`` is smooth in the multipliers that the mask may hold.
    """

    apply: Callable[..., jax.Array] = masks.scale_kept
    kept: Callable[[Any], jax.Array] = lambda x: x
    dropped: Callable[[Any], jax.Array] = jnp.zeros_like
    draw: Callable[..., Any] = masks.draw_or_tap


_ZEROS = Rule()


def apply_masked(
    key: Key,
    x: Any,
    rate: ArrayLike,
    mask_shape: Shape,
    *,
    deterministic: Flag,
    rule: Rule = _ZEROS,
    rate_shape: Shape | None = None,
) -> jax.Array:
    """Dropout of ``x`` with one decision for each element of ``mask_shape``, which broadcasts to x.

    A rate and a flag that are known now cost nothing at run time, and a deterministic call draws
    nothing. Traced ones share one program for all values.

    Args:
        key: PRNG key; unused if every decision is settled.
        x: array, or a tuple of them as `Rule.apply` takes it.
        rate: of dropping, not checked yet.
        mask_shape: shape of the mask, without leading axes of x that share its decisions.
        deterministic: the flag, not checked yet.
        rule: what the variant does with the mask.
        rate_shape: what the rate broadcasts to; None for the mask.
    """
    if rate_shape is None:
        leading = jax.tree.leaves(x)[0].ndim - len(mask_shape)
        rate_shape = (1,) * leading + mask_shape
    checked = masks.check_rate(rate, rate_shape, deterministic=deterministic)
    if checked.settled:
        return rule.dropped(x) if checked.known else rule.kept(x)
    masks.check_key(key)
    checked = checked.with_rank(len(mask_shape))
    return _masked(key, x, checked, mask_shape=mask_shape, draw=rule.draw, apply=rule.apply)


@functools.partial(jax.jit, static_argnames=("mask_shape", "draw", "apply"))
def _masked(
    key: jax.Array,
    x: Any,
    rate: masks.Rate,
    *,
    mask_shape: Shape,
    draw: Callable[..., Any],
    apply: Callable[..., jax.Array],
) -> jax.Array:
    return apply(draw(key, rate, mask_shape, like=jax.tree.leaves(x)[0]), x)


def shared_shape(x: jax.Array, axes: Collection[int]) -> Shape:
    """The shape of ``x`` with size 1 on the axes that share one decision."""
    return tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))


def deciding_shape(x: jax.Array, axes: Collection[int]) -> Shape:
    """The shape of ``x`` with size 1 on all axes but those that decide each on its own."""
    return tuple(size if axis in axes else 1 for axis, size in enumerate(x.shape))


def mask_shape(x: jax.Array, axes: Collection[int]) -> Shape:
    """`deciding_shape` without the axes before the first that decides on its own.

    So the first axis of the mask is that of examples wherever x has it, and the mask of an example
    does not depend on how many there are.
    """
    return deciding_shape(x, axes)[min(axes, default=x.ndim) :]
