"""What refusing the uncertain cases gains."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _arrays, _checks, _repr


class RiskCoverage(NamedTuple):
    """Risk at every coverage, each array of shape ``(N,)``.

    Attributes:
        coverage: share of examples that are kept: ``1/N, 2/N, ..., 1``.
        risk: mean error of the examples kept at that coverage, the least uncertain ones; its
            expectation over their choice where equally uncertain ones are kept in part.
    """

    coverage: jax.Array
    risk: jax.Array

    def __repr__(self):
        return _repr.short(self)


def risk_coverage(uncertainty: ArrayLike, errors: ArrayLike) -> RiskCoverage:
    """Mean error among the examples kept, when the most uncertain ones are refused.

    With the examples sorted by rising uncertainty, entry k is ``coverage = k / N`` and
    ``risk = 1/k sum_{i <= k} errors_i``, averaged over all orders of the equally uncertain: each of
    them counts with the mean error of all of them. The last risk is the mean of all errors; a
    good measure of uncertainty keeps the risk low up to high coverage.

    Args:
        uncertainty: floating array of shape ``(N,)``, larger means refused earlier, for example
            a `predictive_entropy`. A traced NaN is refused first, and the risk with it is NaN.
        errors: shape ``(N,)``: booleans, true where the prediction is wrong, or any real loss.

    Returns:
        The `RiskCoverage`; float32, or float64 if ``errors`` is.

    Raises:
        TypeError: ``uncertainty`` is not floating, or ``errors`` not real.
        ValueError: a shape is not ``(N,)`` with N at least 1, the shapes differ, or a known
            ``uncertainty`` is NaN.

    Example:
        >>> wrong = jnp.array([True, False, False, False])
        >>> risk_coverage(jnp.array([0.9, 0.1, 0.5, 0.2]), wrong).risk.tolist()
        [0.0, 0.0, 0.0, 0.25]

    References:
        Geifman & El-Yaniv, "Selective classification for deep neural networks", 2017, section 2.
    """
    return _risk_coverage(*_checks.check_ranking(uncertainty, errors))


def area_under_risk_coverage(uncertainty: ArrayLike, errors: ArrayLike) -> jax.Array:
    """Mean risk over all coverages: one number for the `risk_coverage` curve, smaller is better.

    ``1/N sum_k risk_k``, averaged over all orders of the equally uncertain. It is the mean of all
    errors where all are, and about that where the uncertainty tells nothing of them. It depends
    on that mean: compare it on the same examples.

    Args:
        uncertainty: floating array of shape ``(N,)``, larger means refused earlier. A traced NaN
            gives NaN.
        errors: shape ``(N,)``: booleans, true where the prediction is wrong, or any real loss.

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


@jax.jit
def _risk_coverage(uncertainty, errors):
    kept = jnp.arange(1, errors.size + 1).astype(errors.dtype)
    order = jnp.argsort(uncertainty)
    ranked = uncertainty[order]
    start, end = _arrays.runs(ranked)
    sums = jnp.cumsum(errors[order])
    before = jnp.where(start == 0, 0, sums[start - 1])
    # Of a run of equals that is kept in part, each adds the mean of the run.
    number = jnp.arange(errors.size, dtype=jnp.int32)
    share = (number + 1 - start).astype(errors.dtype) / (end - start).astype(errors.dtype)
    total = jnp.where(number + 1 == end, sums, before * (1 - share) + sums[end - 1] * share)
    risk = jnp.where(jnp.isnan(ranked), jnp.nan, total / kept)
    return RiskCoverage(kept / errors.size, risk)
