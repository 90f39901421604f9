"""Gaussian noise, multiplied or added."""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn

from jaxdrop import functional
from jaxdrop.functional import _internal
from jaxdrop.linen._base import Dropper

__all__ = ["GaussianDropout", "GaussianNoise"]


class GaussianDropout(Dropper):
    """Multiplies elements by Gaussian noise with the mean and the variance of dropout.

    Takes floating or complex arrays of any shape and keeps shape and dtype. See
    `jaxdrop.gaussian_dropout` for the paper.

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
    """

    rate: float
    broadcast_dims: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.gaussian_dropout)


class GaussianNoise(Dropper):
    """Adds Gaussian noise of a given standard deviation.

    See `jaxdrop.gaussian_noise` for the paper.

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
    """

    stddev: float
    broadcast_dims: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.gaussian_noise)

    @property
    def rate(self) -> Any:
        """What tells whether noise is drawn."""
        return _internal.equal_rate(self.stddev)

    @nn.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Any:
        """Adds noise to ``inputs``.

        Args:
            inputs: floating array of any shape.
            deterministic: as the field, for this call.
            rng: key to use instead of one from ``rng_collection``.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        return self.call(deterministic, rng, inputs)
