"""How the error falls if the most uncertain predictions are refused."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks, _repr


class RiskCoverage(NamedTuple):
    """Risk at every coverage, each array of shape ``(N,)``.

    Attributes:
        coverage: share of examples that are kept: ``1/N, 2/N, ..., 1``.
        risk: mean error of the examples kept at that coverage, the least uncertain ones. If equally
            uncertain ones are kept in part, the expectation over which of them are kept.
    """

    coverage: jax.Array
    risk: jax.Array

    def __repr__(self) -> str:
        return _repr.short(self)


def risk_coverage(uncertainty: ArrayLike, errors: ArrayLike) -> RiskCoverage:
    """Mean error of the examples that are kept if the most uncertain ones are refused.

    The examples are sorted by rising uncertainty. Element k is ``coverage = k / N`` and
    ``risk = 1/k sum_{i <= k} errors_i``, averaged over all orders of equally uncertain examples, so
    each of those counts with their mean error. The last risk is the mean of all errors. A good
    measure of uncertainty keeps the risk low up to high coverage.

    Args:
        uncertainty: floating array of shape ``(N,)``, larger means refused earlier, for example
            a `predictive_entropy`. A traced NaN is refused first, and risks that include it are
            NaN.
        errors: shape ``(N,)``: booleans, true if the prediction is wrong, or any real loss.

    Returns:
        The `RiskCoverage`; float32, or float64 if ``errors`` is.

    Raises:
        TypeError: ``uncertainty`` is not floating, or ``errors`` is not real.
        ValueError: a shape is not ``(N,)`` with N at least 1, the shapes differ, or a known
            ``uncertainty`` is NaN.

    Example:
        >>> wrong = jnp.array([True, False, False, False])
        >>> risk_coverage(jnp.array([0.9, 0.1, 0.5, 0.2]), wrong).risk.tolist()
        [0.0, 0.0, 0.0, 0.25]

    References:
        Geifman & El-Yaniv, "Selective classification for deep neural networks", 2017, section 2.
    """
    return _risk_coverage(*_check(uncertainty, errors))


def area_under_risk_coverage(uncertainty: ArrayLike, errors: ArrayLike) -> jax.Array:
    """Mean risk over all coverages: one number for the `risk_coverage` curve, smaller is better.

    ``1/N sum_k risk_k``, averaged over all orders of equally uncertain examples. It is the mean of
    all errors if all examples are equally uncertain, and about that if the uncertainty is unrelated
    to the errors. It depends on that mean, so compare areas only on the same examples.

    Args:
        uncertainty: floating array of shape ``(N,)``, larger means refused earlier. A traced NaN
            gives NaN.
        errors: shape ``(N,)``: booleans, true if the prediction is wrong, or any real loss.

    Returns:
        Scalar in the unit of ``errors``; float32, or float64 if ``errors`` is.

    Raises:
        TypeError: as `risk_coverage`.
        ValueError: as `risk_coverage`.

    Example:
        >>> wrong = jnp.array([True, False, False, False])
        >>> float(area_under_risk_coverage(jnp.array([0.9, 0.1, 0.5, 0.2]), wrong))
        0.0625

    References:
        Geifman et al., "Bias-reduced uncertainty estimation for deep neural classifiers", 2019.
    """
    return risk_coverage(uncertainty, errors).risk.mean()


def area_under_generalized_risk_coverage(uncertainty: ArrayLike, errors: ArrayLike) -> jax.Array:
    """Area under the error that is kept, as a share of all examples: the risk of silent failures.

    ``1/N sum_{i <= k} errors_i`` over the coverage ``k / N``, with straight lines between the
    points, of which the first is the origin; averaged over all orders of equally uncertain
    examples. Smaller is better. Unlike `area_under_risk_coverage` it does not divide by the
    coverage, so the few most certain examples do not decide it. If a share e of the answers is
    wrong, it is ``e (1 - e) (1 - auroc(uncertainty, wrong)) + e^2 / 2``: from ``e^2 / 2`` for a
    perfect order to ``e - e^2 / 2``, and ``e / 2`` if all examples are equally uncertain.

    Args:
        uncertainty: floating array of shape ``(N,)``, larger means refused earlier. A traced NaN
            gives NaN.
        errors: shape ``(N,)``: booleans, true if the prediction is wrong, or any real loss.

    Returns:
        Scalar in the unit of ``errors``; float32, or float64 if ``errors`` is.

    Raises:
        TypeError: as `risk_coverage`.
        ValueError: as `risk_coverage`.

    Example:
        >>> wrong = jnp.array([True, False, False, False])
        >>> float(area_under_generalized_risk_coverage(jnp.array([0.9, 0.1, 0.5, 0.2]), wrong))
        0.03125

    References:
        Traub et al., "Overcoming common flaws in the evaluation of selective classification
        systems", 2024.
    """
    return _area_under_generalized_risk(*_check(uncertainty, errors))


def runs_of_equals(ranked: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Start and end of the run of equal numbers that each of the sorted numbers lies in."""
    count = ranked.size
    number = jnp.arange(count, dtype=jnp.int32)
    changes = ranked[1:] != ranked[:-1]
    first = jnp.concatenate([jnp.ones(1, bool), changes])
    last = jnp.concatenate([changes, jnp.ones(1, bool)])
    start = jax.lax.cummax(jnp.where(first, number, 0))
    return start, jax.lax.cummin(jnp.where(last, number + 1, count), reverse=True)


