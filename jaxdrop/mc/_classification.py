"""What samples of class scores say: probabilities, and how far to trust them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdrop import uncertainty
from jaxdrop.mc import _summary
from jaxdrop.mc._summary import Summary


class Classification(NamedTuple):
    """Summary of class probabilities over the samples; entropies in nats.

    Attributes:
        probabilities: mean over the samples, shape (..., C).
        predictive_entropy: entropy of the mean probabilities, shape (...).
        expected_entropy: mean entropy of the samples, shape (...).
        mutual_information: the difference of the two, shape (...): what the model does not know.
        variation_ratio: share of samples that disagree with the most frequent class, shape (...).
        log_probabilities: logarithm of ``probabilities``, exact where those underflow.
        votes: number of samples whose most probable class each class is, int32, shape (..., C).
        standard_error: Monte-Carlo standard error of ``probabilities``; inf for a single sample.
    """

    probabilities: jax.Array
    predictive_entropy: jax.Array
    expected_entropy: jax.Array
    mutual_information: jax.Array
    variation_ratio: jax.Array
    log_probabilities: jax.Array
    votes: jax.Array
    standard_error: jax.Array


class _State(NamedTuple):
    probabilities: _summary.Welford
    log_sum: Any
    entropy: Any
    votes: Any


def classification(*, from_logits: bool = True) -> Summary:
    """Mean probabilities, entropies, mutual information and variation ratio of a classifier.

    Args:
        from_logits: whether the function returns logits, shape (..., C), which then go through a
            softmax; False if it returns probabilities. Never guessed: where it is False and rows
            do not sum to one, the result is refused, or NaN under a trace.

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
    if not isinstance(from_logits, bool):
        raise TypeError(
            f"from_logits: expected True or False, got {from_logits!r}; write "
            "classification(from_logits=False) for a function that returns probabilities"
        )
    if from_logits:
        return Summary(_init, Partial(_update, from_logits=True), _result)
    return Summary(_init, Partial(_update, from_logits=False), _result_of_probabilities, _check)


def _init(sample, num_samples):
    del num_samples
    if not hasattr(sample, "shape") or not sample.shape:
        raise ValueError(
            "classification: expected a function that returns one array of shape (..., C), got "
            f"{jax.tree.map(lambda leaf: leaf.shape, sample)}; wrap it in a lambda that picks "
            "the logits"
        )
    welford = _summary.init_welford(sample)
    zeros = welford.mean
    return _State(welford, zeros - jnp.inf, zeros.sum(-1), _summary.zeros_like(sample, jnp.int32))


def _update(state, samples, start, *, from_logits):
    del start
    values = samples.astype(state.log_sum.dtype)
    if from_logits:
        logs = jax.nn.log_softmax(values)
        values = jnp.exp(logs)
    else:
        logs = jnp.log(values)
    before = state.probabilities
    after = _summary.update_welford(before, values)
    share = jnp.asarray(values.shape[0] / after.count, values.dtype)
    entropy = uncertainty.entropy(values).mean(0)
    votes = jax.nn.one_hot(values.argmax(-1), values.shape[-1], dtype=jnp.int32).sum(0)
    return _State(
        after,
        jnp.logaddexp(state.log_sum, jax.nn.logsumexp(logs, axis=0)),
        state.entropy + (entropy - state.entropy) * share,
        state.votes + votes,
    )


def _result(state):
    p = state.probabilities.mean
    count = state.probabilities.count.astype(p.dtype)
    predictive = uncertainty.entropy(p)
    return Classification(
        p,
        predictive,
        state.entropy,
        jnp.maximum(predictive - state.entropy, 0),
        1 - state.votes.max(-1).astype(p.dtype) / count,
        state.log_sum - jnp.log(count),
        state.votes,
        _summary.standard_error(state.probabilities),
    )


def _result_of_probabilities(state):
    """NaN where the samples cannot have been probabilities."""
    out = _result(state)
    p = out.probabilities
    fits = (jnp.abs(p.sum(-1) - 1) < 0.01) & (p >= 0).all(-1)

    def blank(leaf):
        wrong = ~fits if leaf.ndim == fits.ndim else ~fits[..., None]
        return jnp.where(wrong, jnp.nan, leaf) if leaf.dtype != jnp.int32 else leaf

    return jax.tree.map(blank, out)


def _check(result):
    if np.isnan(result.predictive_entropy).any():
        raise ValueError(
            "classification: expected probabilities, which are not negative and sum to 1 over the "
            "last axis, got other numbers; write classification(from_logits=True) if the function "
            "returns logits, or put jax.nn.softmax around it"
        )
