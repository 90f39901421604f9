"""Shardings of a mask and its words on Explicit meshes, where JAX never reshards silently.

On Auto meshes, and without a mesh, every function here gives None and XLA propagates x's sharding.
"""

import math
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

if TYPE_CHECKING:
    from jaxdrop.masks._layout import Layout


def mask_sharding(x: jax.Array, shape: tuple[int, ...]) -> NamedSharding | None:
    """Sharding of a mask of ``shape`` that broadcasts to ``x``, or None where XLA decides."""
    sharding = explicit_sharding(x)
    if sharding is None:
        return None
    names = _names(sharding.spec, x.ndim)[x.ndim - len(shape) :]
    aligned = x.shape[x.ndim - len(shape) :]
    kept = [n if size == whole else None for n, size, whole in zip(names, shape, aligned)]
    return NamedSharding(sharding.mesh, PartitionSpec(*kept))


def words_sharding(layout: "Layout", sharding: NamedSharding | None) -> NamedSharding | None:
    """Sharding of the packed words under a mask sharded like ``sharding``."""
    if sharding is None:
        return None
    names = _names(sharding.spec, len(layout.shape))
    packed = _packed_names(layout, sharding)
    spec = (*names[: layout.start], packed, *names[layout.stop :])
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def whole_run(sharding: NamedSharding | None, layout: "Layout") -> NamedSharding | None:
    """Sharding of a mask with the packed run on every device where it would be cut in a word."""
    if sharding is None:
        return None
    names = _names(sharding.spec, len(layout.shape))
    run = [_packed_names(layout, sharding)] + [None] * (layout.stop - layout.start - 1)
    spec = PartitionSpec(*names[: layout.start], *run, *names[layout.stop :])
    return NamedSharding(sharding.mesh, spec)


def whole_runs(values: jax.Array, layout: "Layout") -> jax.Array:
    """Values of mask rank, where they are cut within a word with the packed run on every device."""
    sharding = explicit_sharding(values)
    if sharding is None:
        return values
    return jax.sharding.reshard(values, whole_run(sharding, layout))


def unpacked_shardings(
    layout: "Layout", sharding: NamedSharding | None
) -> tuple[NamedSharding | None, NamedSharding | None]:
    """Shardings ``(words with a lane axis, mask)`` that follow from that of the words."""
    if sharding is None:
        return None, None
    names = _names(sharding.spec, len(layout.words_shape))
    before, packed, after = names[: layout.start], names[layout.start], names[layout.start + 1 :]
    run = [packed] + [None] * (layout.stop - layout.start - 1)
    if layout.stop == layout.start:  # a mask of rank 0 has one word and no axis
        run = []
    return (
        NamedSharding(sharding.mesh, PartitionSpec(*before, packed, None, *after)),
        NamedSharding(sharding.mesh, PartitionSpec(*before, *run, *after)),
    )


def explicit_sharding(x: jax.Array) -> NamedSharding | None:
    """Sharding of an array on an Explicit mesh, else None."""
    sharding = jax.typeof(x).sharding
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None


def packed_axis_is_split(sharding: NamedSharding, layout: "Layout") -> bool:
    """Whether words of this sharding lie on several devices along the axis of words."""
    return _names(sharding.spec, layout.start + 1)[layout.start] is not None


def _packed_names(layout: "Layout", sharding: NamedSharding) -> Any:
    """Mesh axes over which the packed run can stay split: those that cut it into whole words."""
    if layout.stop - layout.start != 1 or layout.size % layout.word:
        return None
    names = _names(sharding.spec, len(layout.shape))[layout.start]
    words = layout.words_shape[layout.start]
    return None if words % _devices(sharding.mesh, names) else names


def devices_along(sharding: NamedSharding, axis: int) -> int:
    """Number of devices that an axis is split over."""
    return _devices(sharding.mesh, _names(sharding.spec, axis + 1)[axis])


def _names(spec: PartitionSpec, rank: int) -> tuple[Any, ...]:
    """For each axis of an array the mesh axis that splits it, a tuple of them, or None."""
    return (*spec, *(None,) * (rank - len(spec)))


def _devices(mesh: Any, names: Any) -> int:
    names = names if isinstance(names, tuple) else (names,)
    return math.prod(mesh.shape[name] for name in names if name is not None)
