"""Dropout of integer tokens."""

from jaxdrop import functional
from jaxdrop.linen._base import Dropper


class WordDropout(Dropper):
    """Replaces integer tokens at random by the one of an unknown word.

    Attributes:
        rate: probability of dropping, in [0, 1].
        unknown_id: what a dropped token becomes.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = WordDropout(0.5, unknown_id=1, deterministic=False)
        >>> tokens = jnp.full((2, 8), 7)
        >>> y = layer.apply({}, tokens, rngs={"dropout": jax.random.key(0)})
        >>> sorted({int(v) for v in y.ravel()})
        [1, 7]

    References:
        Iyyer et al., "Deep unordered composition rivals syntactic methods for text classification",
        2015, section 3.1.
    """

    rate: float
    unknown_id: int
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def drop(self, key, inputs, deterministic):
        return functional.word_dropout(
            key, inputs, self.rate, deterministic=deterministic, unknown_id=self.unknown_id
        )
