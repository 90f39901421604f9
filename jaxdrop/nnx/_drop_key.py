"""Dropout of keys before the softmax of attention."""

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable


class DropKey(Switchable):
    """Drops keys of attention: their logits become -inf before the softmax, never a whole row.

    Args:
        rate: probability of dropping, in [0, 1].
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = DropKey(0.5, rngs=nnx.Rngs(0))
        >>> sorted({float(v) for v in layer(jnp.zeros((2, 4, 4))).ravel()})
        [-inf, 0.0]

    References:
        Li et al., "DropKey for vision transformer", 2023, algorithm 1.
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
        return functional.drop_key(key, inputs, self.rate, deterministic=deterministic)
