"""Dropout of whole feature maps, blocks, branches and edges."""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn

from jaxdrop import functional
from jaxdrop.linen._base import Dropper

__all__ = ["DropBlock", "DropPath", "EdgeDropout", "FeatureAlphaDropout", "SpatialDropout"]


class SpatialDropout(Dropper):
    """Drops whole feature maps of each example: one decision for all positions in space.

    Takes floating or complex arrays of shape ``(B, *space, C)``, or with these axes elsewhere, and
    keeps shape and dtype. See `jaxdrop.spatial_dropout` for the paper.

    Attributes:
        rate: probability of dropping a feature map, in [0, 1].
        channel_axis: axis of the inputs that counts feature maps.
        batch_axis: axis of the inputs that counts examples; None without one.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = SpatialDropout(0.5, deterministic=False)
        >>> x = jnp.ones((2, 5, 5, 8))
        >>> y = layer.apply({}, x, rngs={"dropout": jax.random.key(0)})
        >>> bool((y == y[:, :1, :1, :]).all())
        True
    """

    rate: float
    channel_axis: int = -1
    batch_axis: int | None = 0
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.spatial_dropout)


class FeatureAlphaDropout(Dropper):
    """Drops whole feature maps to SELU's saturation and keeps mean 0 and variance 1.

    Takes floating or complex arrays of shape ``(B, *space, C)``, or with these axes elsewhere, and
    keeps shape and dtype. See `jaxdrop.feature_alpha_dropout` for the paper.

    Attributes:
        rate: probability of dropping a feature map, in [0, 1].
        channel_axis: axis of the inputs that counts feature maps.
        batch_axis: axis of the inputs that counts examples; None without one.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = FeatureAlphaDropout(0.5, deterministic=False)
        >>> x = jnp.zeros((2, 5, 5, 8))
        >>> y = layer.apply({}, x, rngs={"dropout": jax.random.key(0)})
        >>> bool((y == y[:, :1, :1, :]).all())
        True
    """

    rate: float
    channel_axis: int = -1
    batch_axis: int | None = 0
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.feature_alpha_dropout)


class DropBlock(Dropper):
    """Drops contiguous blocks of each feature map, in 1, 2 or 3 axes of space.

    Takes floating or complex arrays of shape ``(B, *space, C)``, or with these axes elsewhere, and
    keeps shape and dtype. See `jaxdrop.drop_block` for the paper.

    Attributes:
        rate: probability that an element is dropped, in [0, 1].
        block_size: size of a block along all axes in space, or one for each.
        channel_axis: axis of the inputs that counts feature maps.
        batch_axis: axis of the inputs that counts examples; None without one.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = DropBlock(0.1, block_size=3, deterministic=False)
        >>> x = jnp.ones((2, 8, 8, 4))
        >>> layer.apply({}, x, rngs={"dropout": jax.random.key(0)}).shape
        (2, 8, 8, 4)
    """

    rate: float
    block_size: int | Sequence[int] = 7
    channel_axis: int = -1
    batch_axis: int | None = 0
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.drop_block)


class DropPath(Dropper):
    """Drops whole examples of a residual branch: stochastic depth.

    Takes the output of the branch, a floating or complex array of shape ``(B, ...)`` or with its
    axis of examples elsewhere, and keeps shape and dtype. See `jaxdrop.drop_path` for the paper.

    Attributes:
        rate: probability of dropping, in [0, 1].
        mode: ``"row"`` decides for each example, ``"batch"`` once for all.
        batch_axis: axis of the inputs that counts examples.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = DropPath(0.5, deterministic=False)
        >>> y = layer.apply({}, jnp.ones((8, 3)), rngs={"dropout": jax.random.key(0)})
        >>> bool((y == y[:, :1]).all())
        True
    """

    rate: float
    mode: str = "row"
    batch_axis: int = 0
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.drop_path)


class EdgeDropout(Dropper):
    """Drops what whole edges of a graph carry; their number stays.

    Takes floating or complex arrays of shape ``(E, ...)``, one row per edge, and keeps shape and
    dtype. See `jaxdrop.edge_dropout` for the paper.

    Attributes:
        rate: probability of dropping an edge, in [0, 1].
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> senders, receivers = jnp.array([0, 1, 1, 2]), jnp.array([1, 0, 2, 1])
        >>> layer = EdgeDropout(0.5, deterministic=False)
        >>> ends = {"senders": senders, "receivers": receivers}
        >>> w = layer.apply({}, jnp.ones(4), **ends, rngs={"dropout": jax.random.key(0)})
        >>> bool(w[0] == w[1]), bool(w[2] == w[3])
        (True, True)
    """

    rate: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.edge_dropout)

    def drop(self, key: Any, inputs: Any, senders: Any, receivers: Any, deterministic: Any) -> Any:
        ends = {"senders": senders, "receivers": receivers}
        return functional.edge_dropout(key, inputs, self.rate, deterministic=deterministic, **ends)

    @nn.compact
    def __call__(
        self,
        inputs: Any,
        deterministic: bool | None = None,
        rng: Any = None,
        *,
        senders: Any = None,
        receivers: Any = None,
    ) -> Any:
        """Drops edges from ``inputs``.

        Args:
            inputs: floating or complex array of shape ``(E, ...)``.
            deterministic: as the field, for this call.
            rng: key to use instead of one from ``rng_collection``.
            senders: integers of shape ``(E,)``; with both, the directions of an edge share one
                decision.
            receivers: integers of shape ``(E,)``.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        return self.call(deterministic, rng, inputs, senders, receivers)
