"""Dropout of single elements."""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Dropper, Layer, find_key, layer, resolve


class Dropout(nnx.Dropout):
    """Drop-in for ``flax.nnx.Dropout``: same arguments, same call, same errors.

    A subclass of it, so code that looks for Flax's class finds this one. Beyond Flax's, ``rate``
    and ``deterministic`` may be traced. With a key in the call nothing is mutated, so the module
    works inside every transform of JAX itself.

    Args:
        rate: probability of dropping, in [0, 1].
        broadcast_dims: axes that share one decision.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = Dropout(0.5, rngs=nnx.Rngs(0))
        >>> sorted({float(v) for v in layer(jnp.ones((2, 8))).ravel()})
        [0.0, 2.0]

    References:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
        2014, section 4.
    """

    def __call__(self, inputs, *, deterministic: bool | None = None, rngs: Any = None):
        """Drops entries of ``inputs``.

        Args:
            inputs: floating or complex array of any shape.
            deterministic: overrides the attribute for this call.
            rngs: key, stream or ``nnx.Rngs`` to use in place of the module's own stream.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        flag = resolve(self, deterministic)
        return functional.dropout(
            find_key(self, flag, rngs),
            inputs,
            self.rate,
            deterministic=flag,
            broadcast_dims=self.broadcast_dims,
        )


class MCDropout(Dropper):
    """Dropout that stays on when the model is evaluated, so that every pass is a sample.

    ``train()``, ``eval()`` and ``nnx.view`` do not reach it: it obeys only a ``deterministic`` of
    its own, the argument given here or one that is passed to its call.

    Takes floating or complex arrays of any shape and keeps shape and dtype.

    Args:
        rate: probability of dropping, in [0, 1].
        broadcast_dims: axes that share one decision.
        deterministic: if true, inputs pass unchanged.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = MCDropout(0.5, rngs=nnx.Rngs(0))
        >>> layer.eval()
        >>> sorted({float(v) for v in layer(jnp.ones((2, 8))).ravel()})
        [0.0, 2.0]

    References:
        Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in
        deep learning", 2016, eq. 6.
    """

    mc_role = "always on"

    def __init__(
        self,
        rate: float,
        *,
        broadcast_dims: Sequence[int] = (),
        deterministic: bool = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, rng_collection, rngs)
        self.broadcast_dims = broadcast_dims
        # Not named `deterministic`: eval() sets every attribute of that name.
        self.own_deterministic = deterministic

    def resolve(self, deterministic):
        return self.own_deterministic if deterministic is None else deterministic

    def drop(self, key, inputs, deterministic):
        return functional.mc_dropout(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            broadcast_dims=self.broadcast_dims,
        )


@layer
class AlphaDropout(Layer):
    """Drops entries to SELU's saturation and keeps mean 0 and variance 1.

    Takes floating or complex arrays of any shape and keeps shape and dtype.

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

    function = staticmethod(functional.alpha_dropout)
