"""Gaussian noise, multiplied or added."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxdrop import functional
from jaxdrop.functional import _internal
from jaxdrop.nnx._base import Layer, Switchable, layer

__all__ = ["GaussianDropout", "GaussianNoise", "NeftuneNoise"]


@layer
class GaussianDropout(Layer):
    """Multiplies elements by Gaussian noise with the mean and the variance of dropout.

    Takes floating or complex arrays of any shape and keeps shape and dtype. See
    `jaxdrop.gaussian_dropout` for the paper.

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
    """

    broadcast_dims: Sequence[int] = ()

    function = staticmethod(functional.gaussian_dropout)


@layer
class GaussianNoise(Switchable):
    """Adds Gaussian noise of a given standard deviation.

    See `jaxdrop.gaussian_noise` for the paper.

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
    """

    stddev: float = dataclasses.field(kw_only=False)
    broadcast_dims: Sequence[int] = ()

    function = staticmethod(functional.gaussian_noise)

    @property
    def rate(self) -> Any:
        """What tells whether noise is drawn."""
        return _internal.equal_rate(self.stddev)

    def __call__(self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None) -> Any:
        """Adds noise to ``inputs``.

        Args:
            inputs: floating array of any shape.
            deterministic: overrides the attribute for this call.
            rngs: key, stream or ``nnx.Rngs`` to use instead of the module's own stream.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        return self.call(deterministic, rngs, inputs)


@layer
class NeftuneNoise(Switchable):
    """Adds uniform noise to embedded tokens, smaller for longer texts and wider embeddings.

    See `jaxdrop.neftune_noise` for the paper.

    Args:
        alpha: size of the noise, at least 0.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = NeftuneNoise(5.0, rngs=nnx.Rngs(0))
        >>> x, lengths = jnp.zeros((2, 16, 64)), jnp.array([[4], [16]])
        >>> mask = jnp.arange(16)[None] < lengths
        >>> [round(float(v), 2) for v in abs(layer(x, mask=mask)).max(axis=(1, 2))]
        [0.31, 0.16]
    """

    alpha: float = dataclasses.field(kw_only=False)

    function = staticmethod(functional.neftune_noise)

    @property
    def rate(self) -> Any:
        """What tells whether noise is drawn."""
        return _internal.equal_rate(self.alpha)

    def drop(self, key: Any, inputs: Any, mask: Any, deterministic: Any) -> Any:
        return functional.neftune_noise(
            key, inputs, self.alpha, deterministic=deterministic, mask=mask
        )

    def __call__(
        self,
        inputs: Any,
        *,
        deterministic: bool | None = None,
        rngs: Any = None,
        mask: Any = None,
    ) -> Any:
        """Adds noise to ``inputs``.

        Args:
            inputs: floating array of shape ``(..., L, D)``.
            deterministic: overrides the attribute for this call.
            rngs: key, stream or ``nnx.Rngs`` to use instead of the module's own stream.
            mask: booleans of shape ``(..., L)``, True for a token; None if all are tokens.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        return self.call(deterministic, rngs, inputs, mask)
