"""Zoneout: entries of a recurrent state that keep their old value."""

from typing import Any

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable, find_key


class Zoneout(Switchable):
    """Keeps the old value of entries of a recurrent state; the mean of both when switched off.

    Args:
        rate: probability of keeping the old value, in [0, 1].
        deterministic: if true, gives the mean over keys; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = Zoneout(0.5, rngs=nnx.Rngs(0))
        >>> h = layer(jnp.zeros((2, 8)), jnp.ones((2, 8)))
        >>> sorted({float(v) for v in h.ravel()})
        [0.0, 1.0]

    References:
        Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations",
        2017, eq. 2.
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

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, h_old, h_new, *, deterministic: bool | None = None, rngs: Any = None
    ):
        """Chooses between the entries of two states.

        Args:
            h_old: state before the step, a floating or complex array of any shape.
            h_new: state after it, of the same shape and dtype.
            deterministic: overrides the attribute for this call.
            rngs: key, stream or ``nnx.Rngs`` to use in place of the module's own stream.

        Returns:
            Array with the shape and dtype of the states.
        """
        flag = self.resolve(deterministic)
        return self.drop(find_key(self, flag, rngs), h_old, h_new, flag)

    def drop(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key, h_old, h_new, deterministic
    ):
        return functional.zoneout(key, h_old, h_new, self.rate, deterministic=deterministic)
