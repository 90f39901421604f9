"""Dropout with one mask for all time steps."""

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable


class VariationalDropout(Switchable):
    """Drops the same entries at every time step of a sequence.

    Args:
        rate: probability of dropping, in [0, 1].
        time_axis: axis of the inputs that counts time steps.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = VariationalDropout(0.5, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.ones((3, 10, 4)))
        >>> bool((y == y[:, :1]).all())
        True

    References:
        Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
        networks", 2016, section 4.
    """

    def __init__(
        self,
        rate: float,
        *,
        time_axis: int = 1,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)
        self.time_axis = time_axis

    def drop(self, key, inputs, deterministic):
        return functional.variational_dropout(
            key, inputs, self.rate, deterministic=deterministic, time_axis=self.time_axis
        )
