"""Zoneout: entries of a recurrent state that keep their old value."""

from typing import Any

from flax import linen as nn

from jaxdrop import functional
from jaxdrop.linen._base import Dropper, find_key


class Zoneout(Dropper):
    """Keeps the old value of entries of a recurrent state; the mean of both when switched off.

    Attributes:
        rate: probability of keeping the old value, in [0, 1].
        deterministic: if true, gives the mean over keys; set it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = Zoneout(0.5, deterministic=False)
        >>> old, new = jnp.zeros((2, 8)), jnp.ones((2, 8))
        >>> h = layer.apply({}, old, new, rngs={"dropout": jax.random.key(0)})
        >>> sorted({float(v) for v in h.ravel()})
        [0.0, 1.0]

    References:
        Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations",
        2017, eq. 2.
    """

    rate: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @nn.compact
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, h_old, h_new, deterministic: bool | None = None, rng: Any = None
    ):
        """Chooses between the entries of two states.

        Args:
            h_old: state before the step, a floating or complex array of any shape.
            h_new: state after it, of the same shape and dtype.
            deterministic: as the field, for this call.
            rng: key to use in place of one from ``rng_collection``.

        Returns:
            Array with the shape and dtype of the states.
        """
        flag = self.resolve(deterministic)
        return self.drop(find_key(self, flag, rng), h_old, h_new, flag)

    def drop(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key, h_old, h_new, deterministic
    ):
        return functional.zoneout(key, h_old, h_new, self.rate, deterministic=deterministic)
