"""Dropout of whole attention heads."""

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable


class DropHead(Switchable):
    """Drops whole attention heads of each example, before they are joined.

    Args:
        rate: probability of dropping a head, in [0, 1].
        head_axis: axis of the inputs that counts heads.
        batch_axis: axis of the inputs that counts examples; None if there is none.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = DropHead(0.5, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.ones((2, 5, 8, 4)))
        >>> bool((y == y[:, :1, :, :1]).all())
        True

    References:
        Zhou et al., "Scheduled DropHead: a regularization method for transformer models", 2020.
    """

    def __init__(
        self,
        rate: float,
        *,
        head_axis: int = -2,
        batch_axis: int | None = 0,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)
        self.head_axis = head_axis
        self.batch_axis = batch_axis

    def drop(self, key, inputs, deterministic):
        return functional.drop_head(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            head_axis=self.head_axis,
            batch_axis=self.batch_axis,
        )
