"""A prediction with its uncertainty along a line of inputs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from jaxdrop.plots._figures import legend_on_top, line_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE = np.array([0, 114, 178]) / 255


def predictive_bands(
    axes: "Axes",
    x: ArrayLike,
    mean: ArrayLike,
    bands: Mapping[str, ArrayLike | tuple[ArrayLike, ArrayLike] | list[ArrayLike]],
    *,
    data: tuple[ArrayLike, ArrayLike] | None = None,
) -> None:
    """Draws a predicted mean and bands of uncertainty around it.

    Wider bands lie below narrower ones and are paler. The points need not be sorted; those at the
    same input are drawn by rising mean. A NaN leaves a gap.

    Args:
        axes: matplotlib axes to draw on.
        x: inputs, shape ``(N,)``.
        mean: predictions, shape ``(N,)``.
        bands: bands by label: a deviation of shape ``(N,)``, at least 0, drawn to both sides of
            the mean, or a pair of lower and upper ends. From the variances of a prediction, for
            example ``{"epistemic": jnp.sqrt(out.epistemic), "total": jnp.sqrt(out.total)}``.
        data: pair of inputs and targets to draw as points, of any equal length; optional.

    Returns:
        None.

    Raises:
        ValueError: ``x`` is not of shape ``(N,)`` with N at least 1, another array has another
            shape, a deviation is negative, or a lower end lies above the upper one.

    Example:
        >>> x = jnp.linspace(0, 1, 5)
        >>> figure_, (axes,) = figure(1)
        >>> predictive_bands(axes, x, x**2, {"± 1 deviation": 0.1 * x, "± 2": 0.2 * x})
        >>> len(axes.lines), len(axes.collections)
        (1, 2)
    """
    inputs, centre = np.asarray(x, float), np.asarray(mean, float)
    _check(inputs, "mean", centre)
    order = np.lexsort((centre, inputs))
    ends = {label: _ends(inputs, centre, label, band) for label, band in bands.items()}
    widest_first = sorted(ends, key=lambda label: -_width(*ends[label]))
    for label, strength in zip(widest_first, np.linspace(0.2, 0.55, len(ends))):
        lower, upper = (end[order] for end in ends[label])
        # Opaque, so that the legend shows the colours that overlapping bands have.
        colour = tuple(1 - strength * (1 - _BLUE))
        # The area over a single input has no width, so its outline must be seen.
        width = 8 if inputs.size == 1 else 0
        axes.fill_between(inputs[order], lower, upper, label=label, color=colour, linewidth=width)
    style = line_style(inputs)
    axes.plot(inputs[order], centre[order], style, color=tuple(_BLUE), label="mean")
    if data is not None:
        axes.plot(*data, ".", color="black", markersize=4, label="data", zorder=3)
    axes.set(xlabel="input", ylabel="prediction", title="Prediction and uncertainty")
    legend_on_top(axes)


def _ends(
    x: np.ndarray, mean: np.ndarray, label: str, band: object
) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(band, tuple | list) and len(band) == 2:
        lower, upper = (np.asarray(end, float) for end in band)
    else:
        deviation = np.asarray(band, float)
        _check(x, f"bands[{label!r}]", deviation)
        with np.errstate(invalid="ignore"):  # infinity minus infinity is a gap
            lower, upper = mean - deviation, mean + deviation
    _check(x, f"bands[{label!r}]", lower, upper)
    if (lower > upper).any():
        raise ValueError(
            f"bands[{label!r}]: expected deviations of at least 0, or ends with lower <= upper, "
            f"got the opposite for {np.count_nonzero(lower > upper)} of {len(x)} points; take "
            "jnp.exp of a predicted logarithm, jnp.sqrt of a variance"
        )
    return lower, upper


def _width(lower: np.ndarray, upper: np.ndarray) -> float:
    """Mean width over the points with two finite ends, or 0 without such a point."""
    finite = np.isfinite(lower) & np.isfinite(upper)
    return (upper[finite] - lower[finite]).sum() / max(np.count_nonzero(finite), 1)


def _check(x: np.ndarray, name: str, *arrays: np.ndarray) -> None:
    if x.ndim != 1 or not x.size or any(array.shape != x.shape for array in arrays):
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(
            f"x and {name}: expected the same shape (N,), got {x.shape} and {shapes}; "
            "flatten with .ravel(), pick one output if there are several, give one point or more"
        )
