"""Dropout of contiguous blocks of feature maps."""

from collections.abc import Sequence

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable


class DropBlock(Switchable):
    """Drops contiguous blocks of each feature map, in 1, 2 or 3 axes of space.

    Args:
        rate: probability that an entry is dropped, in [0, 1].
        block_size: size of a block along all axes in space, or one for each.
        channel_axis: axis of the inputs that counts feature maps.
        batch_axis: axis of the inputs that counts examples; None if there is none.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = DropBlock(0.1, block_size=3, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 8, 8, 4))).shape
        (2, 8, 8, 4)

    References:
        Ghiasi et al., "DropBlock: a regularization method for convolutional networks", 2018,
        algorithm 1.
    """

    def __init__(
        self,
        rate: float,
        *,
        block_size: int | Sequence[int] = 7,
        channel_axis: int = -1,
        batch_axis: int | None = 0,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)
        self.block_size = block_size
        self.channel_axis = channel_axis
        self.batch_axis = batch_axis

    def drop(self, key, inputs, deterministic):
        return functional.drop_block(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            block_size=self.block_size,
            channel_axis=self.channel_axis,
            batch_axis=self.batch_axis,
        )
