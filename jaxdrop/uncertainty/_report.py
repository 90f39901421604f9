"""Every score of predictions in one table."""

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _auroc as auroc
from jaxdrop.uncertainty import _checks
from jaxdrop.uncertainty import _crps as crps
from jaxdrop.uncertainty import _entropy as entropy
from jaxdrop.uncertainty import _intervals as intervals
from jaxdrop.uncertainty import _likelihood as likelihood
from jaxdrop.uncertainty import _quantile_curve as quantile_curve
from jaxdrop.uncertainty import _reliability_curve as reliability_curve
from jaxdrop.uncertainty import _risk_coverage as risk_coverage
from jaxdrop.uncertainty import _scores as scores
from jaxdrop.uncertainty import _smooth_calibration_error as smooth_calibration_error
from jaxdrop.uncertainty import _temperature_scaling as temperature_scaling
from jaxdrop.uncertainty import _variance_scaling as variance_scaling

_Scores = dict[str, jax.Array]
_COVERED = 0.9
_ROWS = (  # as they are printed; jit sorts the keys of a dict
    *("accuracy", "negative_log_likelihood", "brier_score", "expected_calibration_error"),
    *("classwise_calibration_error", "smooth_calibration_error", "temperature_scaling"),
    *("root_mean_squared_error", "gaussian_negative_log_likelihood", "gaussian_crps"),
    *("quantile_calibration_error", "interval_coverage", "interval_width", "variance_scaling"),
    *("auroc", "area_under_risk_coverage", "predictive_entropy", "expected_entropy"),
    *("mutual_information", "variation_ratio", "variance", "epistemic", "aleatoric"),
)


class Report(NamedTuple):
    """Scores of predictions; printed as a table.

    Attributes:
        scores: for each name of a prediction, which is ``""`` if there is only one, its scores by
            the names of the functions that compute them.
    """

    scores: dict[str, _Scores]

    def __str__(self) -> str:
        columns = list(self.scores.items())
        named = [name for name in _ROWS if any(name in each for _, each in columns)]
        rows = [["", *(name for name, _ in columns)]] if any(name for name, _ in columns) else []
        rows += [[name, *(_number(each.get(name)) for _, each in columns)] for name in named]
        widths = [max(map(len, column)) for column in zip(*rows)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in rows
        )


def report(predictions: Any, labels: ArrayLike | None = None) -> Report:
    """Every score of a classification or a regression that can be told from what is there.

    Of probabilities, with labels: ``accuracy``, ``negative_log_likelihood``, ``brier_score``, the
    calibration errors, the ``temperature_scaling`` that the predictions need, and how well their
    entropy tells which are wrong: ``auroc``, ``area_under_risk_coverage``. Without labels: means of
    ``predictive_entropy`` and, if the result has them, ``expected_entropy``, ``mutual_information``
    and ``variation_ratio``. Of means and variances, with targets: ``root_mean_squared_error``,
    the Gaussian ``gaussian_negative_log_likelihood`` and ``gaussian_crps``,
    ``quantile_calibration_error``, ``interval_coverage`` and ``interval_width`` of Gaussian
    intervals for 90 %, the ``variance_scaling`` that they need, and ``area_under_risk_coverage`` of
    the squared errors. Without targets: means of ``variance`` and of its parts ``epistemic`` and
    ``aleatoric``, if the result has them. What is not defined, such as the area if nothing is
    wrong, is NaN, and printed as a dash.

    Args:
        predictions: probabilities of shape ``(B..., C)``, or a result that has them as its field
            ``probabilities``; for a regression a result with the fields ``mean`` and ``total`` or
            ``variance``, or a pair of these two arrays. Or a dict of several such by name, all with
            the same labels; each is a column of the table.
        labels: class numbers, integers of shape ``(B...)``; or targets of the shape of the means.
            None if they are not known.

    Returns:
        The `Report`, whose scores are scalars; print it for a table. Known and traced arguments
        give the same.

    Raises:
        TypeError: ``predictions`` is something else, or ``labels`` are of the wrong dtype.
        ValueError: the shapes do not fit, an array is empty, or known values are not
            probabilities, not classes, not finite, or negative variances.

    Example:
        >>> probabilities = jnp.array([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]])
        >>> lines = str(report(probabilities, jnp.array([0, 1, 1]))).split("\\n")
        >>> print("\\n".join(lines[:3]))
        accuracy                     0.6667
        negative_log_likelihood      0.4594
        brier_score                  0.3067
    """
    named = named_predictions(predictions, labels)
    return Report({name: _scored(each) for name, each in named.items()})


class Classes(NamedTuple):
    """Checked predictions of a classification: the labels may be None, the result is as given."""

    probabilities: jax.Array
    labels: Any
    result: Any


class Numbers(NamedTuple):
    """Checked predictions of a regression: the targets may be None, the result is as given."""

    mean: jax.Array
    variance: jax.Array
    targets: Any
    result: Any


