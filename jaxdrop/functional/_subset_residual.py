"""Stochastic depth that computes a residual branch for some of the examples alone."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.functional._drop import Flag, Key, check_axes, check_count
from jaxdrop.functional._either import either
from jaxdrop.masks import _keys, _mask, _order, _rate, _sharding


def subset_residual(
    key: Key,
    branch: Callable[..., ArrayLike],
    x: ArrayLike,
    rate: float,
    *,
    extra: tuple = (),
    deterministic: Flag = False,
    batch_axis: int = 0,
    num_groups: int = 1,
) -> jax.Array:
    """Adds a residual branch that is computed for a random subset of the examples alone.

    Of the B examples ``K = round(B * (1 - rate))`` are drawn without replacement, at least one:
    ``branch`` runs on them alone, forward and backward, and its output, times ``B / K``, is added
    to them. The others pass bit for bit, and nothing in them reaches the branch. So each example
    is dropped as by `drop_path`, at the share of the computing: the mean over keys is
    ``x + branch(x)`` where the branch treats examples one by one. Exactly K are kept; in a small
    batch at a low rate that may be all of them. A batch norm in the branch sees the subset.

    Args:
        key: PRNG key that this call consumes; may be None where nothing is drawn: if
            ``deterministic`` is True or the rate 0 or 1.
        branch: function of examples, ``(K, ...)`` to ``(K, ...)``, such as attention behind its
            norm. It does not add its input.
        x: floating or complex array of shape ``(B, ...)``, or with its axis of examples elsewhere.
        rate: share of the examples to leave out, in [0, 1]; a Python number, since it decides a
            shape. At 0 the result is ``x + branch(x)``, at 1 it is ``x``.
        extra: further arrays with the same axis of examples, such as masks; those of the drawn
            ones are given to ``branch`` behind ``x``.
        deterministic: if true, returns ``x + branch(x)``; may be traced.
        batch_axis: axis of ``x`` that counts examples.
        num_groups: number of equal parts of the batch, one behind the other, that draw
            ``round(B / num_groups * (1 - rate))`` examples each. With as many as the devices that
            the batch lies on, or a multiple, no device needs an example of another. Any batch will
            do where ``deterministic`` is True.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``rate`` is traced or an array, ``branch`` is no function or gives no floating
            array, or another argument is of the wrong type.
        ValueError: ``rate`` lies outside [0, 1], ``branch`` changes the shape, ``num_groups`` does
            not divide the batch, ``x`` or one of ``extra`` lacks the axis, or ``key`` is a batch
            of keys.

    Example:
        >>> y = subset_residual(jax.random.key(0), jnp.ones_like, jnp.zeros((4, 2)), 0.5)
        >>> sorted(y[:, 0].tolist())
        [0.0, 0.0, 2.0, 2.0]

    References:
        Oquab et al., "DINOv2: learning robust visual features without supervision", 2023,
        section 5, efficient stochastic depth; Huang et al., "Deep networks with stochastic depth",
        2016, eq. 2.
    """
    _keys.refuse_keys(branch=branch, x=x, rate=rate)
    if not callable(branch):
        raise TypeError(
            f"branch: expected a function of examples, got {type(branch).__name__}; "
            "give what computes the branch, not its output: for that there is drop_path"
        )
    call = lambda branch, *arrays: branch(*arrays)  # noqa: E731
    arrays = x, *extra
    arrays, split = plan(arrays, rate, batch_axis, num_groups, deterministic)
    return add_branch(key, branch, arrays, split, deterministic, call=call, either=either)


class Split(NamedTuple):
    """How a batch is divided.

    Attributes:
        axis: of the examples.
        num_groups: parts of the batch.
        size: examples of a part.
        num_kept: those of a part that are drawn.
    """

    axis: int
    num_groups: int
    size: int
    num_kept: int


def plan(arrays, rate, batch_axis, num_groups, deterministic) -> tuple[tuple, Split]:
    """x and what goes with it as arrays, and their `Split`; one group where none draws."""
    share = 1 - _rate.check_static_rate(rate, "the number of examples that are kept", _WAY_OUT)
    x, *extra = arrays
    x = _mask.check_array(x)
    (axis,) = check_axes((batch_axis,), x.ndim, "batch_axis")
    for number, array in enumerate(extra):
        shape = getattr(array, "shape", ())
        if len(shape) <= axis or shape[axis] != x.shape[axis]:
            raise ValueError(
                f"extra[{number}]: expected {x.shape[axis]} examples on axis {axis}, as x has, got "
                f"{shape or type(array).__name__}; what has no examples belongs into the branch"
            )
    groups = check_count(num_groups, "num_groups", 1)
    groups = 1 if deterministic is True else groups
    size, rest = divmod(x.shape[axis], groups)
    if rest:
        raise ValueError(
            f"num_groups: expected a divisor of the batch of {x.shape[axis]}, got {groups}; "
            "take one that divides it, such as 1"
        )
    num_kept = max(1, round(size * share)) if share and size else 0
    return (x, *map(jnp.asarray, extra)), Split(axis, groups, size, num_kept)


_WAY_OUT = (
    "or pass float(rate); for a rate that changes in a program there is drop_path, which computes "
    "all examples"
)


def add_branch(key, branch, arrays, split, deterministic, *, call, either):
    """``x + branch(x)`` on a subset of the examples, or on all of them where a flag says so.

    Args:
        key: as of `subset_residual`.
        branch: what computes; a module may come back from ``either`` as another one.
        arrays: x, and those that the branch takes behind it.
        split: from `plan`.
        deterministic: a flag.
        call: ``call(branch, *arrays)``.
        either: ``either(flag, first, second, branch)``: one of both functions, of the branch.
    """
    off = _rate.check_flag(deterministic)
    x, thins = arrays[0], 0 < split.num_kept < split.size
    if off is not True and thins:
        _keys.check_key(key)

    def whole(branch):
        return x + _checked(call(branch, *arrays), x).astype(x.dtype)

    def part(branch):
        if not thins:
            return whole(branch) if split.num_kept else x
        indices = _draw(key, split=split)
        drawn = [_gather(array, indices, split=split) for array in arrays]
        return _add(x, _checked(call(branch, *drawn), drawn[0]), indices, split=split)

    return either(off, whole, part, branch)


def _checked(y, x):
    """The output of a branch, refused if it cannot be added to ``x``."""
    y = _mask.check_array(y, "branch(x)")
    if y.shape != x.shape:
        raise ValueError(
            f"branch: expected an output of the shape of its input, {x.shape}, got {y.shape}; "
            "project it back to the features of x"
        )
    return _mask.refuse_complex(y, x.dtype, "branch", "a real output")


@functools.partial(jax.jit, static_argnames="split")
def _draw(key, *, split):
    """Places of the drawn examples in their group, ascending: int32 of shape (groups, kept)."""
    order = _order.random_orders(key, (split.num_groups, split.size))
    return jnp.sort(order[:, : split.num_kept], axis=1)


@functools.partial(jax.jit, static_argnames="split")
def _gather(x, indices, *, split):
    """The drawn examples of ``x``, those of one group behind those of the other."""
    return _in_groups(_take_rows, split, split.num_kept, _drawn_sharding(x, split), indices, x)


@functools.partial(jax.jit, static_argnames="split")
def _add(x, y, indices, *, split):
    """``x`` with the rescaled output of the branch added at the drawn examples."""
    scaled = y.astype(_mask.wide_dtype(y)) * (split.size / split.num_kept)
    sharding = _sharding.mask_sharding(x, x.shape)
    return _in_groups(_add_rows, split, split.size, sharding, indices, x, scaled.astype(x.dtype))


def _in_groups(function, split, count, sharding, indices, *arrays):
    """``function(*arrays, indices)`` for each group; of its result, ``count`` examples a group."""
    axis, groups = split.axis, split.num_groups

    def run(indices, *arrays):
        parted = [
            a.reshape(*a.shape[:axis], groups, a.shape[axis] // groups, *a.shape[axis + 1 :])
            for a in arrays
        ]
        mapped = jax.vmap(functools.partial(function, axis), (0, *(axis,) * len(parted)), axis)
        result = mapped(indices, *parted)
        return result.reshape(*result.shape[:axis], groups * count, *result.shape[axis + 2 :])

    if sharding is None:
        return run(indices, *arrays)
    # By XLA: on the newest jax, an explicit gather loses the sharding in its transpose.
    return jax.sharding.auto_axes(run, out_sharding=sharding)(indices, *arrays)  # pyright: ignore


def _drawn_sharding(x, split):
    """That of ``x`` on an Explicit mesh, without the examples where groups lie across devices."""
    sharding = _sharding.mask_sharding(x, x.shape)
    if sharding is None or split.num_groups % _sharding.devices_along(sharding, split.axis) == 0:
        return sharding
    axis = split.axis
    return _sharding.mask_sharding(x, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))


_ROWS = {"unique_indices": True, "indices_are_sorted": True, "mode": "promise_in_bounds"}


def _take_rows(axis, indices, x):
    return x.at[_rows(axis, indices)].get(**_ROWS)


def _add_rows(axis, indices, x, rows):
    return x.at[_rows(axis, indices)].add(rows, **_ROWS)


def _rows(axis, indices):
    return (slice(None),) * axis + (indices,)
