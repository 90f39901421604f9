"""Pictures of masks and uncertainties, drawn on matplotlib axes; the only place that imports it."""

from jaxdrop.plots._bands import predictive_bands as predictive_bands
from jaxdrop.plots._figures import figure as figure
from jaxdrop.plots._figures import reliability_diagram as reliability_diagram
from jaxdrop.plots._figures import risk_coverage as risk_coverage
from jaxdrop.plots._gallery import mask_gallery as mask_gallery
from jaxdrop.plots._histogram import uncertainty_histogram as uncertainty_histogram

__all__ = [
    "figure",
    "mask_gallery",
    "predictive_bands",
    "reliability_diagram",
    "risk_coverage",
    "uncertainty_histogram",
]
