"""Dropout that keeps the mean and the variance of SELU's activations."""

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable


class AlphaDropout(Switchable):
    """Drops entries to SELU's saturation and keeps mean 0 and variance 1.

    Args:
        rate: probability of dropping, in [0, 1].
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = AlphaDropout(0.5, rngs=nnx.Rngs(0))
        >>> [round(float(v), 4) for v in jnp.unique(layer(jnp.zeros((2, 8))))]
        [-0.7792, 0.7792]

    References:
        Klambauer et al., "Self-normalizing neural networks", 2017, section 3.
    """

    def __init__(
        self,
        rate: float,
        *,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)

    def drop(self, key, inputs, deterministic):
        return functional.alpha_dropout(key, inputs, self.rate, deterministic=deterministic)


class FeatureAlphaDropout(Switchable):
    """Drops whole feature maps to SELU's saturation and keeps mean 0 and variance 1.

    Args:
        rate: probability of dropping a feature map, in [0, 1].
        channel_axis: axis of the inputs that counts feature maps.
        batch_axis: axis of the inputs that counts examples; None if there is none.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = FeatureAlphaDropout(0.5, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.zeros((2, 5, 5, 8)))
        >>> bool((y == y[:, :1, :1, :]).all())
        True

    References:
        Klambauer et al., "Self-normalizing neural networks", 2017, section 3.
    """

    def __init__(
        self,
        rate: float,
        *,
        channel_axis: int = -1,
        batch_axis: int | None = 0,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)
        self.channel_axis = channel_axis
        self.batch_axis = batch_axis

    def drop(self, key, inputs, deterministic):
        return functional.feature_alpha_dropout(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            channel_axis=self.channel_axis,
            batch_axis=self.batch_axis,
        )
