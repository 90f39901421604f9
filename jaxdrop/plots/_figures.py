"""Figures without pyplot, so without global state and windows, and two curves to draw on them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxdrop.uncertainty import ReliabilityCurve, RiskCoverage, _internal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figure(
    num_axes: int, *, width: float = 4.6, height: float = 4.0
) -> "tuple[Figure, list[Axes]]":
    """Makes a figure with its axes side by side.

    Args:
        num_axes: number of axes, a Python integer of at least 1.
        width: width of one of the axes, in inches.
        height: height of the figure, in inches.

    Returns:
        ``(matplotlib.figure.Figure, list of its axes)``.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; it comes with ``jaxdrop[plots]``.
        TypeError: ``num_axes`` is not a Python integer.
        ValueError: it is below 1.

    Example:
        >>> figure_, (left, right) = figure(2)
        >>> len(figure_.axes)
        2
    """
    from matplotlib.figure import Figure

    num_axes = _internal.check_count(num_axes, "num_axes", "axes", 1)
    new = Figure(figsize=(width * num_axes, height), layout="constrained")
    return new, list(new.subplots(1, num_axes, squeeze=False)[0])


def reliability_diagram(axes: "Axes", curves: Mapping[str, ReliabilityCurve]) -> None:
    """Draws how often predictions of a confidence are right; a calibrated model is on the diagonal.

    Args:
        axes: matplotlib axes to draw on.
        curves: `jaxdrop.uncertainty.ReliabilityCurve` by label. Bins that are empty or NaN are
            left out.

    Returns:
        None.

    Example:
        >>> probabilities, labels = jnp.array([[0.9, 0.1], [0.3, 0.7]]), jnp.array([0, 1])
        >>> curve = uncertainty.reliability_curve(probabilities, labels)
        >>> figure_, (axes,) = figure(1)
        >>> reliability_diagram(axes, {"model": curve})
        >>> len(axes.lines)
        2

    References:
        Guo et al., "On calibration of modern neural networks", 2017, figure 1.
    """
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    for label, curve in curves.items():
        confidence, accuracy, share = map(np.asarray, curve)
        filled = share > 0
        axes.plot(confidence[filled], accuracy[filled], "o-", label=label)
    axes.set(xlabel="confidence", ylabel="accuracy", title="Reliability")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02))
    legend_on_top(axes)


def risk_coverage(axes: "Axes", curves: Mapping[str, RiskCoverage]) -> None:
    """Draws the accuracy of the predictions that are kept against the share that is kept.

    Args:
        axes: matplotlib axes to draw on.
        curves: `jaxdrop.uncertainty.RiskCoverage` by label.

    Returns:
        None.

    Example:
        >>> curve = uncertainty.risk_coverage(jnp.array([0.1, 0.9]), jnp.array([0.0, 1.0]))
        >>> figure_, (axes,) = figure(1)
        >>> risk_coverage(axes, {"model": curve})
        >>> axes.get_xlabel()
        'share of predictions kept'

    References:
        Geifman & El-Yaniv, "Selective classification for deep neural networks", 2017, section 2.
    """
    for label, curve in curves.items():
        coverage, risk = map(np.asarray, curve)
        axes.plot(coverage, 1 - risk, line_style(coverage), label=label)
    axes.set(xlabel="share of predictions kept", ylabel="accuracy of those kept")
    axes.set(title="Refusing the most uncertain")
    legend_on_top(axes)


def line_style(x: np.ndarray) -> str:
    """A line through many points; a dot for a single one, which has no visible line."""
    return "o" if len(x) == 1 else "-"


def legend_on_top(axes: "Axes") -> None:
    """A legend above the curves, because they may fill every corner; no labels, no legend."""
    # Without the labels that are empty or begin with an underscore.
    num_labels = len(axes.get_legend_handles_labels()[1])
    if not num_labels:
        return
    rows = -(-num_labels // 3)
    low, high = axes.get_ylim()
    # No ticks in the room that the legend gets.
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
    axes.set_ylim(low, high + (high - low) * 0.11 * rows)
    columns = -(-num_labels // rows)
    options = {"frameon": False, "handlelength": 1.2, "columnspacing": 1.2}
    axes.legend(loc="upper center", ncols=columns, **options)