def named_predictions(predictions: Any, labels: Any) -> dict[str, Classes | Numbers]:
    """The predictions of `report` by name; ``""`` is that of a single one."""
    named = predictions if isinstance(predictions, Mapping) else {"": predictions}
    if not named:
        raise TypeError(
            "predictions: expected at least one, got none; write for example "
            "{'one pass': probabilities}"
        )
    return {str(name): _checked(each, labels) for name, each in named.items()}


def _checked(result: Any, labels: Any) -> Classes | Numbers:
    p = getattr(result, "probabilities", None)
    pair = _mean_and_variance(result) if p is None else None
    if pair is not None and labels is not None:
        return Numbers(*_checks.check_gaussian(*pair, labels), result)
    if pair is not None:
        mean, variance = _checks.check_real(mean=pair[0], variance=pair[1])
        return Numbers(mean, _checks.check_noise(variance, "variance", mean.shape), None, result)
    p = result if p is None else p
    if not hasattr(p, "shape") and not isinstance(p, list):
        raise TypeError(
            "predictions: expected probabilities, a pair of means and variances, or a result "
            f"that has them, got {type(p).__name__}; write for example "
            "report(out.probabilities, labels)"
        )
    if labels is None:
        return Classes(_checks.check_probabilities(p), None, result)
    return Classes(*_checks.check_pair(p, labels), result)


def _scored(prediction: Classes | Numbers) -> _Scores:
    found: _Scores = {}
    if isinstance(prediction, Classes):
        p, labels, result = prediction
        if labels is not None:
            found = _of_classes(p, labels)
        found["predictive_entropy"] = entropy.entropy_of(p).mean()
        return found | _parts(result, _ENTROPIES)
    mean, variance, targets, result = prediction
    if targets is not None:
        found = _of_numbers(mean, variance, targets)
    return {**found, "variance": variance.mean(), **_parts(result, _VARIANCES)}


_ENTROPIES = "expected_entropy", "mutual_information", "variation_ratio"
_VARIANCES = "epistemic", "aleatoric"


def _mean_and_variance(prediction: Any) -> tuple[Any, Any] | None:
    """The fields of a regression, or None if it is not one."""
    mean = getattr(prediction, "mean", None)
    if mean is not None and not callable(mean):  # a method of arrays
        variance = getattr(prediction, "total", getattr(prediction, "variance", None))
        return None if variance is None else (mean, variance)
    is_pair = type(prediction) is tuple and len(prediction) == 2
    return prediction if is_pair else None


def _parts(result: Any, names: tuple[str, ...]) -> _Scores:
    found = {name: getattr(result, name, None) for name in names}
    return {name: jnp.mean(value) for name, value in found.items() if value is not None}


@jax.jit  # so that what a perfect classifier leaves undefined is NaN instead of an error
def _of_classes(p: jax.Array, labels: jax.Array) -> _Scores:
    rows, numbers = p.reshape(-1, p.shape[-1]), labels.ravel()
    wrong = rows.argmax(-1) != numbers
    uncertain = entropy.entropy_of(rows)
    logits = temperature_scaling.finite_logits(jnp.log(rows))
    return {
        "accuracy": scores.accuracy(rows, numbers),
        "negative_log_likelihood": scores.negative_log_likelihood(rows, numbers),
        "brier_score": scores.brier_score(rows, numbers),
        "expected_calibration_error": reliability_curve.expected_calibration_error(rows, numbers),
        "classwise_calibration_error": reliability_curve.classwise_calibration_error(rows, numbers),
        "smooth_calibration_error": smooth_calibration_error.smooth_calibration_error(
            rows, numbers
        ),
        "temperature_scaling": temperature_scaling.temperature_scaling(logits, numbers),
        "auroc": auroc.auroc(uncertain, wrong),
        "area_under_risk_coverage": risk_coverage.area_under_risk_coverage(
            uncertain, wrong.astype(p.dtype)
        ),
    }


@jax.jit
def _of_numbers(mean: jax.Array, variance: jax.Array, targets: jax.Array) -> _Scores:
    gaussian = mean, variance, targets
    half = NormalDist().inv_cdf((1 + _COVERED) / 2) * jnp.sqrt(variance)
    ends = mean - half, mean + half
    squared = jnp.square(targets - mean).ravel()
    return {
        "root_mean_squared_error": intervals.root_mean_squared_error(mean, targets),
        "gaussian_negative_log_likelihood": likelihood.gaussian_negative_log_likelihood(*gaussian),
        "gaussian_crps": crps.gaussian_crps(*gaussian),
        "quantile_calibration_error": quantile_curve.quantile_calibration_error(*gaussian),
        "interval_coverage": intervals.interval_coverage(*ends, targets),
        "interval_width": intervals.interval_width(*ends),
        "variance_scaling": variance_scaling.variance_scaling(*gaussian),
        "area_under_risk_coverage": risk_coverage.area_under_risk_coverage(
            variance.ravel(), squared
        ),
    }


def _number(value: Any) -> str:
    if value is None or not _checks.known(value):
        return "-" if value is None else "traced"
    number = float(np.asarray(value))
    return "-" if np.isnan(number) else f"{number:.4f}" if abs(number) < 1e4 else f"{number:.4g}"
