"""How far predictions can be trusted, on three axes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop import uncertainty
from jaxdrop.plots._figures import figure, legend_on_top, reliability_diagram, risk_coverage
from jaxdrop.plots._uncertainty_histogram import uncertainty_histogram
from jaxdrop.uncertainty import _internal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_AXES = 3


def overview(
    predictions: Any, labels: ArrayLike, *, axes: "Sequence[Axes] | None" = None
) -> "tuple[Figure, list[Axes]]":
    """Draws how honest predictions are, what refusing the uncertain ones gains, and which they are.

    Of a classification: the reliability, the accuracy of the predictions that are kept if the least
    certain are refused, and the predictive entropy where the first prediction is right and wrong.
    Of a regression: how often targets lie below each predicted quantile, the error of those that
    are kept, and the predicted deviations where the error is below and above its median. The
    numbers that belong to it are in `jaxdrop.uncertainty.report`.

    Args:
        predictions: as for `jaxdrop.uncertainty.report`: probabilities, a result of
            `jaxdrop.mc.predict`, a pair of means and variances, or a dict of several by name.
        labels: class numbers, integers of shape ``(B...)``; or targets of the shape of the means.
        axes: three matplotlib axes to draw on; None makes a figure.

    Returns:
        ``(matplotlib.figure.Figure, list of the three axes)``.

    Raises:
        TypeError: as `jaxdrop.uncertainty.report`.
        ValueError: as `jaxdrop.uncertainty.report`; there are not three axes.

    Example:
        >>> probabilities = jnp.array([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]])
        >>> figure_, axes = overview(probabilities, jnp.array([0, 1, 1]))
        >>> [each.get_title() for each in axes]
        ['Reliability', 'Refusing the most uncertain', 'Uncertainty']
    """
    drawn = figure(_AXES)[1] if axes is None else list(axes)
    if len(drawn) != _AXES:
        raise ValueError(
            f"axes: expected {_AXES} axes, got {len(drawn)}; write for example "
            f"plots.figure({_AXES})[1]"
        )
    named = _internal.named_predictions(predictions, _internal.as_array(labels, "labels"))
    kinds = {isinstance(each, _internal.Classes) for each in named.values()}
    if len(kinds) > 1:
        raise TypeError(
            "predictions: expected all of one kind, got classes and numbers; draw two overviews"
        )
    (_of_classes if kinds.pop() else _of_numbers)(drawn, named)
    root: Any = drawn[0].get_figure(root=True)
    return root, drawn


def _of_classes(axes: "Sequence[Axes]", named: Mapping[str, Any]) -> None:
    reliability, curves, groups = {}, {}, {}
    for name, each in named.items():
        wrong = np.asarray(each.probabilities.argmax(-1) != each.labels)
        entropy = uncertainty.entropy(each.probabilities)
        reliability[name] = uncertainty.reliability_curve(
            each.probabilities, each.labels, num_bins=10
        )
        curves[name] = uncertainty.risk_coverage(entropy.ravel(), wrong.ravel())
        groups = groups or {"right": entropy[~wrong], "wrong": entropy[wrong]}
    reliability_diagram(axes[0], reliability)
    risk_coverage(axes[1], curves)
    _histogram(axes[2], next(iter(named)), groups, "predictive entropy, nats")


def _of_numbers(axes: "Sequence[Axes]", named: Mapping[str, Any]) -> None:
    left, middle, right = axes
    left.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    groups = {}
    for name, (mean, variance, targets, _) in named.items():
        curve = uncertainty.quantile_curve(mean, variance, targets)
        left.plot(curve.level, curve.frequency, "o-", label=name)
        error = abs(mean - targets).ravel()
        kept = uncertainty.risk_coverage(variance.ravel(), jnp.square(error))
        middle.plot(kept.coverage, np.sqrt(kept.risk), label=name)
        large = np.asarray(error > np.median(error))
        deviation = np.sqrt(variance).ravel()
        groups = groups or {"small error": deviation[~large], "large error": deviation[large]}
    left.set(xlabel="level of the quantile", ylabel="share of targets below", title="Calibration")
    left.set(xlim=(0, 1), ylim=(0, 1))
    middle.set(xlabel="share of predictions kept", ylabel="root mean squared error of those kept")
    middle.set(title="Refusing the most uncertain", ylim=(0, None))
    legend_on_top(left)
    legend_on_top(middle)
    _histogram(right, next(iter(named)), groups, "predicted deviation")


def _histogram(axes: "Axes", name: str, groups: Mapping[str, Any], label: str) -> None:
    """A histogram of the groups that have an example, of the prediction of that name."""
    uncertainty_histogram(axes, {name: x for name, x in groups.items() if x.size}, num_bins=20)
    axes.set(xlabel=label, title=f"Uncertainty, {name}" if name else "Uncertainty")
