"""Dropout of whole attention heads."""

from jaxdrop import functional
from jaxdrop.linen._base import Dropper


class DropHead(Dropper):
    """Drops whole attention heads of each example, before they are joined.

    Attributes:
        rate: probability of dropping a head, in [0, 1].
        head_axis: axis of the inputs that counts heads.
        batch_axis: axis of the inputs that counts examples; None if there is none.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = DropHead(0.5, deterministic=False)
        >>> x = jnp.ones((2, 5, 8, 4))
        >>> y = layer.apply({}, x, rngs={"dropout": jax.random.key(0)})
        >>> bool((y == y[:, :1, :, :1]).all())
        True

    References:
        Zhou et al., "Scheduled DropHead: a regularization method for transformer models", 2020.
    """

    rate: float
    head_axis: int = -2
    batch_axis: int | None = 0
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def drop(self, key, inputs, deterministic):
        return functional.drop_head(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            head_axis=self.head_axis,
            batch_axis=self.batch_axis,
        )
