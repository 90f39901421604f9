"""Streaming summaries of samples: named tuples of pure functions, in the manner of Optax."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdrop import uncertainty


class Summary(NamedTuple):
    """A reducer of samples that arrive in chunks.

    Attributes:
        init: ``init(sample, num_samples)`` makes the state, from the shapes of one sample.
        update: ``update(state, samples, start)`` takes in a chunk, samples on axis 0, of which
            the first has the number ``start``.
        result: ``result(state)`` gives the named results.
    """

    init: Callable[[Any, int], Any]
    update: Callable[[Any, Any, Any], Any]
    result: Callable[[Any], Any]


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


class Classification(NamedTuple):
    """Summary of class probabilities over the samples; entropies in nats.

    Attributes:
        probabilities: mean over the samples, shape (..., C).
        predictive_entropy: entropy of the mean probabilities, shape (...).
        expected_entropy: mean entropy of the samples, shape (...).
        mutual_information: the difference of the two, shape (...): what the model does not know.
        variation_ratio: share of samples that disagree with the most frequent class, shape (...).
    """

    probabilities: jax.Array
    predictive_entropy: jax.Array
    expected_entropy: jax.Array
    mutual_information: jax.Array
    variation_ratio: jax.Array


class _Welford(NamedTuple):
    count: Any
    mean: Any
    squares: Any


class _Votes(NamedTuple):
    count: Any
    probabilities: Any
    entropy: Any
    votes: Any


def moments() -> Summary:
    """Mean, variance and standard error of any pytree of floating outputs.

    Chunks are merged by their means and squared deviations, in float32 or better, so the variance
    is right where it is small beside the mean. Memory does not grow with the number of samples.

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
    return Summary(_init_moments, _update_moments, _result_moments)


@functools.cache
def classification(*, from_logits: bool = True) -> Summary:
    """Mean probabilities, entropies, mutual information and variation ratio of a classifier.

    Args:
        from_logits: whether the function returns logits, shape (..., C), which then go through a
            softmax; False if it returns probabilities. Never guessed.

    Returns:
        A `Summary` whose result is a `Classification`.

    Example:
        >>> fn = lambda key, x: x + jax.random.normal(key, x.shape)
        >>> x = jnp.zeros((5, 3))
        >>> out = predict(fn, jax.random.key(0), x, num_samples=50, summary=classification())
        >>> out.probabilities.shape, out.mutual_information.shape
        ((5, 3), (5,))

    References:
        Gal, "Uncertainty in deep learning", 2016, section 3.3.1.
        Houlsby et al., "Bayesian active learning for classification and preference learning",
        2011, eq. 2.
    """
    update = functools.partial(_update_votes, from_logits=from_logits)
    return Summary(_init_votes, update, _result_votes)


def samples() -> Summary:
    """The samples themselves, on axis 0. Memory grows with their number.

    Returns:
        A `Summary` whose result has the structure of the output, with a leading sample axis.

    Example:
        >>> fn = lambda key, x: x + jax.random.normal(key, x.shape)
        >>> predict(fn, jax.random.key(0), jnp.zeros(3), num_samples=7, summary=samples()).shape
        (7, 3)
    """
    return Summary(_init_samples, _update_samples, _result_samples)


def _init_moments(sample, num_samples):
    del num_samples
    zeros = jax.tree.map(lambda leaf: _zeros(leaf, _wide(leaf.dtype)), sample)
    return _Welford(jnp.int32(0), zeros, zeros)


def _update_moments(state, samples, start):
    del start
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
    mean, squares = _unzip(samples, merged)
    return _Welford(count, mean, squares)


def _result_moments(state):
    def divide(squares):
        return squares / state.count.astype(squares.dtype)

    def error(variance):
        rest = (state.count - 1).astype(variance.dtype)
        return jnp.where(rest == 0, jnp.inf, jnp.sqrt(variance / jnp.maximum(rest, 1)))

    variance = jax.tree.map(divide, state.squares)
    return Moments(state.mean, variance, jax.tree.map(error, variance))


def _init_votes(sample, num_samples):
    del num_samples
    if not hasattr(sample, "shape") or not sample.shape:
        raise ValueError(
            "classification: expected a function that returns one array of shape (..., C), got "
            f"{jax.tree.map(lambda leaf: leaf.shape, sample)}; wrap it in a lambda that picks "
            "the logits"
        )
    zeros = _zeros(sample, _wide(sample.dtype))
    return _Votes(jnp.int32(0), zeros, zeros.sum(-1), _zeros(sample, jnp.int32))


def _update_votes(state, samples, start, *, from_logits):
    del start
    values = samples.astype(state.probabilities.dtype)
    if from_logits:
        values = jax.nn.softmax(values)
    size, classes = values.shape[0], values.shape[-1]
    count = state.count + size
    share = jnp.asarray(size / count, values.dtype)
    votes = jax.nn.one_hot(values.argmax(-1), classes, dtype=jnp.int32).sum(0)
    entropy = uncertainty.entropy(values).mean(0)
    return _Votes(
        count,
        state.probabilities + (values.mean(0) - state.probabilities) * share,
        state.entropy + (entropy - state.entropy) * share,
        state.votes + votes,
    )


def _result_votes(state):
    predictive = uncertainty.entropy(state.probabilities)
    agreeing = state.votes.max(-1).astype(state.entropy.dtype)
    return Classification(
        state.probabilities,
        predictive,
        state.entropy,
        jnp.maximum(predictive - state.entropy, 0),
        1 - agreeing / state.count.astype(agreeing.dtype),
    )


def _init_samples(sample, num_samples):
    return jax.tree.map(lambda leaf: _zeros(leaf, leaf.dtype, num_samples), sample)


def _update_samples(state, samples, start):
    def write(buffer, chunk):
        return jax.lax.dynamic_update_slice_in_dim(buffer, chunk, start, axis=0)

    return jax.tree.map(write, state, samples)


def _result_samples(state):
    return state


def _zeros(leaf, dtype, *leading):
    """Zeros shaped like a leaf, behind leading axes, and sharded like it on an Explicit mesh."""
    zeros = jnp.zeros((*leading, *leaf.shape), dtype)
    if leaf.sharding is None or AxisType.Explicit not in leaf.sharding.mesh.axis_types:
        return zeros
    spec = PartitionSpec(*(None,) * len(leading), *leaf.sharding.spec)
    return jax.sharding.reshard(zeros, NamedSharding(leaf.sharding.mesh, spec))


def _wide(dtype):
    """Accumulating in float32 or better; refuses what has no mean."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"summary: expected a function with floating outputs, got dtype {dtype}; cast them in "
            "a lambda, or use summary=samples()"
        )
    return np.promote_types(np.float32, dtype) if np.dtype(dtype).itemsize >= 4 else np.float32


def _unzip(like, pairs):
    structure = jax.tree.structure(like)
    first, second = zip(*structure.flatten_up_to(pairs))
    return structure.unflatten(first), structure.unflatten(second)
