"""Figures without pyplot: nothing global, no window, the same on every machine."""

import numpy as np

from jaxdrop.uncertainty import _checks


def figure(num_axes, *, width=4.6, height=4.0):
    """A new figure with its axes side by side.

    Args:
        num_axes: number of axes, a Python integer of at least 1.
        width: width of each, in inches.
        height: height, in inches.

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

    num_axes = _checks.check_count(num_axes, "num_axes", "axes", 1)

    made = Figure(figsize=(width * num_axes, height), layout="constrained")
    return made, list(made.subplots(1, num_axes, squeeze=False)[0])


def reliability_diagram(axes, curves):
    """Draws how often predictions of a given confidence are right; the diagonal is calibrated.

    Args:
        axes: matplotlib axes to draw on.
        curves: `jaxdrop.uncertainty.ReliabilityCurve` by label. Empty bins are left out, and
            those of NaN.

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


def risk_coverage(axes, curves):
    """Draws the accuracy of the predictions that are kept, against the share that is kept.

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
        axes.plot(coverage, 1 - risk, style(coverage), label=label)
    axes.set(xlabel="share of predictions kept", ylabel="accuracy of those kept")
    axes.set(title="Refusing the most uncertain")
    legend_on_top(axes)


def style(x):
    """A line through many points; a dot where there is one, of which no line would be seen."""
    return "o" if len(x) == 1 else "-"


def legend_on_top(axes):
    """A legend in room of its own, above: curves leave no corner free that can be relied on.

    Labels that are empty or begin with an underscore have no entry; without any, no legend.
    """
    entries = len(axes.get_legend_handles_labels()[1])
    if not entries:
        return
    rows = -(-entries // 3)
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
    axes.set_ylim(low, high + (high - low) * 0.11 * rows)
    place = {"loc": "upper center", "ncols": -(-entries // rows)}
    axes.legend(frameon=False, handlelength=1.2, columnspacing=1.2, **place)
