"""What the variants that skip work share: one of two branches, and some rows of an array."""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer, max_dim, min_dim

from jaxdrop.masks import _internal as masks

Branch = Callable[[Any], Any]
_SORTED: dict[str, Any] = {"indices_are_sorted": True, "mode": "promise_in_bounds"}


def _closed_cond(flag: Any, first: Branch, second: Branch, operand: Any) -> Any:
    # The operand, such as a function, need not be a pytree of arrays.
    return lax.cond(flag, lambda: first(operand), lambda: second(operand))


def cond(
    flag: Any,
    first: Branch,
    second: Branch,
    operand: Any,
    traced: Callable[..., Any] = _closed_cond,
) -> Any:
    """``first(operand)`` if the flag is true, else ``second(operand)``; only that is computed.

    Args:
        flag: boolean; None counts as False.
        first: one way.
        second: the other one.
        operand: what both take.
        traced: ``traced(flag, first, second, operand)`` for a flag that is not known now: the
            conditional of a framework whose modules are the operand.
    """
    if not isinstance(flag, Tracer):
        return first(operand) if flag else second(operand)
    return traced(flag, first, second, operand)


def kept_of(size: int, rate: float, least: int) -> int:
    """``round(size * (1 - rate))``; if the size is symbolic, too, and at least ``least``.

    Of a symbolic size the share is that of the fraction that the rate stands for. Halves go where
    the floats of a known size round them; if that is not the same for all sizes, to the even
    number.
    """
    share = 1 - rate
    if masks.is_known(size):
        return max(round(size * share), least)
    fraction = Fraction(share).limit_denominator(_MOST_PARTS)
    error = Fraction(share) / fraction - 1 if fraction else 1
    if abs(error) > _ROUNDING:
        raise ValueError(
            f"rate: expected a fraction with a denominator up to {_MOST_PARTS}, since a share of "
            f"the symbolic size {size} is kept, got {rate}; write rate={round(rate, 2) or 0.01}"
        )
    twice, parts = 2 * fraction.numerator, 2 * fraction.denominator
    kept, rest = divmod(twice * size + fraction.denominator, parts)
    is_half = 1 - (rest + parts - 1) // parts
    # A float next to a half is the half, unless it is off by more than half of its last digit.
    too_high = kept % 2 if abs(error) <= _HALF_A_DIGIT else int(error < 0)
    return min_dim(max_dim(kept - is_half * too_high, least), size)


_MOST_PARTS = 1000
_ROUNDING = 2.0**-44  # of 1 - rate
_HALF_A_DIGIT = 2.0**-53


class Subset(NamedTuple):
    """Some of H places.

    Attributes:
        places: int32 of shape (K,), ascending.
        chosen: bool of shape (H,), which places these are.
        ranks: int32 of shape (H,), the number of chosen places before each chosen one.
    """

    places: jax.Array
    chosen: jax.Array
    ranks: jax.Array


def subset_of(places: jax.Array, size: int) -> Subset:
    """The `Subset` of ``size`` places that are given in any order."""
    places = jnp.sort(places)
    chosen = jnp.zeros(size, bool).at[places].set(True, unique_indices=True, **_SORTED)
    ranks = jnp.cumsum(chosen, dtype=jnp.int32) - jnp.int32(1)
    # Else XLA adds up the ranks again in every element of what is taken, on a GPU.
    ranks = lax.optimization_barrier(jnp.maximum(ranks, jnp.int32(0)))
    return Subset(places, chosen, ranks)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def gather(array: jax.Array, subset: Subset, axis: int) -> jax.Array:
    """The slices of ``array`` along ``axis`` at the places of ``subset``.

    The transpose of a gather is a scatter, which XLA runs as a loop on the CPU: for columns it
    takes more time than the products that a smaller kernel saves. So the tangent is written as a
    scatter, whose transpose is a gather: each slice of the gradient fetches its value, or a zero.
    """
    index = (*(slice(None),) * axis, subset.places)
    return array.at[index].get(unique_indices=True, **_SORTED)


@gather.defjvp
def _(
    axis: int, primals: tuple[jax.Array, Subset], tangents: tuple[jax.Array, Any]
) -> tuple[jax.Array, jax.Array]:
    return gather(*primals, axis), _collected(tangents[0], primals[1], axis)


def _collected(array: jax.Array, subset: Subset, axis: int) -> jax.Array:
    """The values of `gather`, each beside zeros from the places that are not chosen."""
    if not subset.places.size:
        return gather(array, subset, axis)
    chosen = jnp.expand_dims(subset.chosen, [a for a in range(array.ndim) if a != axis])
    shape = [*array.shape[:axis], subset.places.size, *array.shape[axis + 1 :]]
    index = (*(slice(None),) * axis, subset.ranks)
    alone = jnp.where(chosen, array, jnp.zeros_like(array))
    return jnp.zeros(shape, array.dtype).at[index].add(alone, **_SORTED)
