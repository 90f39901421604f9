"""What every function does: check early, choose the static or the traced way, draw, apply."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdrop.masks import _keys, _mask, _rate

Key = jax.Array | None
Flag = bool | jax.Array


class Rule(NamedTuple):
    """What a variant does with a mask.

    Attributes:
        apply: ``apply(mask, x)`` gives the result; x may be a tuple of arrays, the first of which
            has the shape that the mask broadcasts to.
        kept: result at a known rate of 0 and for ``deterministic=True``.
        dropped: result at a known rate of 1.
        draw: ``draw(key, rate, mask_shape, like=x)`` gives the mask; equal ones hash alike.
    """

    apply: Callable = _mask.select
    kept: Callable = lambda x: x
    dropped: Callable = jnp.zeros_like
    draw: Callable = _mask.draw


_ZEROS = Rule()


def drop(key, x, rate, mask_shape, *, deterministic, rule=_ZEROS):
    """Dropout of ``x`` with one decision for each entry of ``mask_shape``, which broadcasts to x.

    A rate and a flag that are known now take static paths: they cost nothing at run time, and a
    deterministic call draws nothing. Traced ones share one program for all values.
    """
    leading = jnp.ndim(jax.tree.leaves(x)[0]) - len(mask_shape)
    rate = _rate.check_rate(rate, (1,) * leading + mask_shape, deterministic=deterministic)
    if rate.settled:
        return rule.dropped(x) if rate.known else rule.kept(x)
    _keys.check_key(key)
    rate = _with_rank(rate, len(mask_shape))
    return _drop(key, x, rate, mask_shape=mask_shape, draw=rule.draw, apply=rule.apply)


def _with_rank(rate, rank):
    """The rate without the leading axes of size 1 that a mask of this rank lacks."""
    extra = getattr(rate.traced, "ndim", 0) - rank
    if extra <= 0:
        return rate
    return dataclasses.replace(rate, traced=rate.traced.reshape(rate.traced.shape[extra:]))


@functools.partial(jax.jit, static_argnames=("mask_shape", "draw", "apply"))
def _drop(key, x, rate, *, mask_shape, draw, apply):
    return apply(draw(key, rate, mask_shape, like=jax.tree.leaves(x)[0]), x)


def check_count(value, name, example):
    """A number of things as a Python integer of at least 1."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name}: expected an integer, got {value!r}; write for example {name}={example}"
        ) from None
    if _rate.is_bool(value) or count < 1:
        raise ValueError(
            f"{name}: expected at least 1, got {value}; write for example {name}={example}"
        )
    return count


def check_axes(axes, ndim, name):
    """Axes of an array of rank ``ndim`` as a tuple of numbers in [0, ndim), each named once."""
    try:
        given = tuple(operator.index(axis) for axis in axes if not _rate.is_bool(axis))
    except TypeError:
        given = None
    if given is None or len(given) < len(axes):
        raise TypeError(
            f"{name}: expected axes as integers, got {axes!r}; write for example {name}=(1, 2)"
        )
    for axis in given:
        if not -ndim <= axis < ndim:
            raise ValueError(
                f"{name}: expected an axis in [{-ndim}, {ndim}) for an array of rank {ndim}, "
                f"got {axis}; name an axis that x has{_keys.order_hint(ndim)}"
            )
    resolved = tuple(axis % ndim for axis in given)
    if len(set(resolved)) < len(resolved):
        raise ValueError(
            f"{name}: expected each axis once, got {given} for an array of rank {ndim}; "
            "remove the repeated one"
        )
    return resolved


def shared_shape(x, axes):
    """The shape of ``x`` with size 1 on the axes that share one decision."""
    return tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))


def check_own_axes(x, axis, batch_axis, name):
    """Axes of ``x`` that decide each on its own: the named one, and that of examples if any."""
    if batch_axis is None:
        return check_axes((axis,), x.ndim, name)
    return check_axes((batch_axis, axis), x.ndim, f"(batch_axis, {name})")


def mask_shape(x, own_axes):
    """`own_shape` without the axes before the first that decides on its own.

    So the first axis of the mask is that of examples wherever x has it, and the mask of an example
    does not depend on how many there are.
    """
    return own_shape(x, own_axes)[min(own_axes, default=x.ndim) :]


def own_shape(x, axes):
    """The shape of ``x`` with size 1 on all axes but those that decide each on its own."""
    return tuple(size if axis in axes else 1 for axis, size in enumerate(x.shape))
