"""Gaussian noise in place of a mask."""

from collections.abc import Sequence

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable


class GaussianDropout(Switchable):
    """Multiplies entries by Gaussian noise with the mean and the variance of dropout.

    Args:
        rate: rate of the dropout with the same variance, in [0, 1].
        broadcast_dims: axes that share their noise.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = GaussianDropout(0.2, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.ones(10_000))
        >>> [round(float(v), 1) for v in (y.mean(), y.std())]
        [1.0, 0.5]

    References:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
        2014, section 10.
    """

    def __init__(
        self,
        rate: float,
        *,
        broadcast_dims: Sequence[int] = (),
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)
        self.broadcast_dims = broadcast_dims

    def drop(self, key, inputs, deterministic):
        return functional.gaussian_dropout(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            broadcast_dims=self.broadcast_dims,
        )
