"""Dropout of integer tokens."""

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable


class WordDropout(Switchable):
    """Replaces integer tokens at random by the one of an unknown word.

    Args:
        rate: probability of dropping, in [0, 1].
        unknown_id: what a dropped token becomes.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = WordDropout(0.5, unknown_id=1, rngs=nnx.Rngs(0))
        >>> sorted({int(v) for v in layer(jnp.full((2, 8), 7)).ravel()})
        [1, 7]

    References:
        Iyyer et al., "Deep unordered composition rivals syntactic methods for text classification",
        2015, section 3.1.
    """

    def __init__(
        self,
        rate: float,
        *,
        unknown_id: int,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)
        self.unknown_id = unknown_id

    def drop(self, key, inputs, deterministic):
        return functional.word_dropout(
            key, inputs, self.rate, deterministic=deterministic, unknown_id=self.unknown_id
        )
