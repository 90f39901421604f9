"""Keys inside ``jax.shard_map``, where every device would draw the same from the same key."""

from collections.abc import Sequence
from typing import Any

import jax

from jaxdrop.masks import _internal as masks


def fold_in_axes(key: jax.Array, axis_names: str | Sequence[str]) -> jax.Array:
    """A key that differs over the named axes of a mesh and agrees over all others.

    Inside ``jax.shard_map`` a function runs once for each device. A key that all of them hold gives
    all of them the same mask: name the axes over which masks have to differ, such as the one that
    splits the batch, and leave out those over which they have to agree, such as the one that splits
    the weights of a layer whose input is on every device. Under ``jax.jit`` over a mesh leave the
    key alone: there a program has one mask, of which each device draws its part.

    The result depends on which axes are named, not on their order, and differs from all keys that
    ``jax.random.fold_in(key, step)`` gives.

    Args:
        key: PRNG key, typed or legacy; not consumed, but not to be used otherwise.
        axis_names: name of an axis, or several: of the mesh, as far as the ``shard_map`` around is
            over them, or the ``axis_name`` of a ``jax.vmap`` or ``jax.pmap`` around.

    Returns:
        A key like ``key``, another one on each device along the named axes.

    Raises:
        TypeError: ``key`` is not a PRNG key, or ``axis_names`` is not a string or a sequence of
            strings.
        ValueError: no axis is named, one twice, or one that does not exist here; the message lists
            those that do.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))
        >>> P = jax.sharding.PartitionSpec
        >>> def layer(key, x):
        ...     return dropout(fold_in_axes(key, "data"), x, 0.5)
        >>> layer = jax.shard_map(layer, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
        >>> layer(jax.random.key(0), jnp.ones((8, 4))).shape
        (8, 4)
    """
    masks.check_key(key)
    names = _check_names(axis_names)
    key = masks.fold_in_names(key, ("axes of a mesh", *names))
    for name in names:
        key = jax.random.fold_in(key, _index(name))
    return key


def _check_names(axis_names: Any) -> list[str]:
    names = (axis_names,) if isinstance(axis_names, str) else axis_names
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"axis_names: expected the name of an axis, or several, got {axis_names!r}; "
            "write for example 'data', or ('data', 'sequence')"
        )
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"axis_names: expected axes, each of them once, got {axis_names!r}; name those over "
            "which masks have to differ (if over none, leave the key as it is)"
        )
    return sorted(names)


def _index(name: str) -> jax.Array:
    try:
        return jax.lax.axis_index(name)
    except NameError:
        known = jax.sharding.get_abstract_mesh().manual_axes
        there = (
            f"inside shard_map over {', '.join(map(repr, known))}"
            if known
            else ("outside shard_map; under jit over a mesh leave the key as it is, masks follow x")
        )
        raise ValueError(
            f"axis_names: expected axes that this function is mapped over, got {name!r} {there}"
        ) from None
