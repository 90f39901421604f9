"""Pytrees taken apart into their arrays, which are traced, and the rest, which is not."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# The structure of a pytree, and its leaves with None for each array.
Static = tuple[jax.tree_util.PyTreeDef, tuple[Any, ...]]

PICK = "output=lambda out: out['logits']"  # what messages suggest for a leaf that does not suit


def split(tree: Any) -> tuple[list[Any], Static]:
    """A pytree as its arrays, with None for each other leaf, and the rest, which is hashable."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = [leaf if is_array(leaf) else None for leaf in leaves]
    rest = tuple(None if is_array(leaf) else leaf for leaf in leaves)
    return arrays, (structure, rest)


def join(arrays: list[Any], static: Static) -> Any:
    """The pytree that `split` took apart."""
    structure, rest = static
    leaves = [other if array is None else array for array, other in zip(arrays, rest)]
    return jax.tree.unflatten(structure, leaves)


def is_array(leaf: Any) -> bool:
    """Whether a leaf is traced, rather than passed as it is."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def as_array(leaf: Any) -> Any:
    """An array of another library as a NumPy array; any other leaf as it is."""
    if is_array(leaf) and hasattr(leaf, "__array__"):
        return leaf if isinstance(leaf, jax.Array | np.ndarray | np.generic) else np.asarray(leaf)
    return leaf


def holds_tracer(tree: Any) -> bool:
    """Whether a leaf belongs to a trace that is under way."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def at(path: Any) -> str:
    """Where in a pytree a leaf sits, for a message."""
    return f" at {jax.tree_util.keystr(path)}" if path else ""


def by_example(call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """``call(*args, **kwargs)`` for each example as a batch of one.

    What is drawn does not depend on the example, so it is drawn once, for all of them.
    """
    arrays, static = split((args, kwargs))
    sizes = {x.shape[0] for x in jax.tree.leaves(arrays) if x.ndim}
    if len(sizes) != 1:
        raise ValueError(
            "shared_masks: expected arrays whose first axis counts the same examples, got shapes "
            f"{[x.shape for x in jax.tree.leaves(arrays)]}; bind what has no examples in a lambda"
        )

    def one(rows: list[Any]) -> Any:
        rows = jax.tree.map(lambda x, y: x[None] if y.ndim else x, rows, arrays)
        args, kwargs = join(rows, static)
        return jax.tree.map(lambda x: jnp.squeeze(x, 0), call(*args, **kwargs))

    axes = jax.tree.map(lambda x: 0 if x.ndim else None, arrays)
    return jax.vmap(one, in_axes=(axes,))(arrays)
