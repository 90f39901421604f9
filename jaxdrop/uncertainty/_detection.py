"""How well a score tells two kinds of examples apart."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _arrays, _numbers


def auroc(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Area under the ROC curve: how often a positive example scores above a negative one.

    The share of the pairs of one positive and one negative example in which the positive has the
    larger score, equal scores counted half: 1/2 for scores that know nothing, 1 for a perfect
    order. Computed from ranks, so it is exact up to rounding; its gradient is 0.

    With an uncertainty as score it measures the detection of errors, ``auroc(entropy, wrong)``,
    or of inputs unlike the training data, ``auroc(concatenated, is_out_of_distribution)``.

    Args:
        scores: real numbers of shape ``(N,)``, larger means more likely positive. A traced NaN
            gives NaN.
        labels: shape ``(N,)``: booleans, or 0 and 1 as integers; both kinds must occur. Traced
            ones that lack a kind, or hold other numbers, give NaN.

    Returns:
        Scalar in [0, 1]; float32, or float64 if ``scores`` is.

    Raises:
        TypeError: ``scores`` is not of real numbers, or ``labels`` neither boolean nor integer.
        ValueError: a shape is not ``(N,)`` with N at least 1, the shapes differ, known scores are
            NaN, or known labels lack a kind or hold other numbers than 0 and 1.

    Example:
        >>> float(auroc(jnp.array([0.1, 0.4, 0.4, 0.9]), jnp.array([0, 0, 1, 1])))
        0.875

    References:
        Hanley & McNeil, "The meaning and use of the area under a receiver operating
        characteristic (ROC) curve", 1982.
    """
    (scores,) = _numbers.check_real(scores=scores, finite=False)
    return _auroc(scores, _check_labels(scores, labels))


def _check_labels(scores, labels):
    labels = _arrays.as_array(labels, "labels")
    if labels.dtype != jnp.bool_ and not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels: expected booleans, or 0 and 1 as integers, got dtype {labels.dtype}; "
            "write for example predicted != labels"
        )
    if scores.ndim != 1 or scores.shape != labels.shape or not labels.size:
        raise ValueError(
            "scores and labels: expected the same shape (N,) with N of at least 1, got "
            f"{scores.shape} and {labels.shape}; flatten both with .ravel()"
        )
    labels = labels.astype(jnp.int32)
    if _arrays.known(labels):
        low, high = _arrays.read(_arrays.extremes, labels)
        if (low, high) != (0, 1):
            raise ValueError(
                "labels: expected both 0 and 1 and nothing else, got values from "
                f"{low} to {high}; give examples of both kinds, for example labels == 2"
            )
    return labels


@jax.jit
def _auroc(scores, labels):
    ranked, label = jax.lax.sort((scores, labels), num_keys=1)
    positive = label == 1
    start, end = _arrays.runs(ranked)
    # How many negatives score lower, and how many not higher: the same for all of equal score.
    # Integers, hence exact.
    negatives = jnp.cumsum(~positive, dtype=jnp.int32)
    total = negatives[-1]
    below = jnp.where(start == 0, 0, negatives[start - 1])
    won = (below + negatives[end - 1]).astype(scores.dtype) / (2 * total).astype(scores.dtype)
    area = jnp.where(positive, won, 0).sum() / positive.sum(dtype=jnp.int32).astype(scores.dtype)
    valid = ~jnp.isnan(ranked).any() & ((labels == 0) | (labels == 1)).all()
    return jnp.where(valid, area, jnp.nan)
