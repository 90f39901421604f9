"""Streaming summaries: what one is, `moments`, `combine`, and what the others build on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from jaxdrop.mc import _pytrees
from jaxdrop.uncertainty import _internal as uncertainty


class Summary(NamedTuple):
    """A reducer of samples that arrive in chunks, in the manner of Optax.

    Functions that carry arrays, such as targets, are ``jax.tree_util.Partial`` objects: other
    arrays of the same shape then need no new compilation.

    Attributes:
        init: ``init(sample, num_samples)`` makes the state, from the shapes of one sample.
        update: ``update(state, samples, start)`` takes in a chunk, samples on axis 0, of which
            the first has the number ``start``.
        result: ``result(state)`` gives the named results.
        check: ``check(result)`` raises an error if the result shows that the samples were not
            what they should be. It is called if the result is known; None checks nothing.
    """

    init: Callable[[Any, int], Any]
    update: Callable[[Any, Any, Any], Any]
    result: Callable[[Any], Any]
    check: Callable[[Any], None] | None = None


class Welford(NamedTuple):
    """Mean and squared deviations of what has come so far, in float32 or better.

    Attributes:
        count: number of samples, int32.
        mean: their mean, a pytree.
        squares: sum of their squared deviations from it.
    """

    count: Any
    mean: Any
    squares: Any


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
    parts = {name: tuple(summary[:3]) for name, summary in summaries.items()}
    checks = {n: summary.check for n, summary in summaries.items() if summary.check is not None}
    return Summary(
        Partial(_init_each, parts),
        Partial(_update_each, parts),
        Partial(_result_each, parts),
        Partial(_check_each, checks) if checks else None,
    )


def _init_each(parts: Any, sample: Any, num_samples: int) -> dict[str, Any]:
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
        standard_error: Monte-Carlo standard error of ``mean``; inf for a single sample.
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
    return Summary(_init, _update, _result)


def _init(sample: Any, num_samples: int) -> Welford:
    del num_samples
    return init_welford(sample)


def _update(state: Welford, samples: Any, start: Any) -> Welford:
    del start
    return update_welford(state, samples)


def _result(state: Welford) -> Moments:
    return Moments(state.mean, variance(state), standard_error(state))


def init_welford(sample: Any) -> Welford:
    """Before the first sample; refuses what has no mean."""
    zeros = jax.tree_util.tree_map_with_path(
        lambda path, leaf: zeros_like(leaf, wide(leaf.dtype, path)), sample
    )
    return Welford(jnp.int32(0), zeros, zeros)


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
    return Welford(count, *_unzip(samples, merged))


def variance(state: Welford) -> Any:
    """Mean squared deviation of the samples from their mean."""
    return jax.tree.map(lambda s: s / state.count.astype(s.dtype), state.squares)


def standard_error(state: Welford) -> Any:
    """Monte-Carlo standard error of the mean; inf for a single sample."""

    def error(variance: jax.Array) -> jax.Array:
        rest = (state.count - 1).astype(variance.dtype)
        return jnp.where(rest == 0, jnp.inf, jnp.sqrt(variance / jnp.maximum(rest, 1)))

    return jax.tree.map(error, variance(state))


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
            f"{_pytrees.at(path)}; cast them in a lambda, pick others as in output=lambda out: "
            "out['logits'], or use summary=samples()"
        )
    return np.promote_types(np.float32, dtype) if np.dtype(dtype).itemsize >= 4 else np.float32


def _unzip(like: Any, pairs: Any) -> tuple[Any, Any]:
    structure = jax.tree.structure(like)
    first, second = zip(*structure.flatten_up_to(pairs))
    return structure.unflatten(first), structure.unflatten(second)
