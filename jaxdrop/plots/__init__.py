"""Pictures of masks and uncertainties, drawn on matplotlib axes; the only place that imports it."""

from jaxdrop.plots._figures import figure as figure
from jaxdrop.plots._figures import reliability_diagram as reliability_diagram
from jaxdrop.plots._figures import risk_coverage as risk_coverage

__all__ = ["figure", "reliability_diagram", "risk_coverage"]
