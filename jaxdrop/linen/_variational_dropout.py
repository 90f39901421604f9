"""Dropout with one mask for all time steps."""

from jaxdrop import functional
from jaxdrop.linen._base import Dropper


class VariationalDropout(Dropper):
    """Drops the same entries at every time step of a sequence.

    Attributes:
        rate: probability of dropping, in [0, 1].
        time_axis: axis of the inputs that counts time steps.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = VariationalDropout(0.5, deterministic=False)
        >>> x = jnp.ones((3, 10, 4))
        >>> y = layer.apply({}, x, rngs={"dropout": jax.random.key(0)})
        >>> bool((y == y[:, :1]).all())
        True

    References:
        Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
        networks", 2016, section 4.
    """

    rate: float
    time_axis: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def drop(self, key, inputs, deterministic):
        return functional.variational_dropout(
            key, inputs, self.rate, deterministic=deterministic, time_axis=self.time_axis
        )
