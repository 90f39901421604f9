"""Samples spread over the devices of a mesh: which mesh, and the sharding of their numbers."""

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdrop.masks import _internal as masks


class SampleAxis(NamedTuple):
    """Mesh axes that the samples are spread over.

    Attributes:
        mesh: the mesh, concrete or abstract.
        names: names of its axes, one or more.
    """

    mesh: Any
    names: tuple[str, ...]

    @property
    def devices(self) -> int:
        """Among how many devices the samples are divided."""
        return math.prod(self.mesh.shape[name] for name in self.names)


def find(sample_axis, key, arrays):
    """The asked axis of the mesh that is set, else of the one the arrays lie on; or None."""
    if sample_axis is None:
        return None
    names = (sample_axis,) if isinstance(sample_axis, str) else sample_axis
    if not isinstance(names, tuple) or not names or not all(isinstance(n, str) for n in names):
        raise TypeError(
            f"sample_axis: expected the name of a mesh axis or a tuple of names, got "
            f"{sample_axis!r}; write for example sample_axis='data'"
        )
    mesh = _mesh(arrays)
    there = () if mesh is None else mesh.axis_names
    if not set(names) <= set(there) or len(set(names)) < len(names):
        raise ValueError(
            f"sample_axis: expected different axes of the mesh, which has {list(there)}, got "
            f"{sample_axis!r}; set a mesh that has them with jax.set_mesh"
        )
    if jax.random.key_impl(masks.typed(key)) != "threefry2x32":
        raise ValueError(
            f"sample_axis: expected a threefry2x32 key, got {jax.random.key_impl(key)!r}, whose "
            "samples run one after the other; write jax.random.key(seed, impl='threefry2x32')"
        )
    return SampleAxis(mesh, names)


def spread(numbers, axis):
    """Numbers of samples, divided among the devices."""
    sharding = NamedSharding(axis.mesh, PartitionSpec(axis.names))
    kinds = dict(zip(axis.mesh.axis_names, axis.mesh.axis_types))
    if AxisType.Explicit in {kinds[name] for name in axis.names}:
        return jax.sharding.reshard(numbers, sharding)
    return jax.lax.with_sharding_constraint(numbers, sharding)


def gather(samples):
    """Samples with their first axis whole on every device, where JAX does not see to it."""
    sharding = jax.typeof(samples).sharding
    if not sharding.spec or sharding.spec[0] is None:
        return samples
    spec = PartitionSpec(None, *sharding.spec[1:])
    return jax.sharding.reshard(samples, NamedSharding(sharding.mesh, spec))


def _mesh(arrays):
    """The mesh of the context, else the one that an array lies on, else None."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        return mesh
    for array in jax.tree.leaves(arrays):
        sharding = array.sharding if isinstance(array, jax.Array) else None
        if isinstance(sharding, NamedSharding) and not sharding.mesh.empty:
            return sharding.mesh
    return None
