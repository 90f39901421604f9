"""Additive Gaussian noise."""

from collections.abc import Sequence

from jaxdrop import functional
from jaxdrop.functional import _gaussian_noise
from jaxdrop.linen._base import Dropper


class GaussianNoise(Dropper):
    """Adds Gaussian noise of a given standard deviation.

    Attributes:
        stddev: standard deviation, at least 0, in the unit of the inputs.
        broadcast_dims: axes that share their noise.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = GaussianNoise(0.5, deterministic=False)
        >>> y = layer.apply({}, jnp.ones(10_000), rngs={"dropout": jax.random.key(0)})
        >>> [round(float(v), 1) for v in (y.mean(), y.std())]
        [1.0, 0.5]

    References:
        Bishop, "Training with noise is equivalent to Tikhonov regularization", 1995.
    """

    stddev: float
    broadcast_dims: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @property
    def rate(self):
        """What tells whether noise is drawn."""
        return _gaussian_noise.equal_rate(self.stddev)

    def drop(self, key, inputs, deterministic):
        return functional.gaussian_noise(
            key,
            inputs,
            self.stddev,
            deterministic=deterministic,
            broadcast_dims=self.broadcast_dims,
        )
