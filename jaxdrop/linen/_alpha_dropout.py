"""Dropout that keeps the mean and the variance of SELU's activations."""

from jaxdrop import functional
from jaxdrop.linen._base import Dropper


class AlphaDropout(Dropper):
    """Drops entries to SELU's saturation and keeps mean 0 and variance 1.

    Attributes:
        rate: probability of dropping, in [0, 1].
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = AlphaDropout(0.5, deterministic=False)
        >>> y = layer.apply({}, jnp.zeros((2, 8)), rngs={"dropout": jax.random.key(0)})
        >>> [round(float(v), 4) for v in jnp.unique(y)]
        [-0.7792, 0.7792]

    References:
        Klambauer et al., "Self-normalizing neural networks", 2017, section 3.
    """

    rate: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def drop(self, key, inputs, deterministic):
        return functional.alpha_dropout(key, inputs, self.rate, deterministic=deterministic)


class FeatureAlphaDropout(Dropper):
    """Drops whole feature maps to SELU's saturation and keeps mean 0 and variance 1.

    Attributes:
        rate: probability of dropping a feature map, in [0, 1].
        channel_axis: axis of the inputs that counts feature maps.
        batch_axis: axis of the inputs that counts examples; None if there is none.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = FeatureAlphaDropout(0.5, deterministic=False)
        >>> x = jnp.zeros((2, 5, 5, 8))
        >>> y = layer.apply({}, x, rngs={"dropout": jax.random.key(0)})
        >>> bool((y == y[:, :1, :1, :]).all())
        True

    References:
        Klambauer et al., "Self-normalizing neural networks", 2017, section 3.
    """

    rate: float
    channel_axis: int = -1
    batch_axis: int | None = 0
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def drop(self, key, inputs, deterministic):
        return functional.feature_alpha_dropout(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            channel_axis=self.channel_axis,
            batch_axis=self.batch_axis,
        )
