"""Pure functions of numbers: how uncertain predictions are, and how far that can be trusted.

There is no dropout in here: predictions may come from Monte-Carlo passes, an ensemble or one
model. Samples are axis 0, classes the last axis, entropies in nats, and uncertainties of numbers
are variances. Classes are two or more: the probability p of a yes-or-no question is the row
``[1 - p, p]``.
"""

from jaxdrop.uncertainty._acquisition import BatchSelection as BatchSelection
from jaxdrop.uncertainty._acquisition import batch_bald as batch_bald
from jaxdrop.uncertainty._calibration import ReliabilityCurve as ReliabilityCurve
from jaxdrop.uncertainty._calibration import (
    classwise_calibration_error as classwise_calibration_error,
)
from jaxdrop.uncertainty._calibration import (
    expected_calibration_error as expected_calibration_error,
)
from jaxdrop.uncertainty._calibration import reliability_curve as reliability_curve
from jaxdrop.uncertainty._crps import gaussian_crps as gaussian_crps
from jaxdrop.uncertainty._crps import sample_crps as sample_crps
from jaxdrop.uncertainty._detection import auroc as auroc
from jaxdrop.uncertainty._entropy import entropy as entropy
from jaxdrop.uncertainty._entropy import expected_entropy as expected_entropy
from jaxdrop.uncertainty._entropy import mutual_information as mutual_information
from jaxdrop.uncertainty._entropy import predictive_entropy as predictive_entropy
from jaxdrop.uncertainty._intervals import interval_coverage as interval_coverage
from jaxdrop.uncertainty._intervals import interval_width as interval_width
from jaxdrop.uncertainty._intervals import root_mean_squared_error as root_mean_squared_error
from jaxdrop.uncertainty._likelihood import (
    gaussian_negative_log_likelihood as gaussian_negative_log_likelihood,
)
from jaxdrop.uncertainty._likelihood import mixture_log_likelihood as mixture_log_likelihood
from jaxdrop.uncertainty._quantiles import QuantileCurve as QuantileCurve
from jaxdrop.uncertainty._quantiles import quantile_calibration_error as quantile_calibration_error
from jaxdrop.uncertainty._quantiles import quantile_curve as quantile_curve
from jaxdrop.uncertainty._scores import accuracy as accuracy
from jaxdrop.uncertainty._scores import brier_score as brier_score
from jaxdrop.uncertainty._scores import negative_log_likelihood as negative_log_likelihood
from jaxdrop.uncertainty._selection import RiskCoverage as RiskCoverage
from jaxdrop.uncertainty._selection import area_under_risk_coverage as area_under_risk_coverage
from jaxdrop.uncertainty._selection import risk_coverage as risk_coverage
from jaxdrop.uncertainty._temperature import temperature_scaling as temperature_scaling
from jaxdrop.uncertainty._variance import VarianceSplit as VarianceSplit
from jaxdrop.uncertainty._variance import variance_split as variance_split
from jaxdrop.uncertainty._variation import mean_std as mean_std
from jaxdrop.uncertainty._variation import variation_ratio as variation_ratio

__all__ = [
    "BatchSelection",
    "QuantileCurve",
    "ReliabilityCurve",
    "RiskCoverage",
    "VarianceSplit",
    "accuracy",
    "area_under_risk_coverage",
    "auroc",
    "batch_bald",
    "brier_score",
    "classwise_calibration_error",
    "entropy",
    "expected_calibration_error",
    "expected_entropy",
    "gaussian_crps",
    "gaussian_negative_log_likelihood",
    "interval_coverage",
    "interval_width",
    "mean_std",
    "mixture_log_likelihood",
    "mutual_information",
    "negative_log_likelihood",
    "predictive_entropy",
    "quantile_calibration_error",
    "quantile_curve",
    "reliability_curve",
    "risk_coverage",
    "root_mean_squared_error",
    "sample_crps",
    "temperature_scaling",
    "variance_split",
    "variation_ratio",
]
