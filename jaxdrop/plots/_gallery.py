"""What the variants drop, seen."""

import numpy as np

_DROPPED, _KEPT = "#0072B2", "#F0F0F0"


def mask_gallery(axes, masks):
    """Draws masks side by side, dropped entries blue, each with the share it drops.

    Args:
        axes: list of matplotlib axes, one for each mask, as ``figure(len(masks))`` gives.
        masks: by name a `jaxdrop.masks.Mask`, or booleans that are true where an entry
            survives, for example ``jaxdrop.drop_block(key, ones, 0.2) != 0``. Of one axis or two,
            beside axes of length 1.

    Returns:
        None.

    Raises:
        TypeError: an array is not of booleans.
        ValueError: there are not as many axes as masks, or a mask has no entry or more than two
            axes.

    Example:
        >>> keep = jnp.array([[True, False], [True, True]])
        >>> figure_, axes = figure(1, width=2, height=2)
        >>> mask_gallery(axes, {"entries": keep})
        >>> axes[0].get_title(), axes[0].get_xlabel()
        ('entries', '25.0 % dropped')
    """
    from matplotlib.colors import ListedColormap

    axes = list(np.ravel(axes))
    if len(axes) != len(masks):
        raise ValueError(
            f"axes: expected one for each of {len(masks)} masks, got {len(axes)}; "
            "write _, axes = jaxdrop.plots.figure(len(masks))"
        )
    colours = ListedColormap([_DROPPED, _KEPT])
    for one, (name, mask) in zip(axes, masks.items()):
        keep = _picture(name, mask)
        one.imshow(keep, cmap=colours, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        one.set(title=name, xlabel=f"{100 * (1 - keep.mean()):.1f} % dropped", xticks=[], yticks=[])
        one.xaxis.label.set_color(_DROPPED)


def _picture(name, mask):
    keep = np.asarray(mask.unpack() if hasattr(mask, "unpack") else mask)
    if keep.dtype != bool:
        raise TypeError(
            f"masks[{name!r}]: expected a Mask or booleans, got dtype {keep.dtype}; "
            "write for example dropped != 0"
        )
    seen = np.atleast_2d(np.squeeze(keep))
    if seen.ndim > 2 or not seen.size:
        raise ValueError(
            f"masks[{name!r}]: expected entries on at most two axes longer than 1, got shape "
            f"{keep.shape}; pick an example and a channel, such as keep[0, :, :, 0]"
        )
    return seen
