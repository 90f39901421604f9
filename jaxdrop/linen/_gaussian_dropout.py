"""Gaussian noise in place of a mask."""

from collections.abc import Sequence

from jaxdrop import functional
from jaxdrop.linen._base import Dropper


class GaussianDropout(Dropper):
    """Multiplies entries by Gaussian noise with the mean and the variance of dropout.

    Attributes:
        rate: rate of the dropout with the same variance, in [0, 1].
        broadcast_dims: axes that share their noise.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = GaussianDropout(0.2, deterministic=False)
        >>> y = layer.apply({}, jnp.ones(10_000), rngs={"dropout": jax.random.key(0)})
        >>> [round(float(v), 1) for v in (y.mean(), y.std())]
        [1.0, 0.5]

    References:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
        2014, section 10.
    """

    rate: float
    broadcast_dims: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def drop(self, key, inputs, deterministic):
        return functional.gaussian_dropout(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            broadcast_dims=self.broadcast_dims,
        )
