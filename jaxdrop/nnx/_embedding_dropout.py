"""Dropout of the rows of an embedding table."""

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable


class EmbeddingDropout(Switchable):
    """Drops whole words from an embedding table; call it with the table, before the look-up.

    Args:
        rate: probability of dropping a word, in [0, 1].
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = EmbeddingDropout(0.5, rngs=nnx.Rngs(0))
        >>> table = layer(jnp.ones((100, 4)))
        >>> bool((table == table[:, :1]).all())
        True

    References:
        Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
        networks", 2016, section 4.2.
    """

    def __init__(
        self,
        rate: float,
        *,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)

    def drop(self, key, inputs, deterministic):
        return functional.embedding_dropout(key, inputs, self.rate, deterministic=deterministic)
