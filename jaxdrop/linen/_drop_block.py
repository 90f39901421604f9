"""Dropout of contiguous blocks of feature maps."""

from collections.abc import Sequence

from jaxdrop import functional
from jaxdrop.linen._base import Dropper


class DropBlock(Dropper):
    """Drops contiguous blocks of each feature map, in 1, 2 or 3 axes of space.

    Attributes:
        rate: probability that an entry is dropped, in [0, 1].
        block_size: size of a block along all axes in space, or one for each.
        channel_axis: axis of the inputs that counts feature maps.
        batch_axis: axis of the inputs that counts examples; None if there is none.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = DropBlock(0.1, block_size=3, deterministic=False)
        >>> x = jnp.ones((2, 8, 8, 4))
        >>> layer.apply({}, x, rngs={"dropout": jax.random.key(0)}).shape
        (2, 8, 8, 4)

    References:
        Ghiasi et al., "DropBlock: a regularization method for convolutional networks", 2018,
        algorithm 1.
    """

    rate: float
    block_size: int | Sequence[int] = 7
    channel_axis: int = -1
    batch_axis: int | None = 0
    deterministic: bool | None = None
    rng_collection: str = "dropout"

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
