"""Stochastic depth that computes a residual branch for some of the examples alone."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key
from jaxdrop.functional._skipping import cond, kept_of
from jaxdrop.masks import _internal as masks


def subset_residual(
    key: Key,
    branch: Callable[..., ArrayLike],
    x: ArrayLike,
    rate: float,
    *,
    extra: tuple[Any, ...] = (),
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
    A symbolic B needs a rate that is a fraction with a denominator up to 1000. At few rates K then
    differs by one where ``B * (1 - rate)`` is a half, because floats round some of those down.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
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
        TypeError: ``rate`` is traced or an array, ``branch`` is not a function or does not give a
            floating array, or another argument is of the wrong type.
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
    masks.refuse_keys(branch=branch, x=x, rate=rate)
    if not callable(branch):
        raise TypeError(
            f"branch: expected a function of examples, got {type(branch).__name__}; "
            "give what computes the branch, not its output: for that there is drop_path"
        )
    call = lambda branch, *arrays: branch(*arrays)  # noqa: E731
    arrays = x, *extra
    arrays, split = plan_subset(arrays, rate, batch_axis, num_groups, deterministic)
    return add_branch(key, branch, arrays, split, deterministic, call=call)


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


def plan_subset(
    arrays: tuple[Any, ...], rate: float, batch_axis: int, num_groups: int, deterministic: Flag
) -> tuple[tuple[jax.Array, ...], Split]:
    """x and what goes with it as arrays, and their `Split`; one group where none draws."""
    rate = masks.check_static_rate(rate, "the number of examples that are kept", _WAY_OUT)
    x, *extra = arrays
    x = masks.check_array(x)
    (axis,) = masks.check_axes((batch_axis,), x.ndim, "batch_axis")
    for number, array in enumerate(extra):
        shape = getattr(array, "shape", ())
        if len(shape) <= axis or shape[axis] != x.shape[axis]:
            raise ValueError(
                f"extra[{number}]: expected {x.shape[axis]} examples on axis {axis}, as x has, got "
                f"{shape or type(array).__name__}; what has no examples belongs into the branch"
            )
    groups = masks.check_count(num_groups, "num_groups", 1)
    groups = 1 if deterministic is True else groups
    size, rest = divmod(x.shape[axis], groups)
    if rest:
        raise ValueError(
            f"num_groups: expected a divisor of the batch of {x.shape[axis]}, got {groups}; "
            "take one that divides it, such as 1"
        )
    num_kept = kept_of(size, rate, 1) if rate < 1 and size else 0
    return (x, *map(jnp.asarray, extra)), Split(axis, groups, size, num_kept)


_WAY_OUT = (
    "or pass float(rate); for a rate that changes in a program there is drop_path, which computes "
    "all examples"
)


def add_branch(
    key: Key,
    branch: Any,
    arrays: tuple[jax.Array, ...],
    split: Split,
    deterministic: Flag,
    *,
    call: Callable[..., Any],
    **traced: Callable[..., Any],
) -> jax.Array:
    """``x + branch(x)`` on a subset of the examples, or on all of them where a flag says so.

    Args:
        key: as of `subset_residual`.
        branch: what computes; a module may reach ``call`` as a copy.
        arrays: x, and those that the branch takes behind it.
        split: from `plan`.
        deterministic: a flag.
        call: ``call(branch, *arrays)``.
        traced: of `cond`.
    """
    off = masks.check_flag(deterministic)
    x, thins = arrays[0], split.num_kept not in (0, split.size)
    if off is not True and thins:
        masks.check_key(key)

    def whole(branch: Any) -> jax.Array:
        return x + _checked(call(branch, *arrays), x).astype(x.dtype)

    def part(branch: Any) -> jax.Array:
        if not thins:
            return whole(branch) if split.num_kept else x
        indices = _draw(key, split=split)
        drawn = [_gather(array, indices, split=split) for array in arrays]
        return _add(x, _checked(call(branch, *drawn), drawn[0]), indices, split=split)

    return cond(off, whole, part, branch, **traced)


def _checked(y: Any, x: jax.Array) -> jax.Array:
    """The output of a branch, refused if it cannot be added to ``x``."""
    y = masks.check_array(y, "branch(x)")
    if y.shape != x.shape:
        raise ValueError(
            f"branch: expected an output of the shape of its input, {x.shape}, got {y.shape}; "
            "project it back to the features of x"
        )
    return masks.refuse_complex(y, x.dtype, "branch", "a real output")


@functools.partial(jax.jit, static_argnames="split")
def _draw(key: jax.Array, *, split: Split) -> jax.Array:
    """Places of the drawn examples in their group, ascending: int32 of shape (groups, kept)."""
    permutations = masks.permutations(key, (split.num_groups, split.size))
    return jnp.sort(lax.slice_in_dim(permutations, 0, split.num_kept, axis=1), axis=1)


@functools.partial(jax.jit, static_argnames="split")
def _gather(x: jax.Array, indices: jax.Array, *, split: Split) -> jax.Array:
    """The drawn examples of ``x``, those of one group behind those of the other."""
    return _in_groups(_take_rows, split, split.num_kept, _drawn_sharding(x, split), indices, x)


@functools.partial(jax.jit, static_argnames="split")
def _add(x: jax.Array, y: jax.Array, indices: jax.Array, *, split: Split) -> jax.Array:
    """``x`` with the rescaled output of the branch added at the drawn examples."""
    scaled = y.astype(masks.wide_dtype(y)) * (split.size / split.num_kept)
    sharding = masks.mask_sharding(x, x.shape)
    return _in_groups(_add_rows, split, split.size, sharding, indices, x, scaled.astype(x.dtype))


def _in_groups(
    function: Callable[..., jax.Array],
    split: Split,
    count: int,
    sharding: Any,
    indices: jax.Array,
    *arrays: jax.Array,
) -> jax.Array:
    """``function(*arrays, indices)`` for each group; of its result, ``count`` examples a group."""
    axis, groups = split.axis, split.num_groups

    def run(indices: jax.Array, *arrays: jax.Array) -> jax.Array:
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


def _drawn_sharding(x: jax.Array, split: Split) -> Any:
    """That of ``x`` on an Explicit mesh, without the examples where groups lie across devices."""
    sharding = masks.mask_sharding(x, x.shape)
    if sharding is None or split.num_groups % masks.devices_along(sharding, split.axis) == 0:
        return sharding
    axis = split.axis
    return masks.mask_sharding(x, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))


_ROWS: dict[str, Any] = {
    "unique_indices": True,
    "indices_are_sorted": True,
    "mode": "promise_in_bounds",
}


def _take_rows(axis: int, indices: jax.Array, x: jax.Array) -> jax.Array:
    return x.at[_rows(axis, indices)].get(**_ROWS)


def _add_rows(axis: int, indices: jax.Array, x: jax.Array, rows: jax.Array) -> jax.Array:
    return x.at[_rows(axis, indices)].add(rows, **_ROWS)


def _rows(axis: int, indices: jax.Array) -> tuple[Any, ...]:
    return (slice(None),) * axis + (indices,)
