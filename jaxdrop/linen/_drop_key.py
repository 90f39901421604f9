"""Dropout of keys before the softmax of attention."""

from jaxdrop import functional
from jaxdrop.linen._base import Dropper


class DropKey(Dropper):
    """Drops keys of attention: their logits become -inf before the softmax, never a whole row.

    Attributes:
        rate: probability of dropping, in [0, 1].
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = DropKey(0.5, deterministic=False)
        >>> y = layer.apply({}, jnp.zeros((2, 4, 4)), rngs={"dropout": jax.random.key(0)})
        >>> sorted({float(v) for v in y.ravel()})
        [-inf, 0.0]

    References:
        Li et al., "DropKey for vision transformer", 2023, algorithm 1.
    """

    rate: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def drop(self, key, inputs, deterministic):
        return functional.drop_key(key, inputs, self.rate, deterministic=deterministic)
