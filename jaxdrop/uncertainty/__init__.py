"""Pure functions of numbers: how uncertain predictions are, and how far that can be trusted.

Nothing here is about dropout: predictions may come from Monte-Carlo passes, an ensemble or one
model. Samples are axis 0, classes are the last axis, entropies are in nats, and uncertainties of
numbers are variances. There are two classes or more: the probability p of a yes-or-no question is
the row ``[1 - p, p]``.
"""

from jaxdrop.uncertainty._auroc import auroc, false_positive_rate
from jaxdrop.uncertainty._batch_bald import BatchSelection, batch_bald
from jaxdrop.uncertainty._conformal import Interval, conformal_interval, conformal_quantile
from jaxdrop.uncertainty._crps import gaussian_crps, sample_crps
from jaxdrop.uncertainty._entropy import (
    entropy,
    expected_entropy,
    mutual_information,
    predictive_entropy,
)
from jaxdrop.uncertainty._epig import epig
from jaxdrop.uncertainty._intervals import (
    interval_coverage,
    interval_width,
    root_mean_squared_error,
)
from jaxdrop.uncertainty._likelihood import (
    gaussian_negative_log_likelihood,
    mixture_log_likelihood,
)
from jaxdrop.uncertainty._quantile_curve import (
    QuantileCurve,
    quantile_calibration_error,
    quantile_curve,
)
from jaxdrop.uncertainty._reliability_curve import (
    ReliabilityCurve,
    classwise_calibration_error,
    expected_calibration_error,
    reliability_curve,
)
from jaxdrop.uncertainty._report import Report, report
from jaxdrop.uncertainty._risk_coverage import (
    RiskCoverage,
    area_under_generalized_risk_coverage,
    area_under_risk_coverage,
    risk_coverage,
)
from jaxdrop.uncertainty._scores import (
    accuracy,
    brier_score,
    joint_log_likelihood,
    negative_log_likelihood,
)
from jaxdrop.uncertainty._scoring_rule_split import ScoringRuleSplit, scoring_rule_split
from jaxdrop.uncertainty._smooth_calibration_error import smooth_calibration_error
from jaxdrop.uncertainty._spread import (
    VarianceSplit,
    epistemic_by_class,
    mean_std,
    variance_split,
    variation_ratio,
)
from jaxdrop.uncertainty._temperature_scaling import temperature_scaling
from jaxdrop.uncertainty._variance_scaling import variance_scaling

__all__ = [
    "BatchSelection",
    "Interval",
    "QuantileCurve",
    "ReliabilityCurve",
    "Report",
    "RiskCoverage",
    "ScoringRuleSplit",
    "VarianceSplit",
    "accuracy",
    "area_under_generalized_risk_coverage",
    "area_under_risk_coverage",
    "auroc",
    "batch_bald",
    "brier_score",
    "classwise_calibration_error",
    "conformal_interval",
    "conformal_quantile",
    "entropy",
    "epig",
    "epistemic_by_class",
    "expected_calibration_error",
    "expected_entropy",
    "false_positive_rate",
    "gaussian_crps",
    "gaussian_negative_log_likelihood",
    "interval_coverage",
    "interval_width",
    "joint_log_likelihood",
    "mean_std",
    "mixture_log_likelihood",
    "mutual_information",
    "negative_log_likelihood",
    "predictive_entropy",
    "quantile_calibration_error",
    "quantile_curve",
    "reliability_curve",
    "report",
    "risk_coverage",
    "root_mean_squared_error",
    "sample_crps",
    "scoring_rule_split",
    "smooth_calibration_error",
    "temperature_scaling",
    "variance_scaling",
    "variance_split",
    "variation_ratio",
]
