"""How the uncertainties of several groups of examples are distributed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from jaxdrop.plots._figures import legend_on_top
from jaxdrop.uncertainty import _internal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def uncertainty_histogram(
    axes: "Axes", values: Mapping[str, ArrayLike], *, num_bins: int = 30
) -> None:
    """Draws which share of each group has which uncertainty, in the same bins for all groups.

    Every group adds up to 1, so groups of different sizes can be compared: examples in and out of
    the distribution of the training data, or examples that are classified right and wrong.

    Args:
        axes: matplotlib axes to draw on.
        values: uncertainties by label, arrays of any shape with at least one element.
        num_bins: number of bins, a Python integer of at least 1. They reach from the smallest value
            to the largest one, or 1/2 to both sides of values that are too close for so many bins.

    Returns:
        None.

    Raises:
        TypeError: ``num_bins`` is not a Python integer.
        ValueError: there is no group, a group is empty or has a number that is not finite, or
            ``num_bins`` is below 1.

    Example:
        >>> groups = {"in distribution": jnp.array([0.1, 0.2]), "out of it": jnp.array([0.9])}
        >>> figure_, (axes,) = figure(1)
        >>> uncertainty_histogram(axes, groups, num_bins=4)
        >>> [patch.get_data().values.tolist() for patch in axes.patches]
        [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    num_bins = _internal.check_count(num_bins, "num_bins", "bin", 30)
    groups = {label: np.asarray(group, float).ravel() for label, group in values.items()}
    _check(groups)
    edges = _edges(np.concatenate(list(groups.values())), num_bins)
    for number, (label, group) in enumerate(groups.items()):
        counts, _ = np.histogram(group, edges)
        colour = _COLOURS[number % len(_COLOURS)]
        steps = axes.stairs(counts / group.size, edges, fill=True, label=label, linewidth=1.5)
        steps.set(facecolor=(colour, 0.45), edgecolor=colour)
    axes.set(xlabel="uncertainty", ylabel="share of examples", title="Uncertainty by group")
    legend_on_top(axes)


def _edges(values: np.ndarray, num_bins: int) -> np.ndarray:
    low, high = values.min(), values.max()
    # Halves, because the difference of the largest numbers overflows.
    middle, half = low / 2 + high / 2, high / 2 - low / 2
    least = 4 * num_bins * np.spacing(max(abs(low), abs(high)))  # eight steps of the dtype per bin
    if half < least:
        low, high = middle - max(0.5, least), middle + max(0.5, least)
    share = np.arange(num_bins + 1) / num_bins
    return low * (1 - share) + high * share


def _check(groups: Mapping[str, np.ndarray]) -> None:
    if not groups:
        raise ValueError(
            "values: expected at least one group, got none; write {'test set': uncertainty}"
        )
    for label, group in groups.items():
        if not group.size or not np.isfinite(group).all():
            raise ValueError(
                f"values[{label!r}]: expected at least one number and only finite ones, got "
                f"{np.count_nonzero(np.isfinite(group))} finite ones of {group.size}; "
                "leave out empty groups, and look for the NaN in the predictions"
            )
