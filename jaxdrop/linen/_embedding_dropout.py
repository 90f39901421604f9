"""Dropout of the rows of an embedding table."""

from jaxdrop import functional
from jaxdrop.linen._base import Dropper


class EmbeddingDropout(Dropper):
    """Drops whole words from an embedding table; call it with the table, before the look-up.

    Attributes:
        rate: probability of dropping a word, in [0, 1].
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = EmbeddingDropout(0.5, deterministic=False)
        >>> table = layer.apply({}, jnp.ones((100, 4)), rngs={"dropout": jax.random.key(0)})
        >>> bool((table == table[:, :1]).all())
        True

    References:
        Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
        networks", 2016, section 4.2.
    """

    rate: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def drop(self, key, inputs, deterministic):
        return functional.embedding_dropout(key, inputs, self.rate, deterministic=deterministic)