def _check(uncertainty: ArrayLike, errors: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """``uncertainty`` as it is, and ``errors`` in the wider dtype of both, at least float32."""
    score = _checks.check_floating(uncertainty, "uncertainty")
    loss = _checks.as_array(errors, "errors")
    if loss.dtype != jnp.bool_ and not any(
        jnp.issubdtype(loss.dtype, kind) for kind in (jnp.floating, jnp.integer)
    ):
        raise TypeError(
            f"errors: expected booleans or real losses, got dtype {loss.dtype}; "
            "write for example predicted != labels"
        )
    if score.ndim != 1 or score.shape != loss.shape or not loss.size:
        raise ValueError(
            "uncertainty and errors: expected the same shape (N,) with N of at least 1, got "
            f"{score.shape} and {loss.shape}; flatten both with .ravel()"
        )
    if (
        _checks.known(score)
        and np.isnan(_checks.read(_checks.extremes, _checks.widen(score))).any()
    ):
        raise ValueError(
            "uncertainty: expected numbers that can be sorted, got NaN; "
            "look for the NaN in the predictions, or leave those examples out"
        )
    wide = jnp.float64 if jnp.float64 in (score.dtype, loss.dtype) else jnp.float32
    return score, loss.astype(wide)


@jax.jit
def _risk_coverage(uncertainty: jax.Array, errors: jax.Array) -> RiskCoverage:
    kept = jnp.arange(1, errors.size + 1).astype(errors.dtype)
    order = jnp.argsort(uncertainty)
    ranked = uncertainty[order]
    start, end = runs_of_equals(ranked)
    sums = jnp.cumsum(errors[order])
    before = jnp.where(start == 0, 0, sums[start - 1])
    # If a run of equals is kept in part, each example that is kept adds the mean of the run.
    number = jnp.arange(errors.size, dtype=jnp.int32)
    share = (number + 1 - start).astype(errors.dtype) / (end - start).astype(errors.dtype)
    total = jnp.where(number + 1 == end, sums, before * (1 - share) + sums[end - 1] * share)
    risk = jnp.where(jnp.isnan(ranked), jnp.nan, total / kept)
    return RiskCoverage(kept / errors.size, risk)


@jax.jit
def _area_under_generalized_risk(uncertainty: jax.Array, errors: jax.Array) -> jax.Array:
    order = jnp.argsort(uncertainty)
    ranked = uncertainty[order]
    start, end = runs_of_equals(ranked)
    # An error counts at every coverage from its example on. Among equals, the mean over all orders
    # of where that begins is the middle of their run.
    place = (start + end).astype(errors.dtype) / (2 * errors.size)
    area = (errors[order] * (1 - place)).mean()
    return jnp.where(jnp.isnan(ranked).any(), jnp.nan, area)
