"""Dropout of single elements."""

import functools
from collections.abc import Sequence
from typing import Any

from flax import linen as nn

from jaxdrop import functional
from jaxdrop.functional import _internal
from jaxdrop.linen._base import Dropper, find_key

__all__ = ["AlphaDropout", "Dropout", "MCDropout"]


class Dropout(nn.Dropout):
    """Drop-in for ``flax.linen.Dropout``: same fields, same call, same errors.

    A subclass of it, so code that looks for Flax's class finds this one. Beyond Flax's, ``rate``
    and ``deterministic`` may be traced and arrays may be sharded explicitly. See `jaxdrop.dropout`
    for the paper.

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
    """

    @nn.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Any:
        """Drops elements of ``inputs``.

        Args:
            inputs: floating or complex array of any shape.
            deterministic: as the field, for this call.
            rng: key to use instead of one from ``rng_collection``.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        return call_dropout(self, inputs, deterministic, rng)


class MCDropout(Dropper):
    """Dropout that stays on when the model is evaluated, so that every pass is a sample.

    It obeys only a ``deterministic`` of its own: the field, or one that is passed to this call.

    Takes floating or complex arrays of any shape and keeps shape and dtype. See
    `jaxdrop.mc_dropout` for the paper.

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
    """

    rate: float
    broadcast_dims: Sequence[int] = ()
    deterministic: bool = False
    rng_collection: str = "dropout"

    function = staticmethod(functional.mc_dropout)
    mc_role = "always on"

    def resolve(self, deterministic: Any) -> Any:
        return self.deterministic if deterministic is None else deterministic


class AlphaDropout(Dropper):
    """Drops elements to SELU's saturation and keeps mean 0 and variance 1.

    Takes floating or complex arrays of any shape and keeps shape and dtype. See
    `jaxdrop.alpha_dropout` for the paper.

    Attributes:
        rate: probability of dropping, in [0, 1].
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = AlphaDropout(0.5, deterministic=False)
        >>> y = layer.apply({}, jnp.zeros((2, 8)), rngs={"dropout": jax.random.key(0)})
        >>> [round(float(v), 4) for v in jnp.unique(y)]
        [-0.7792, 0.7792]
    """

    rate: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.alpha_dropout)


def call_dropout(module: Any, inputs: Any, deterministic: Any = None, rng: Any = None) -> Any:
    """The call of `Dropout`, for any module that has its fields."""
    flag = nn.merge_param("deterministic", module.deterministic, deterministic)
    return drop_entries(module, find_key(module, flag, rng), inputs, deterministic=flag)


# `dropout` with the fields of a ``flax.linen.Dropout``.
drop_entries = functools.partial(_internal.forward, functional.dropout)
