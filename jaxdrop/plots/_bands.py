"""A prediction with its uncertainty along a line of inputs."""

import numpy as np

from jaxdrop.plots._figures import legend_on_top, style

_BLUE = np.array([0, 114, 178]) / 255


def predictive_bands(axes, x, mean, bands, *, data=None):
    """Draws a predicted mean and, around it, what the prediction leaves open.

    Wider bands lie below narrower ones and are paler. The points need not be sorted; those at one
    input are drawn by rising mean. Where a number is NaN there is a gap.

    Args:
        axes: matplotlib axes to draw on.
        x: inputs, shape ``(N,)``.
        mean: predictions, shape ``(N,)``.
        bands: by label, what to draw: a deviation of shape ``(N,)``, at least 0, drawn to both
            sides of the mean, or a pair of lower and upper ends. With the variances of a
            prediction, for example
            ``{"epistemic": jnp.sqrt(out.epistemic), "total": jnp.sqrt(out.total)}``.
        data: pair of inputs and targets to draw as points, of any equal length; optional.

    Returns:
        None.

    Raises:
        ValueError: ``x`` is not of shape ``(N,)`` with N at least 1, something else has another
            shape, a deviation is negative, or a lower end lies above the upper one.

    Example:
        >>> x = jnp.linspace(0, 1, 5)
        >>> figure_, (axes,) = figure(1)
        >>> predictive_bands(axes, x, x**2, {"± 1 deviation": 0.1 * x, "± 2": 0.2 * x})
        >>> len(axes.lines), len(axes.collections)
        (1, 2)
    """
    x, mean = np.asarray(x, float), np.asarray(mean, float)
    _check(x, "mean", mean)
    order = np.lexsort((mean, x))
    ends = {label: _ends(x, mean, label, band) for label, band in bands.items()}
    widest_first = sorted(ends, key=lambda label: -_width(*ends[label]))
    for label, strength in zip(widest_first, np.linspace(0.2, 0.55, len(ends))):
        lower, upper = (end[order] for end in ends[label])
        # Opaque, so that the legend shows the colour that is seen where bands overlap.
        colour = tuple(1 - strength * (1 - _BLUE))
        # An area over one input has no width of its own.
        width = 8 if len(x) == 1 else 0
        axes.fill_between(x[order], lower, upper, label=label, color=colour, linewidth=width)
    axes.plot(x[order], mean[order], style(x), color=tuple(_BLUE), label="mean")
    if data is not None:
        axes.plot(*data, ".", color="black", markersize=4, label="data", zorder=3)
    axes.set(xlabel="input", ylabel="prediction", title="Prediction and uncertainty")
    legend_on_top(axes)


def _ends(x, mean, label, band):
    if isinstance(band, tuple | list) and len(band) == 2:
        lower, upper = (np.asarray(end, float) for end in band)
    else:
        deviation = np.asarray(band, float)
        _check(x, f"bands[{label!r}]", deviation)
        with np.errstate(invalid="ignore"):  # infinity less infinity is a gap
            lower, upper = mean - deviation, mean + deviation
    _check(x, f"bands[{label!r}]", lower, upper)
    if (lower > upper).any():
        raise ValueError(
            f"bands[{label!r}]: expected deviations of at least 0, or ends with lower <= upper, "
            f"got the opposite for {np.count_nonzero(lower > upper)} of {len(x)} points; take "
            "jnp.exp of a predicted logarithm, jnp.sqrt of a variance"
        )
    return lower, upper


def _width(lower, upper):
    """Mean width where both ends are numbers; 0 where they never are."""
    known = np.isfinite(lower) & np.isfinite(upper)
    return (upper[known] - lower[known]).sum() / max(np.count_nonzero(known), 1)


def _check(x, name, *arrays):
    if x.ndim != 1 or not x.size or any(array.shape != x.shape for array in arrays):
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(
            f"x and {name}: expected the same shape (N,), got {x.shape} and {shapes}; "
            "flatten with .ravel(), pick one output where there are several, give one point or more"
        )
