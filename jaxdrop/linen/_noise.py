"""Gaussian noise, multiplied or added."""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn

from jaxdrop import functional
from jaxdrop.functional import _internal
from jaxdrop.linen._base import Dropper

__all__ = ["GaussianDropout", "GaussianNoise", "NeftuneNoise"]


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


class NeftuneNoise(Dropper):
    """Adds uniform noise to embedded tokens, smaller for longer texts and wider embeddings.

    See `jaxdrop.neftune_noise` for the paper.

    Attributes:
        alpha: size of the noise, at least 0.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = NeftuneNoise(5.0, deterministic=False)
        >>> x, lengths = jnp.zeros((2, 16, 64)), jnp.array([[4], [16]])
        >>> mask = jnp.arange(16)[None] < lengths
        >>> y = layer.apply({}, x, mask=mask, rngs={"dropout": jax.random.key(0)})
        >>> [round(float(v), 2) for v in abs(y).max(axis=(1, 2))]
        [0.31, 0.16]
    """

    alpha: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.neftune_noise)

    @property
    def rate(self) -> Any:
        """What tells whether noise is drawn."""
        return _internal.equal_rate(self.alpha)

    def drop(self, key: Any, inputs: Any, mask: Any, deterministic: Any) -> Any:
        return functional.neftune_noise(
            key, inputs, self.alpha, deterministic=deterministic, mask=mask
        )

    @nn.compact
    def __call__(
        self, inputs: Any, deterministic: bool | None = None, rng: Any = None, *, mask: Any = None
    ) -> Any:
        """Adds noise to ``inputs``.

        Args:
            inputs: floating array of shape ``(..., L, D)``.
            deterministic: as the field, for this call.
            rng: key to use instead of one from ``rng_collection``.
            mask: booleans of shape ``(..., L)``, True for a token; None if all are tokens.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        return self.call(deterministic, rng, inputs, mask)
