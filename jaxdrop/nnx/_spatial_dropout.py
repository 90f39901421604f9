"""Dropout of whole feature maps."""

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable


class SpatialDropout(Switchable):
    """Drops whole feature maps of each example: one decision for all positions in space.

    Args:
        rate: probability of dropping a feature map, in [0, 1].
        channel_axis: axis of the inputs that counts feature maps.
        batch_axis: axis of the inputs that counts examples; None if there is none.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = SpatialDropout(0.5, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.ones((2, 5, 5, 8)))
        >>> bool((y == y[:, :1, :1, :]).all())
        True

    References:
        Tompson et al., "Efficient object localization using convolutional networks", 2015,
        section 3.2.
    """

    def __init__(
        self,
        rate: float,
        *,
        channel_axis: int = -1,
        batch_axis: int | None = 0,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)
        self.channel_axis = channel_axis
        self.batch_axis = batch_axis

    def drop(self, key, inputs, deterministic):
        return functional.spatial_dropout(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            channel_axis=self.channel_axis,
            batch_axis=self.batch_axis,
        )
