"""Gaussian noise, multiplied or added."""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from jaxdrop import functional
from jaxdrop.functional import _gaussian_noise
from jaxdrop.nnx._base import Layer, Switchable, layer


@layer
class GaussianDropout(Layer):
    """Multiplies entries by Gaussian noise with the mean and the variance of dropout.

    Takes floating or complex arrays of any shape and keeps shape and dtype.

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

    broadcast_dims: Sequence[int] = ()

    function = staticmethod(functional.gaussian_dropout)


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

    def __call__(self, inputs, *, deterministic: bool | None = None, rngs: Any = None):
        """Adds noise to ``inputs``.

        Args:
            inputs: floating array of any shape.
            deterministic: overrides the attribute for this call.
            rngs: key, stream or ``nnx.Rngs`` to use in place of the module's own stream.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        return self.call(inputs, deterministic, rngs)
