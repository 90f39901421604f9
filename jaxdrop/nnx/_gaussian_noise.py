"""Additive Gaussian noise."""

from collections.abc import Sequence

from flax import nnx

from jaxdrop import functional
from jaxdrop.functional import _gaussian_noise
from jaxdrop.nnx._base import Switchable


class GaussianNoise(Switchable):
    """Adds Gaussian noise of a given standard deviation.

    Args:
        stddev: standard deviation, at least 0, in the unit of the inputs.
        broadcast_dims: axes that share their noise.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = GaussianNoise(0.5, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.ones(10_000))
        >>> [round(float(v), 1) for v in (y.mean(), y.std())]
        [1.0, 0.5]

    References:
        Bishop, "Training with noise is equivalent to Tikhonov regularization", 1995.
    """

    def __init__(
        self,
        stddev: float,
        *,
        broadcast_dims: Sequence[int] = (),
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(None, deterministic, rng_collection, rngs)
        self.stddev = stddev
        self.broadcast_dims = broadcast_dims

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
