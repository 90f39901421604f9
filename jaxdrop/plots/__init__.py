"""Pictures of masks and uncertainties, drawn on matplotlib axes; the only place that imports it."""

from jaxdrop.plots._figures import figure, reliability_diagram, risk_coverage
from jaxdrop.plots._mask_gallery import mask_gallery
from jaxdrop.plots._overview import overview
from jaxdrop.plots._predictive_bands import predictive_bands
from jaxdrop.plots._uncertainty_histogram import uncertainty_histogram

__all__ = [
    "figure",
    "mask_gallery",
    "overview",
    "predictive_bands",
    "reliability_diagram",
    "risk_coverage",
    "uncertainty_histogram",
]
