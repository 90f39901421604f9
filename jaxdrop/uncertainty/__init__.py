"""Pure functions of numbers: how uncertain predictions are, and how far that can be trusted.

There is no dropout in here: probabilities may come from Monte-Carlo passes, an ensemble or one
model. Samples are axis 0, classes the last axis, entropies in nats.
"""

from jaxdrop.uncertainty._calibration import ReliabilityCurve as ReliabilityCurve
from jaxdrop.uncertainty._calibration import (
    expected_calibration_error as expected_calibration_error,
)
from jaxdrop.uncertainty._calibration import reliability_curve as reliability_curve
from jaxdrop.uncertainty._entropy import entropy as entropy
from jaxdrop.uncertainty._entropy import expected_entropy as expected_entropy
from jaxdrop.uncertainty._entropy import mutual_information as mutual_information
from jaxdrop.uncertainty._entropy import predictive_entropy as predictive_entropy
from jaxdrop.uncertainty._scores import accuracy as accuracy
from jaxdrop.uncertainty._scores import brier_score as brier_score
from jaxdrop.uncertainty._scores import negative_log_likelihood as negative_log_likelihood
from jaxdrop.uncertainty._selection import RiskCoverage as RiskCoverage
from jaxdrop.uncertainty._selection import risk_coverage as risk_coverage
from jaxdrop.uncertainty._variation import variation_ratio as variation_ratio

__all__ = [
    "ReliabilityCurve",
    "RiskCoverage",
    "accuracy",
    "brier_score",
    "entropy",
    "expected_calibration_error",
    "expected_entropy",
    "mutual_information",
    "negative_log_likelihood",
    "predictive_entropy",
    "reliability_curve",
    "risk_coverage",
    "variation_ratio",
]
