"""Masks of the hidden-to-hidden weights of a cell: the same at every step."""

from typing import Any, NamedTuple

import jax

from jaxdrop.functional._cells import Effects, apply_words, draw_words
from jaxdrop.functional._drop_connect import names_of
from jaxdrop.masks import _internal as masks


class WeightMasks(NamedTuple):
    """Packed bits of the masks of the chosen kernels, in the order of the parameters.

    Attributes:
        kernels: a tuple of words, each with a leading axis of size 1, since every leaf of a
            carry begins with the axis of the examples, which share these.
    """

    kernels: tuple[Any, ...]


NO_MASKS = WeightMasks(())


def draw(key, rate, deterministic, params, cell) -> WeightMasks:
    """Masks of a sequence: those of `drop_connect` with this key for the chosen kernels.

    Args:
        key: PRNG key, consumed.
        rate: probability of dropping.
        deterministic: if true, nothing is dropped; may be traced.
        params: parameters of the cell, or their shapes.
        cell: for the error if nothing is chosen.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    masks.check_key(key)
    keys = jax.random.split(masks.typed(key), len(leaves))
    chosen = [number for number, (path, _) in enumerate(leaves) if is_hidden_kernel(path)]
    if not chosen:
        raise ValueError(
            "cell: expected hidden-to-hidden kernels, in layers named h... or recurrent..., got "
            f"the parameters {[names_of(path) for path, _ in leaves]} of {type(cell).__name__}; "
            "rename the layers, or use DropConnect"
        )
    words: list[Any] = [
        draw_words(keys[n], rate, deterministic, leaves[n][1].shape) for n in chosen
    ]
    return WeightMasks(tuple(one[None] for one in words))


def effects(masks: WeightMasks, rate, deterministic) -> Effects:
    """What the masks do inside a step."""

    def kernels(params):
        leaves, structure = jax.tree_util.tree_flatten_with_path(params)
        left = iter(masks.kernels)
        values = []
        for path, leaf in leaves:
            if is_hidden_kernel(path):
                words = next(left, None)  # None where a known rate of 1 needs no mask
                words = None if words is None else words[0]
                leaf = apply_words(words, rate, deterministic, leaf, "kernel")
            values.append(leaf)
        return structure.unflatten(values)

    return Effects(kernels=kernels)


def is_hidden_kernel(path):
    """Whether the path of a parameter is that of a hidden-to-hidden kernel."""
    names = [str(name) for name in names_of(path)]
    hidden = any(n.startswith("h") or n == "dense_h" or "recurrent" in n for n in names)
    return hidden and any("kernel" in name for name in names)
