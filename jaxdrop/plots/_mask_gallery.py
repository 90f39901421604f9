"""Pictures of masks, side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from jaxdrop.masks import Mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DROPPED, _KEPT = "#0072B2", "#F0F0F0"


def mask_gallery(axes: "Sequence[Axes]", masks: Mapping[str, Mask | ArrayLike]) -> None:
    """Draws masks side by side, dropped elements in blue, each with the share that it drops.

    Args:
        axes: list of matplotlib axes, one per mask, as ``figure(len(masks))`` returns them.
        masks: by name a `jaxdrop.masks.Mask`, or booleans that are true for elements that are kept,
            for example ``jaxdrop.drop_block(key, ones, 0.2) != 0``. A mask has at most two axes
            that are longer than 1.

    Returns:
        None.

    Raises:
        TypeError: an array is not of booleans.
        ValueError: there are not as many axes as masks, or a mask is empty or has too many axes.

    Example:
        >>> keep = jnp.array([[True, False], [True, True]])
        >>> figure_, axes = figure(1, width=2, height=2)
        >>> mask_gallery(axes, {"elements": keep})
        >>> axes[0].get_title(), axes[0].get_xlabel()
        ('elements', '25.0 % dropped')
    """
    from matplotlib.colors import ListedColormap

    places: list[Axes] = list(np.ravel(np.asarray(axes)))
    if len(places) != len(masks):
        raise ValueError(
            f"axes: expected one for each of {len(masks)} masks, got {len(places)}; "
            "write _, axes = jaxdrop.plots.figure(len(masks))"
        )
    colours = ListedColormap([_DROPPED, _KEPT])
    for place, (name, mask) in zip(places, masks.items()):
        keep = _picture(name, mask)
        place.imshow(keep, cmap=colours, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        dropped = f"{100 * (1 - keep.mean()):.1f} % dropped"
        place.set(title=name, xlabel=dropped, xticks=[], yticks=[])
        place.xaxis.label.set_color(_DROPPED)


def _picture(name: str, mask: Mask | ArrayLike) -> np.ndarray:
    keep = np.asarray(mask.unpack() if isinstance(mask, Mask) else mask)
    if keep.dtype != bool:
        raise TypeError(
            f"masks[{name!r}]: expected a Mask or booleans, got dtype {keep.dtype}; "
            "write for example dropped != 0"
        )
    picture = np.atleast_2d(np.squeeze(keep))
    if picture.ndim > 2 or not picture.size:
        raise ValueError(
            f"masks[{name!r}]: expected elements on at most two axes longer than 1, got shape "
            f"{keep.shape}; pick an example and a channel, such as keep[0, :, :, 0]"
        )
    return picture
