"""Dropout of single elements."""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn

from jaxdrop import functional
from jaxdrop.linen._base import Dropper, find_key


class Dropout(nn.Dropout):
    """Drop-in for ``flax.linen.Dropout``: same fields, same call, same errors.

    A subclass of it, so code that looks for Flax's class finds this one. Beyond Flax's, ``rate``
    and ``deterministic`` may be traced and arrays may be sharded explicitly.

    Attributes:
        rate: probability of dropping, in [0, 1].
        broadcast_dims: axes that share one decision.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = Dropout(0.5, deterministic=False)
        >>> y = layer.apply({}, jnp.ones((2, 8)), rngs={"dropout": jax.random.key(0)})
        >>> sorted({float(v) for v in y.ravel()})
        [0.0, 2.0]

    References:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
        2014, section 4.
    """

    @nn.compact
    def __call__(self, inputs, deterministic: bool | None = None, rng: Any = None):
        """Drops entries of ``inputs``.

        Args:
            inputs: floating or complex array of any shape.
            deterministic: as the field, for this call.
            rng: key to use in place of one from ``rng_collection``.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        return call_dropout(self, inputs, deterministic, rng)


class MCDropout(Dropper):
    """Dropout that stays on when the model is evaluated, so that every pass is a sample.

    It obeys only a ``deterministic`` of its own: the field, or one that is passed to this call.

    Takes floating or complex arrays of any shape and keeps shape and dtype.

    Attributes:
        rate: probability of dropping, in [0, 1].
        broadcast_dims: axes that share one decision.
        deterministic: if true, inputs pass unchanged.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = MCDropout(0.5)
        >>> y = layer.apply({}, jnp.ones((2, 8)), rngs={"dropout": jax.random.key(0)})
        >>> sorted({float(v) for v in y.ravel()})
        [0.0, 2.0]

    References:
        Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in
        deep learning", 2016, eq. 6.
    """

    rate: float
    broadcast_dims: Sequence[int] = ()
    deterministic: bool = False
    rng_collection: str = "dropout"

    function = staticmethod(functional.mc_dropout)
    mc_role = "always on"

    def resolve(self, deterministic):
        return self.deterministic if deterministic is None else deterministic


class AlphaDropout(Dropper):
    """Drops entries to SELU's saturation and keeps mean 0 and variance 1.

    Takes floating or complex arrays of any shape and keeps shape and dtype.

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

    function = staticmethod(functional.alpha_dropout)


def call_dropout(module, inputs, deterministic=None, rng=None):
    """The call of `Dropout`, for any module that has its fields."""
    flag = nn.merge_param("deterministic", module.deterministic, deterministic)
    return drop_entries(module, find_key(module, flag, rng), inputs, flag)


def drop_entries(module, key, inputs, deterministic):
    """`dropout` with the fields of a ``flax.linen.Dropout``."""
    return functional.dropout(
        key,
        inputs,
        module.rate,
        deterministic=deterministic,
        broadcast_dims=module.broadcast_dims,
    )
