"""Which passes there are: how many, by which keys, and how many of them run side by side."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _summary

LEAST_BLOCKS = 4  # for a standard error
# Of a block if passes are added until they suffice: the fewer if the least likely choice of every
# decision, to drop or to keep, has at least this probability. In 8 passes it then seldom falls out.
_BITS, _FEW_BITS, _OFTEN = 4, 3, 0.09


class Counts(NamedTuple):
    """How many passes there are.

    Attributes:
        num_samples: all of them, or the most that there may be.
        chunk_size: those side by side, or None if the budget decides.
        memory_budget: bytes that passes side by side may take, or None.
        block_bits: balanced passes come in blocks of 2**block_bits; 0 for independent ones.
        least: passes that are taken in any case, before a tolerance is asked.
    """

    num_samples: int
    chunk_size: int | None
    memory_budget: int | None
    block_bits: int
    least: int

    @property
    def block_size(self) -> int:
        """Number of passes in a block."""
        return 2**self.block_bits

    def suited(self, rates: Sequence[float | None]) -> "Counts":
        """Those with a tolerance, in smaller blocks if the rates of all decisions allow it."""
        if not rates or any(r is None or min(r, 1 - r) < _OFTEN for r in rates):
            return self
        return self._replace(block_bits=_FEW_BITS, least=LEAST_BLOCKS * 2**_FEW_BITS)


def counted(
    num_samples: Any,
    chunk_size: Any,
    memory_budget: Any,
    balanced: Any,
    tolerance: Any,
    max_samples: Any,
) -> Counts:
    """The checked numbers of passes."""
    if not isinstance(balanced, bool):
        raise TypeError(
            f"balanced: expected True, False or None, got {balanced!r}; the size of a block "
            "follows from the number of passes"
        )
    num_samples = masks.check_count(num_samples, "num_samples", 100)
    least, bits = num_samples, 0
    if tolerance is not None:
        block = 2**_BITS
        least = LEAST_BLOCKS * block
        num_samples = masks.check_count(max_samples, "max_samples", 4096) // block * block
        if num_samples < least:
            raise ValueError(
                f"max_samples: expected at least {least}, {LEAST_BLOCKS} blocks of {block} "
                f"passes, got {max_samples}; write num_samples={max_samples} without a tolerance"
            )
        bits = _BITS
    elif balanced:
        bits = min(max((num_samples // LEAST_BLOCKS).bit_length() - 1, 0), masks.MOST_BITS)
    counts = Counts(num_samples, None, None, bits if balanced else 0, least)
    if isinstance(chunk_size, str) and chunk_size == "auto":
        default = 2**25 if jax.default_backend() == "cpu" else 2**30
        budget = default if memory_budget is None else memory_budget
        return counts._replace(memory_budget=masks.check_count(budget, "memory_budget", 2**30))
    example = "10, or chunk_size='auto', or chunk_size=num_samples for all at once"
    chunk_size = min(masks.check_count(chunk_size, "chunk_size", example), num_samples)
    return counts._replace(chunk_size=chunk_size)


class Passes(NamedTuple):
    """The passes of a call.

    Attributes:
        call: a pass, a function of its key.
        key: of all passes.
        chunk_size: number of passes side by side. Of balanced passes a power of two below the
            size of a block, or a multiple of it.
        block_bits: as in `Counts`.
        axis: over whose devices passes are divided, or None.
    """

    call: Callable[[jax.Array], Any]
    key: jax.Array
    chunk_size: int
    block_bits: int
    axis: "SampleAxis | None"

    def shapes(self) -> Any:
        """Shapes and dtypes of the output of one pass."""
        outputs = jax.eval_shape(lambda: self.run(jnp.int32(0), 1))
        return jax.tree.map(_without_first_axis, outputs)

    def run(self, start: jax.Array, size: int) -> Any:
        """The outputs of the passes ``start, ..., start + size - 1``, at most a chunk.

        Balanced ones are a part of a block or whole blocks.
        """
        start = start.astype(jnp.uint32)
        if self.axis is not None:
            return self._divided(start, size, self.axis)
        numbers = start + jnp.arange(size, dtype=jnp.uint32)
        if not self.block_bits:
            return mapped(self._pass, self.key)(numbers)
        whole = 2**self.block_bits
        if size <= whole:
            return self._of_block(numbers)
        outputs = jax.vmap(self._of_block)(numbers.reshape(-1, whole))
        return jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), outputs)

    def _of_block(self, numbers: jax.Array) -> Any:
        """Passes of one block, of which all that they share is computed once."""
        one = lambda number: self._balanced(numbers[0], number, together=True)  # noqa: E731
        return jax.vmap(one, axis_name=masks.AXIS)(numbers)

    def _pass(self, number: jax.Array) -> Any:
        if not self.block_bits:
            return self.call(jax.random.fold_in(self.key, number))
        return self._balanced(number, number, together=False)

    def _balanced(self, first: jax.Array, number: jax.Array, together: bool) -> Any:
        """A pass of the block that the pass ``first`` is in."""
        words = masks.cipher_key(jax.random.fold_in(self.key, first >> np.uint32(self.block_bits)))
        place = number & np.uint32(2**self.block_bits - 1)
        return self.call(masks.pass_key(words, place, masks.Kind(self.block_bits, together)))

    def _divided(self, start: jax.Array, size: int, axis: "SampleAxis") -> Any:
        """Passes that are divided among the devices of an axis."""
        padded = -(-size // axis.devices) * axis.devices
        numbers = start + jnp.arange(padded, dtype=jnp.uint32)
        names = axis.names if axis.names[1:] else axis.names[0]
        samples = jax.vmap(self._pass, spmd_axis_name=names)(_spread(numbers, axis))
        if size == padded:
            return samples
        return jax.tree.map(lambda leaf: _summary.gather(leaf)[:size], samples)


def laid_out(
    call: Callable[[jax.Array], Any],
    key: jax.Array,
    counts: Counts,
    bytes_a_pass: int,
    axis: "SampleAxis | None",
) -> Passes:
    """The passes of a call, with a number of them side by side that fits devices and blocks."""
    devices, chunk_size = 1 if axis is None else axis.devices, counts.chunk_size
    if chunk_size is None:
        budget = (counts.memory_budget or 0) * devices
        chunk_size = _chunk_size(budget, bytes_a_pass, counts.num_samples)
    whole = counts.block_size
    if whole > 1:
        small = 2 ** (chunk_size.bit_length() - 1)
        chunk_size = small if small < whole else chunk_size // whole * whole
        if devices > 1:  # a chunk that devices divide, and that divides a block or is whole ones
            chunk_size = math.lcm(chunk_size, devices)
            chunk_size = chunk_size if whole % chunk_size == 0 else math.lcm(chunk_size, whole)
    chunk_size = -(-chunk_size // devices) * devices
    return Passes(call, key, chunk_size, counts.block_bits, axis)


def key_alike(key: jax.Array, counts: Counts, divided: bool) -> jax.Array:
    """A key like those of the passes, by which a function is traced.

    Args:
        key: of all passes.
        counts: of the passes.
        divided: whether they are divided among devices.
    """
    if not counts.block_bits:
        return key
    kind = masks.Kind(counts.block_bits, together=not divided)
    return masks.pass_key((np.uint32(0), np.uint32(0)), 0, kind)  # its numbers do not matter


def _without_first_axis(x: Any) -> Any:
    sharding = x.sharding
    if sharding is not None and AxisType.Explicit in sharding.mesh.axis_types:
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=sharding)


def _chunk_size(budget: int, bytes_a_pass: int, num_samples: int) -> int:
    """As many passes as the budget has room for, or a few less if they then divide the samples."""
    most = min(max(budget // max(bytes_a_pass, 1), 1), num_samples)
    return next((n for n in range(most, (most + 1) // 2, -1) if num_samples % n == 0), most)


def mapped(fn: Callable[[Any], Any], key: jax.Array) -> Callable[[Any], Any]:
    """``fn`` over the first axis of its argument; it folds numbers into ``key``."""
    # Under vmap the other implementations draw for the whole batch from its first key, so samples
    # would depend on the chunk that they are in.
    if masks.kind_of(key) is not None or jax.random.key_impl(key) == "threefry2x32":
        return jax.vmap(fn)
    return functools.partial(jax.lax.map, fn)


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


def find_axis(sample_axis: Any, key: jax.Array, arrays: Any) -> SampleAxis | None:
    """The named axis of the mesh that is set, else of the mesh that an array lies on; or None."""
    if sample_axis is None:
        return None
    names = (sample_axis,) if isinstance(sample_axis, str) else sample_axis
    if not isinstance(names, tuple) or not names or not all(isinstance(n, str) for n in names):
        raise TypeError(
            f"sample_axis: expected the name of a mesh axis or a tuple of names, got "
            f"{sample_axis!r}; write for example sample_axis='data'"
        )
    mesh = _mesh(arrays)
    known = () if mesh is None else mesh.axis_names
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise ValueError(
            f"sample_axis: expected different axes of the mesh, which has {list(known)}, got "
            f"{sample_axis!r}; set a mesh that has them with jax.set_mesh"
        )
    if jax.random.key_impl(masks.typed(key)) != "threefry2x32":
        raise ValueError(
            f"sample_axis: expected a threefry2x32 key, got {jax.random.key_impl(key)!r}, whose "
            "samples run one after the other; write jax.random.key(seed, impl='threefry2x32')"
        )
    return SampleAxis(mesh, names)


def _spread(numbers: jax.Array, axis: SampleAxis) -> jax.Array:
    """Numbers of samples, divided among the devices."""
    sharding = NamedSharding(axis.mesh, PartitionSpec(axis.names))
    kinds = dict(zip(axis.mesh.axis_names, axis.mesh.axis_types))
    if AxisType.Explicit in {kinds[name] for name in axis.names}:
        return jax.sharding.reshard(numbers, sharding)
    return jax.lax.with_sharding_constraint(numbers, sharding)


def _mesh(arrays: Any) -> Any:
    """The mesh of the context, else the one that an array lies on, else None."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        return mesh
    for array in jax.tree.leaves(arrays):
        sharding = array.sharding if isinstance(array, jax.Array) else None
        if isinstance(sharding, NamedSharding) and not sharding.mesh.empty:
            return sharding.mesh
    return None
