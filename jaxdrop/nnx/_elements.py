"""Dropout of single elements."""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from jaxdrop import functional
from jaxdrop.functional import _internal
from jaxdrop.nnx._base import Dropper, Layer, Settable, find_key, layer, resolve

__all__ = ["AlphaDropout", "Dropout", "MCDropout"]


class Dropout(Settable, nnx.Dropout):
    """Drop-in for ``flax.nnx.Dropout``: same arguments, same call, same errors.

    A subclass of it, so code that looks for Flax's class finds this one. Beyond Flax's, ``rate``
    and ``deterministic`` may be traced. With a key in the call nothing is mutated, so the module
    works inside every transform of JAX itself. See `jaxdrop.dropout` for the paper.

    Args:
        rate: probability of dropping, in [0, 1]. It may be set later, also to an array or, inside
            ``nnx.jit``, to a traced one: ``model.drop.rate = rate``.
        broadcast_dims: axes that share one decision.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = Dropout(0.5, rngs=nnx.Rngs(0))
        >>> sorted({float(v) for v in layer(jnp.ones((2, 8))).ravel()})
        [0.0, 2.0]
    """

    def __call__(self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None) -> Any:
        """Drops elements of ``inputs``.

        Args:
            inputs: floating or complex array of any shape.
            deterministic: overrides the attribute for this call.
            rngs: key, stream or ``nnx.Rngs`` to use instead of the module's own stream.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        flag = resolve(self, deterministic)
        key = find_key(self, flag, rngs)
        return _internal.forward(functional.dropout, self, key, inputs, deterministic=flag)


class MCDropout(Dropper):
    """Dropout that stays on when the model is evaluated, so that every pass is a sample.

    ``train()``, ``eval()`` and ``nnx.view`` do not reach it: it obeys only a ``deterministic`` of
    its own, the argument given here or one that is passed to its call.

    Takes floating or complex arrays of any shape and keeps shape and dtype. See
    `jaxdrop.mc_dropout` for the paper.

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
    """

    function = staticmethod(functional.mc_dropout)
    mc_role = "always on"

    def __init__(
        self,
        rate: float,
        *,
        broadcast_dims: Sequence[int] = (),
        deterministic: bool = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> None:
        self.rate = rate
        self.rng_collection = rng_collection
        self.fork(rngs)
        self.broadcast_dims = broadcast_dims
        # Not named `deterministic`: eval() sets every attribute of that name.
        self.own_deterministic = deterministic

    def resolve(self, deterministic: Any) -> Any:
        return self.own_deterministic if deterministic is None else deterministic


@layer
class AlphaDropout(Layer):
    """Drops elements to SELU's saturation and keeps mean 0 and variance 1.

    Takes floating or complex arrays of any shape and keeps shape and dtype. See
    `jaxdrop.alpha_dropout` for the paper.

    Args:
        rate: probability of dropping, in [0, 1].
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = AlphaDropout(0.5, rngs=nnx.Rngs(0))
        >>> [round(float(v), 4) for v in jnp.unique(layer(jnp.zeros((2, 8))))]
        [-0.7792, 0.7792]
    """

    function = staticmethod(functional.alpha_dropout)
