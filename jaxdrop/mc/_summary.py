"""Streaming summaries: what one is, `moments`, `combine`, and what the others build on."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _pytrees
from jaxdrop.uncertainty import _internal as uncertainty


class Summary(NamedTuple):
    """A reducer of samples that arrive in chunks, in the manner of Optax.

    Functions that carry arrays, such as targets, are ``jax.tree_util.Partial`` objects: other
    arrays of the same shape then need no new compilation.

    Attributes:
        init: ``init(sample, num_samples)`` makes the state, from the shapes of one sample; the
            number is None if passes are added until a tolerance is reached.
        update: ``update(state, samples, start)`` takes in a chunk, samples on axis 0, of which
            the first has the number ``start``.
        result: ``result(state)`` gives the named results.
        check: ``check(result)`` raises an error if the result shows that the samples were not
            what they should be. It is called if the result is known; None checks nothing.
        in_blocks: ``in_blocks(size)`` gives the same summary for balanced passes, whose standard
            errors come from the means of blocks of ``size`` passes. A chunk is then a part of a
            block or whole blocks. None if it cannot take them.
        stores: whether the state holds all samples, which a tolerance does not go with.
    """

    init: Callable[[Any, Any], Any]
    update: Callable[[Any, Any, Any], Any]
    result: Callable[[Any], Any]
    check: Callable[[Any], None] | None = None
    in_blocks: "Callable[[int], Summary] | None" = None
    stores: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Welford:
    """Mean and squared deviations of what has come so far, in float32 or better.

    Attributes:
        count: number of samples, int32.
        mean: their mean, a pytree.
        squares: sum of their squared deviations from it.
        blocks: the same of the means of whole blocks, or None for independent samples.
        part: sum of the samples of the block that is not yet whole, or None.
        block_size: number of samples in a block; 1 for independent samples.
    """

    count: Any
    mean: Any
    squares: Any
    blocks: "Welford | None" = None
    part: Any = None
    block_size: int = dataclasses.field(default=1, metadata={"static": True})


def combine(**summaries: Summary) -> Summary:
    """Several summaries of the same samples, by name: the passes are run once for all of them.

    Args:
        **summaries: each a `Summary`.

    Returns:
        A `Summary` whose result is a dict of their results.

    Raises:
        TypeError: one is not a `Summary`.
        ValueError: no summary was given.

    Example:
        >>> fn = lambda key, x: x + jax.random.normal(key, x.shape)
        >>> summary = combine(moments=moments(), band=quantiles((0.05, 0.95)))
        >>> out = predict(fn, jax.random.key(0), jnp.zeros(3), summary=summary)
        >>> out["moments"].mean.shape, out["band"].values.shape
        ((3,), (2, 3))
    """
    if not summaries:
        raise ValueError(
            "summaries: expected one or more by name, got none; write for example "
            "combine(moments=moments(), samples=samples())"
        )
    for name, summary in summaries.items():
        if not isinstance(summary, Summary):
            raise TypeError(
                f"{name}: expected a Summary, got {summary!r}; call it, as in {name}=moments()"
            )
    each = [summary.in_blocks for summary in summaries.values()]
    parts = {name: tuple(summary[:3]) for name, summary in summaries.items()}
    checks = {n: summary.check for n, summary in summaries.items() if summary.check is not None}
    return Summary(
        Partial(_init_each, parts),
        Partial(_update_each, parts),
        Partial(_result_each, parts),
        Partial(_check_each, checks) if checks else None,
        None if None in each else functools.partial(_blocks_of_each, summaries),
        any(summary.stores for summary in summaries.values()),
    )


def _blocks_of_each(summaries: dict[str, Summary], size: int) -> Summary:
    return combine(**{name: summary.in_blocks(size) for name, summary in summaries.items()})  # pyright: ignore[reportOptionalCall]


def _init_each(parts: Any, sample: Any, num_samples: int | None) -> dict[str, Any]:
    return {name: init(sample, num_samples) for name, (init, _, _) in parts.items()}


def _update_each(parts: Any, state: Any, samples: Any, start: Any) -> dict[str, Any]:
    return {name: update(state[name], samples, start) for name, (_, update, _) in parts.items()}


def _result_each(parts: Any, state: Any) -> dict[str, Any]:
    return {name: result(state[name]) for name, (_, _, result) in parts.items()}


def _check_each(checks: Any, result: Any) -> None:
    for name, check in checks.items():
        check(result[name])


class Moments(NamedTuple):
    """Mean and spread of the samples, each shaped like the output of one pass.

    Attributes:
        mean: mean over the samples.
        variance: variance over the samples, their mean squared deviation from ``mean``.
        standard_error: Monte-Carlo standard error of ``mean``; inf for a single sample. Of balanced
            passes, see `predict`.
    """

    mean: Any
    variance: Any
    standard_error: Any

    def __repr__(self) -> str:
        return uncertainty.short(self)


def moments() -> Summary:
    """Mean, variance and standard error of any pytree of floating outputs.

    Chunks are merged by their means and squared deviations, in float32 or better, so the variance
    is right even if it is small compared with the mean. Memory does not grow with the number of
    samples.

    Returns:
        A `Summary` whose result is a `Moments`; each field has the structure of the output.

    Example:
        >>> fn = lambda key, x: x + jax.random.normal(key, x.shape)
        >>> out = predict(fn, jax.random.key(0), jnp.zeros(3), num_samples=1000)
        >>> bool((jnp.abs(out.mean) < 5 * out.standard_error).all())
        True

    References:
        Chan, Golub & LeVeque, "Algorithms for computing the sample variance", 1983, eq. 2.1.
    """
    return _moments(1)


def _moments(block_size: int) -> Summary:
    return Summary(Partial(_init, block_size=block_size), _update, _result, None, _moments)


def _init(sample: Any, num_samples: int | None, *, block_size: int) -> Welford:
    del num_samples
    return init_welford(sample, block_size)


def _update(state: Welford, samples: Any, start: Any) -> Welford:
    del start
    return update_welford(state, samples)


def _result(state: Welford) -> Moments:
    return Moments(state.mean, variance(state), standard_error(state))


def init_welford(sample: Any, block_size: int = 1) -> Welford:
    """Before the first sample; refuses what has no mean."""
    zeros = jax.tree_util.tree_map_with_path(
        lambda path, leaf: zeros_like(leaf, wide(leaf.dtype, path)), sample
    )
    state = Welford(jnp.int32(0), zeros, zeros)
    if block_size == 1:
        return state
    return dataclasses.replace(state, blocks=state, part=zeros, block_size=block_size)


def update_welford(state: Welford, samples: Any) -> Welford:
    """After a chunk, by the merging of Chan, Golub & LeVeque, 1983, eq. 2.1."""
    size = jax.tree.leaves(samples)[0].shape[0]
    count = state.count + size

    def merge(mean: Any, squares: Any, chunk: Any) -> tuple[Any, Any]:
        chunk = chunk.astype(mean.dtype)
        chunk_mean = chunk.mean(0)
        chunk_squares = jnp.square(chunk - chunk_mean[None]).sum(0)
        share = jnp.asarray(size / count, mean.dtype)
        delta = chunk_mean - mean
        before = jnp.asarray(state.count, mean.dtype)
        return mean + delta * share, squares + chunk_squares + jnp.square(delta) * before * share

    merged = jax.tree.map(merge, state.mean, state.squares, samples)
    blocks, part = _update_blocks(state, samples, size)
    mean, squares = _unzip(samples, merged)
    return dataclasses.replace(
        state, count=count, mean=mean, squares=squares, blocks=blocks, part=part
    )


def _update_blocks(state: Welford, samples: Any, size: int) -> tuple[Welford | None, Any]:
    """The means of whole blocks and the sum of the block that is not, after a chunk."""
    blocks, part, whole = state.blocks, state.part, state.block_size
    if blocks is None:
        return None, None
    samples = jax.tree.map(lambda x, sum_: x.astype(sum_.dtype), samples, part)
    if size >= whole:
        means = jax.tree.map(lambda x: _block_means(x, size // whole), samples)
        return update_welford(blocks, means), part
    part = jax.tree.map(lambda sum_, x: sum_ + x.sum(0), part, samples)
    is_whole = (state.count + size) % whole == 0
    means = jax.tree.map(lambda sum_: sum_[None] / jnp.asarray(whole, sum_.dtype), part)
    after = update_welford(blocks, means)
    blocks = jax.tree.map(lambda new, old: jnp.where(is_whole, new, old), after, blocks)
    return blocks, jax.tree.map(lambda sum_: jnp.where(is_whole, 0, sum_), part)


def _block_means(samples: jax.Array, number: int) -> jax.Array:
    """The mean of each of ``number`` blocks of samples; devices exchange nothing but these."""
    size = len(samples) // number
    if number % masks.devices_along(jax.typeof(samples).sharding, 0) == 0:
        return samples.reshape(number, size, *samples.shape[1:]).mean(1)
    # On an Explicit mesh JAX does not split an axis whose parts end within a block.
    block = (jnp.arange(len(samples)) // size).reshape(-1, *(1,) * (samples.ndim - 1))
    sums = [jnp.where(block == i, samples, jnp.zeros_like(samples)).sum(0) for i in range(number)]
    return jnp.stack(sums) / jnp.asarray(size, samples.dtype)


def variance(state: Welford) -> Any:
    """Mean squared deviation of the samples from their mean."""
    return jax.tree.map(lambda s: s / state.count.astype(s.dtype), state.squares)


def standard_error(state: Welford) -> Any:
    """Monte-Carlo standard error of the mean; inf for a single sample or block.

    Of few blocks it is made larger, so that two standard errors to both sides of the mean hold the
    true one as often as those of many samples do.
    """
    factor = 1.0 if state.blocks is None else _factor(state.blocks.count - 1)

    def error(variance: jax.Array) -> jax.Array:
        return jnp.sqrt(variance) * jnp.asarray(factor, variance.dtype)

    return jax.tree.map(error, error_variance(state))


def error_variance(state: Welford) -> Any:
    """Variance of the mean as an estimate; inf for a single sample or block."""

    def of_samples(squares: jax.Array, count: Any) -> jax.Array:
        count = jnp.asarray(count, squares.dtype)
        return jnp.where(count < 2, jnp.inf, squares / (jnp.maximum(count - 1, 1) * count))

    if state.blocks is None:
        return jax.tree.map(lambda squares: of_samples(squares, state.count), state.squares)
    in_blocks = state.blocks.count * state.block_size

    def of_blocks(block_squares: jax.Array, squares: jax.Array) -> jax.Array:
        # The samples after the last whole block count as independent.
        dtype = squares.dtype
        count = jnp.asarray(state.count, dtype)
        rest = jnp.asarray(state.count - in_blocks, dtype)
        share = jnp.asarray(in_blocks, dtype) / count
        sum_of_rest = jnp.where(rest > 0, rest * squares / jnp.maximum(count - 1, 1), 0)
        of_whole = of_samples(block_squares, state.blocks.count)  # pyright: ignore[reportOptionalMemberAccess]
        return jnp.square(share) * of_whole + sum_of_rest / jnp.square(count)

    return jax.tree.map(of_blocks, state.blocks.squares, state.squares)


def _factor(freedom: Any) -> jax.Array:
    """Half the number of standard errors that hold what 2 of the normal distribution hold.

    Of Student's t with so many degrees of freedom, by its expansion at 2 in powers of 1/freedom:
    Abramowitz & Stegun, 1964, 26.7.5. From 3 on it is within 0.2 %.
    """
    inverse = 1 / jnp.maximum(jnp.asarray(freedom, jnp.float32), 1)
    return 1 + inverse * (1.25 + inverse * (1.53125 + inverse * (1.4297 + inverse * 0.9221)))


def zeros_like(leaf: Any, dtype: Any, *leading: int) -> jax.Array:
    """Zeros shaped like a leaf, behind leading axes, and sharded like it on an Explicit mesh."""
    zeros = jnp.zeros((*leading, *leaf.shape), dtype)
    if leaf.sharding is None or AxisType.Explicit not in leaf.sharding.mesh.axis_types:
        return zeros
    spec = PartitionSpec(*(None,) * len(leading), *leaf.sharding.spec)
    return jax.sharding.reshard(zeros, NamedSharding(leaf.sharding.mesh, spec))


def gather(samples: jax.Array) -> jax.Array:
    """Samples with their first axis whole on every device of an Explicit mesh."""
    sharding = jax.typeof(samples).sharding
    if not sharding.spec or sharding.spec[0] is None:
        return samples
    spec = PartitionSpec(None, *sharding.spec[1:])
    return jax.sharding.reshard(samples, NamedSharding(sharding.mesh, spec))


def wide(dtype: Any, path: Any = ()) -> Any:
    """The dtype to accumulate in, float32 or better; refuses what has no mean."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"summary: expected a function with floating outputs, got dtype {dtype}"
            f"{_pytrees.at(path)}; cast them in a lambda, pick others as in {_pytrees.PICK}, "
            "or use summary=samples()"
        )
    return np.promote_types(np.float32, dtype) if np.dtype(dtype).itemsize >= 4 else np.float32


def _unzip(like: Any, pairs: Any) -> tuple[Any, Any]:
    structure = jax.tree.structure(like)
    first, second = zip(*structure.flatten_up_to(pairs))
    return structure.unflatten(first), structure.unflatten(second)
