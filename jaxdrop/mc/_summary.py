"""What a streaming summary is, and what the summaries share; in the manner of Optax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


class Summary(NamedTuple):
    """A reducer of samples that arrive in chunks.

    Functions that carry arrays, such as targets, are ``jax.tree_util.Partial`` objects: other
    arrays of the same shape then need no new compilation.

    Attributes:
        init: ``init(sample, num_samples)`` makes the state, from the shapes of one sample.
        update: ``update(state, samples, start)`` takes in a chunk, samples on axis 0, of which
            the first has the number ``start``.
        result: ``result(state)`` gives the named results.
        check: ``check(result)`` raises where the result shows that the samples were not what
            they should be; called where the result is known, and None if there is nothing to see.
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


def init_welford(sample):
    """Before the first sample; refuses what has no mean."""
    zeros = jax.tree_util.tree_map_with_path(
        lambda path, leaf: zeros_like(leaf, wide(leaf.dtype, path)), sample
    )
    return Welford(jnp.int32(0), zeros, zeros)


def update_welford(state, samples):
    """After a chunk, by the merging of Chan, Golub & LeVeque, 1983, eq. 2.1."""
    size = jax.tree.leaves(samples)[0].shape[0]
    count = state.count + size

    def merge(mean, squares, chunk):
        chunk = chunk.astype(mean.dtype)
        chunk_mean = chunk.mean(0)
        chunk_squares = jnp.square(chunk - chunk_mean[None]).sum(0)
        share = jnp.asarray(size / count, mean.dtype)
        delta = chunk_mean - mean
        before = jnp.asarray(state.count, mean.dtype)
        return mean + delta * share, squares + chunk_squares + jnp.square(delta) * before * share

    merged = jax.tree.map(merge, state.mean, state.squares, samples)
    return Welford(count, *_unzip(samples, merged))


def variance(state):
    """Mean squared deviation of the samples from their mean."""
    return jax.tree.map(lambda s: s / state.count.astype(s.dtype), state.squares)


def standard_error(state):
    """Monte-Carlo standard error of the mean; inf for a single sample."""

    def error(variance):
        rest = (state.count - 1).astype(variance.dtype)
        return jnp.where(rest == 0, jnp.inf, jnp.sqrt(variance / jnp.maximum(rest, 1)))

    return jax.tree.map(error, variance(state))


def zeros_like(leaf, dtype, *leading):
    """Zeros shaped like a leaf, behind leading axes, and sharded like it on an Explicit mesh."""
    zeros = jnp.zeros((*leading, *leaf.shape), dtype)
    if leaf.sharding is None or AxisType.Explicit not in leaf.sharding.mesh.axis_types:
        return zeros
    spec = PartitionSpec(*(None,) * len(leading), *leaf.sharding.spec)
    return jax.sharding.reshard(zeros, NamedSharding(leaf.sharding.mesh, spec))


def wide(dtype, path=()):
    """The dtype to accumulate in, float32 or better; refuses what has no mean."""
    if not jnp.issubdtype(dtype, jnp.floating):
        where = f" at {jax.tree_util.keystr(path)}" if path else ""
        raise TypeError(
            f"summary: expected a function with floating outputs, got dtype {dtype}{where}; cast "
            "them in a lambda, pick others as in output=lambda out: out['logits'], or use "
            "summary=samples()"
        )
    return np.promote_types(np.float32, dtype) if np.dtype(dtype).itemsize >= 4 else np.float32


def _unzip(like, pairs):
    structure = jax.tree.structure(like)
    first, second = zip(*structure.flatten_up_to(pairs))
    return structure.unflatten(first), structure.unflatten(second)
