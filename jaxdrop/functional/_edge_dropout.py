"""Dropout of the edges of a graph."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, apply_masked, mask_shape
from jaxdrop.masks import Mask
from jaxdrop.masks import _internal as masks


def edge_dropout(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    senders: ArrayLike | None = None,
    receivers: ArrayLike | None = None,
) -> jax.Array:
    """Zeros what whole edges of a graph carry, and rescales the rest; their number stays.

    ``x`` holds one row per edge: messages, or weights, such as ``jnp.ones(num_edges)``. An edge
    survives with probability ``1 - rate`` and is then divided by it, so the mean over keys is
    ``x``, and so is the mean of sums over neighbours. With weights ``w`` of ones, ``w > 0`` is the
    mask of the edges that are left, for degrees that do not count the others.

    Without ``senders`` and ``receivers`` each edge decides by itself. With both, edges between the
    same two nodes share one decision, in either direction, for undirected graphs. It depends on the
    key and the numbers of the two nodes alone: not on the order of the edges, nor on which others
    there are. That holds for repeated edges, for those from a node to itself, and for padding. To
    keep edges for certain give them a rate of 0, as in
    ``jnp.where(senders == receivers, 0.0, rate)``. Devices that hold a multiple of 32 edges each do
    not communicate.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: floating or complex array of shape ``(E, ...)``: E edges.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to ``(E, 1, ...)``, with the rank of ``x``. Edges that share a decision have
            the same fate if their rates are equal.
        deterministic: if true, returns ``x``; may be traced.
        senders: integers of shape ``(E,)``, the node that each edge comes from, or None.
        receivers: integers of shape ``(E,)``, the node that each edge goes to, or None.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating or complex array, ``senders`` or ``receivers`` are not
            integers, one of them is missing, ``key`` is not a PRNG key, or another argument is of
            the wrong type.
        ValueError: ``x`` is a scalar, ``senders`` or ``receivers`` do not have the shape ``(E,)``,
            ``rate`` lies outside [0, 1] or does not broadcast, or ``key`` is a batch of keys.

    Example:
        >>> senders, receivers = jnp.array([0, 1, 1, 2]), jnp.array([1, 0, 2, 1])
        >>> w = edge_dropout(
        ...     jax.random.key(0), jnp.ones(4), 0.5, senders=senders, receivers=receivers
        ... )
        >>> bool(w[0] == w[1]), bool(w[2] == w[3])
        (True, True)

    References:
        Rong et al., "DropEdge: towards deep graph convolutional networks on node classification",
        2020, section 4; rescaled in training, as dropout.
    """
    masks.refuse_keys(rate=rate, senders=senders, receivers=receivers)
    x = masks.check_array(x)
    if not x.ndim:
        raise ValueError(
            f"x: expected an array of shape (E, ...), one row per edge, got a scalar; write for "
            f"example jnp.ones(senders.shape){masks.order_hint(0)}"
        )
    shape = mask_shape(x, (0,))
    if senders is None and receivers is None:
        return apply_masked(key, x, rate, shape, deterministic=deterministic)
    ends = _check_ends(senders, "senders", x), _check_ends(receivers, "receivers", x)
    checked = masks.check_rate(rate, shape, deterministic=deterministic)
    if checked.settled:
        return jnp.zeros_like(x) if checked.known else x
    masks.check_key(key)
    return _dropped(key, x, checked, *ends)


@jax.jit
def _dropped(
    key: jax.Array, x: jax.Array, rate: masks.Rate, senders: jax.Array, receivers: jax.Array
) -> jax.Array:
    if getattr(rate.traced, "ndim", 0):
        rate = dataclasses.replace(rate, traced=rate.traced.reshape(-1))
    sharding = masks.mask_sharding(x, mask_shape(x, (0,)))
    if sharding is not None:
        ends = jax.NamedSharding(sharding.mesh, jax.P(*sharding.spec[:1]))
        senders, receivers = (jax.sharding.reshard(n, ends) for n in (senders, receivers))
    return _apply(masks.draw_pairs(key, rate, senders, receivers), x)


@masks.remember_words_only
def _apply(mask: Mask, x: jax.Array) -> jax.Array:
    keep_prob = mask.keep_prob
    column = (-1, *(1,) * (x.ndim - 1))
    keep = masks.unpack(mask.words, masks.layout_of(mask.shape)).reshape(column)
    sharding = masks.mask_sharding(x, keep.shape)
    keep = keep if sharding is None else jax.sharding.reshard(keep, sharding)
    keep_prob = keep_prob.reshape(column) if jnp.ndim(keep_prob) else keep_prob
    return masks.scale_kept_bools(keep, keep_prob, x)


def _check_ends(nodes: Any, name: str, x: jax.Array) -> jax.Array:
    """The nodes at one end of each edge, refused if they are not integers, one per edge."""
    if nodes is None:
        raise TypeError(
            f"{name}: expected integers, one per edge, because the other end is there, got None; "
            "give both senders and receivers, or neither for edges that decide by themselves"
        )
    nodes = masks.as_array(nodes, name)
    if not jnp.issubdtype(nodes.dtype, jnp.integer):
        raise TypeError(
            f"{name}: expected an integer array of numbers of nodes, got dtype {nodes.dtype}; "
            f"give graph.{name}"
        )
    if nodes.shape != x.shape[:1]:
        raise ValueError(
            f"{name}: expected one node per edge, shape {x.shape[:1]} for x of shape {x.shape}, "
            f"got {nodes.shape}; give x one row per edge, such as jnp.ones({name}.shape)"
        )
    return nodes
