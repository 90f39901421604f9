"""Dropout of whole feature maps."""

from jaxdrop import functional
from jaxdrop.linen._base import Dropper


class SpatialDropout(Dropper):
    """Drops whole feature maps of each example: one decision for all positions in space.

    Attributes:
        rate: probability of dropping a feature map, in [0, 1].
        channel_axis: axis of the inputs that counts feature maps.
        batch_axis: axis of the inputs that counts examples; None if there is none.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = SpatialDropout(0.5, deterministic=False)
        >>> x = jnp.ones((2, 5, 5, 8))
        >>> y = layer.apply({}, x, rngs={"dropout": jax.random.key(0)})
        >>> bool((y == y[:, :1, :1, :]).all())
        True

    References:
        Tompson et al., "Efficient object localization using convolutional networks", 2015,
        section 3.2.
    """

    rate: float
    channel_axis: int = -1
    batch_axis: int | None = 0
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def drop(self, key, inputs, deterministic):
        return functional.spatial_dropout(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            channel_axis=self.channel_axis,
            batch_axis=self.batch_axis,
        )
