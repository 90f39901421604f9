"""Shardings of a mask and its words on Explicit meshes, where JAX never reshards silently.

On Auto meshes, and without a mesh, every function here gives None and XLA propagates x's sharding.
"""

import math

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def mask_sharding(x, shape):
    """Sharding of a mask of ``shape`` that broadcasts to ``x``, or None where XLA decides."""
    sharding = explicit_sharding(x)
    if sharding is None:
        return None
    entries = _entries(sharding.spec, x.ndim)[x.ndim - len(shape) :]
    aligned = x.shape[x.ndim - len(shape) :]
    kept = [e if size == whole else None for e, size, whole in zip(entries, shape, aligned)]
    return NamedSharding(sharding.mesh, PartitionSpec(*kept))


def words_sharding(layout, sharding):
    """Sharding of the packed words under a mask sharded like ``sharding``."""
    if sharding is None:
        return None
    entries = _entries(sharding.spec, len(layout.shape))
    packed = _packed_entry(layout, sharding)
    spec = (*entries[: layout.start], packed, *entries[layout.stop :])
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def whole_run(sharding, layout):
    """Sharding of a mask with the packed run on every device where it would be cut in a word."""
    if sharding is None:
        return None
    entries = _entries(sharding.spec, len(layout.shape))
    run = [_packed_entry(layout, sharding)] + [None] * (layout.stop - layout.start - 1)
    spec = PartitionSpec(*entries[: layout.start], *run, *entries[layout.stop :])
    return NamedSharding(sharding.mesh, spec)


def whole_runs(values, layout):
    """Values of mask rank, where they are cut within a word with the packed run on every device."""
    sharding = explicit_sharding(values)
    if sharding is None:
        return values
    return jax.sharding.reshard(values, whole_run(sharding, layout))


def unpacked_shardings(layout, sharding):
    """Shardings ``(words with a lane axis, mask)`` that follow from that of the words."""
    if sharding is None:
        return None, None
    entries = _entries(sharding.spec, len(layout.words_shape))
    before, packed, after = (
        entries[: layout.start],
        entries[layout.start],
        entries[layout.start + 1 :],
    )
    run = [packed] + [None] * (layout.stop - layout.start - 1)
    if layout.stop == layout.start:  # a mask of rank 0 has one word and no axis
        run = []
    return (
        NamedSharding(sharding.mesh, PartitionSpec(*before, packed, None, *after)),
        NamedSharding(sharding.mesh, PartitionSpec(*before, *run, *after)),
    )


def explicit_sharding(x):
    """Sharding of an array on an Explicit mesh, else None."""
    sharding = jax.typeof(x).sharding
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None


def packed_axis_is_split(sharding, layout):
    """Whether words of this sharding lie on several devices along the axis of words."""
    return _entries(sharding.spec, layout.start + 1)[layout.start] is not None


def _packed_entry(layout, sharding):
    """Mesh axes over which the packed run can stay split: those that cut it into whole words."""
    if layout.stop - layout.start != 1 or layout.size % layout.word:
        return None
    entry = _entries(sharding.spec, len(layout.shape))[layout.start]
    words = layout.words_shape[layout.start]
    return None if words % _devices(sharding.mesh, entry) else entry


def devices_along(sharding, axis):
    """Number of devices that an axis is split over."""
    return _devices(sharding.mesh, _entries(sharding.spec, axis + 1)[axis])


def _entries(spec, rank):
    return (*spec, *(None,) * (rank - len(spec)))


def _devices(mesh, entry):
    names = entry if isinstance(entry, tuple) else (entry,)
    return math.prod(mesh.shape[name] for name in names if name is not None)
