"""The low-rank path of LoRA, with dropout in it."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.functional._dropout import dropout
from jaxdrop.functional._masked import Flag, Key, Rule, apply_masked
from jaxdrop.masks import Mask
from jaxdrop.masks import _internal as masks

Dropped = Literal["input", "rank", "module"]


def check_dropped(drop: Any) -> Dropped:
    """The part of a low-rank path that drops, refused if it is not one of them."""
    parts = get_args(Dropped)
    if drop not in parts:
        raise ValueError(
            f"drop: expected one of {', '.join(map(repr, parts))}, got {drop!r}; write 'input' "
            "for the dropout of the LoRA paper"
        )
    return drop


def low_rank(
    key: Key,
    x: jax.Array,
    a: jax.Array,
    b: jax.Array,
    rate: ArrayLike,
    *,
    deterministic: Flag,
    drop: Dropped,
) -> jax.Array:
    """``x @ a @ b`` with dropout of elements of x, of ranks, or of all of it.

    Axis 0 of ``x`` counts examples if it is not the last one. Ranks and the whole are decided once
    for each example. The backward pass of x and a keeps x and the words of the mask, not what is
    left of x.
    """
    if drop == "input":
        product = apply_masked(key, (x, a), rate, x.shape, deterministic=deterministic, rule=_INPUT)
        return product @ b
    between = range(min(1, x.ndim - 1), x.ndim - 1)
    if drop == "rank":
        ranks = dropout(key, x @ a, rate, deterministic=deterministic, broadcast_dims=between)
        return ranks @ b
    shared = (*between, x.ndim - 1)
    return dropout(key, x @ a @ b, rate, deterministic=deterministic, broadcast_dims=shared)


def _multiply(mask: Mask, pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    x, a = pair
    return masks.scale_kept(mask, x) @ a


_INPUT = Rule(
    apply=masks.remember_words_only(_multiply),
    kept=lambda pair: pair[0] @ pair[1],
    dropped=lambda pair: jnp.zeros_like(pair[0]) @ pair[1],
)
