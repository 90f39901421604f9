"""Dropout and noise whose rate or variance is learned."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdrop import functional
from jaxdrop.functional import _internal
from jaxdrop.nnx._base import Switchable

__all__ = ["ConcreteDropout", "VariationalGaussianDropout"]


class ConcreteDropout(Switchable):
    """Drops elements softly, at a rate that is a parameter and learned with the others.

    The parameter ``rate_logit`` is a float32 scalar. The loss needs `regularizer` of each layer::

        loss = mean_loss(model(x)) + model.dropout.regularizer(
            [model.linear.kernel, model.linear.bias],  # what the dropped array enters
            num_features=model.linear.in_features,
            weight_decay=weight_decay,
            entropy_weight=entropy_weight,
        )

    See `jaxdrop.concrete_regularizer` for both weights.

    Takes floating or complex arrays of any shape and keeps shape and dtype. See
    `jaxdrop.concrete_dropout` for the paper.

    Args:
        init_rate: rate that learning starts from, in (0, 1).
        temperature: how soft the decisions are, above 0.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = ConcreteDropout(rngs=nnx.Rngs(0))
        >>> round(float(jax.nn.sigmoid(layer.rate_logit[...])), 4)
        0.1
    """

    rate = None  # known to the parameters alone

    def __init__(
        self,
        init_rate: float = 0.1,
        *,
        temperature: float = 0.1,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> None:
        super().__init__(deterministic=deterministic, rng_collection=rng_collection, rngs=rngs)
        self.rate_logit = nnx.Param(jnp.float32(_internal.logit_of(init_rate)))
        self.temperature = temperature

    def drop(self, key: Any, inputs: Any, deterministic: Any) -> Any:
        return functional.concrete_dropout(
            key,
            inputs,
            self.rate_logit[...],
            deterministic=deterministic,
            temperature=self.temperature,
        )

    def regularizer(
        self, weights: Any, *, num_features: int, weight_decay: float, entropy_weight: float
    ) -> jax.Array:
        """`jaxdrop.concrete_regularizer` at the rate of this layer.

        Args:
            weights: array, parameter or pytree of them: those that the dropped array enters.
            num_features: how many features are dropped from.
            weight_decay: weight of their squares.
            entropy_weight: weight of the negative entropy.

        Returns:
            float32 scalar, to be added to the loss.
        """
        return functional.concrete_regularizer(
            self.rate_logit[...],
            weights,
            num_features=num_features,
            weight_decay=weight_decay,
            entropy_weight=entropy_weight,
        )


class VariationalGaussianDropout(Switchable):
    """Multiplies features by Gaussian noise, of a variance that is learned for each of them.

    The parameter ``log_alpha`` is a float32 vector. Add ``jaxdrop.variational_gaussian_kl`` of it
    to the loss, divided by the number of examples where the loss is a mean.

    Takes floating or complex arrays of shape ``(..., F)`` and keeps shape and dtype.

    Args:
        num_features: size of the inputs' last axis.
        init_log_alpha: logarithm of the variance that learning starts from.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = VariationalGaussianDropout(8, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 8))).shape
        (2, 8)

    References:
        Kingma, Salimans & Welling, "Variational dropout and the local reparameterization trick",
        2015; Molchanov, Ashukha & Vetrov, "Variational dropout sparsifies deep neural networks",
        2017.
    """

    rate = None  # there is no probability of dropping

    def __init__(
        self,
        num_features: int,
        *,
        init_log_alpha: float = -3.0,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> None:
        super().__init__(deterministic=deterministic, rng_collection=rng_collection, rngs=rngs)
        self.log_alpha = nnx.Param(jnp.full((num_features,), init_log_alpha, jnp.float32))

    def drop(self, key: Any, inputs: Any, deterministic: Any) -> Any:
        return functional.variational_gaussian_dropout(
            key, inputs, self.log_alpha[...], deterministic=deterministic
        )
