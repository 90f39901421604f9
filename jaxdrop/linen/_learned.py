"""Dropout and noise whose rate or variance is learned."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxdrop import functional
from jaxdrop.functional import _internal
from jaxdrop.linen._base import Dropper

__all__ = ["ConcreteDropout", "VariationalGaussianDropout"]


class ConcreteDropout(Dropper):
    """Drops elements softly, at a rate that is a parameter and learned with the others.

    The parameter ``rate_logit`` is a float32 scalar. The negative entropy of the decisions,
    ``num_features * (p log p + (1 - p) log(1 - p))``, is sown as ``entropy_term`` into the
    collection ``"concrete"``. The loss needs it, and the weights that the dropped array enters::

        y, state = model.apply(variables, x, rngs=rngs, mutable="concrete")
        loss = mean_loss(y) + entropy_weight * sum(jax.tree.leaves(state["concrete"]))
        for dropped, entered in (("ConcreteDropout_0", "Dense_1"), ...):
            loss += jaxdrop.concrete_regularizer(
                params[dropped]["rate_logit"],
                params[entered],
                num_features=0,  # the entropy is in the loss already
                weight_decay=weight_decay,
                entropy_weight=0.0,
            )

    See `jaxdrop.concrete_regularizer` for both weights.

    Takes floating or complex arrays of any shape and keeps shape and dtype. See
    `jaxdrop.concrete_dropout` for the paper.

    Attributes:
        init_rate: rate that learning starts from, in (0, 1).
        temperature: how soft the decisions are, above 0.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = ConcreteDropout(deterministic=False)
        >>> keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        >>> variables = layer.init(keys, jnp.ones((2, 8)))
        >>> round(float(jax.nn.sigmoid(variables["params"]["rate_logit"])), 4)
        0.1
    """

    init_rate: float = 0.1
    temperature: float = 0.1
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    rate = None  # known to the parameters alone

    def drop(self, key: Any, inputs: Any, deterministic: Any) -> Any:
        logit = _internal.logit_of(self.init_rate)
        rate_logit = self.param("rate_logit", nn.initializers.constant(logit), (), jnp.float32)
        if not self.is_initializing():
            entropy_term = functional.concrete_regularizer(
                rate_logit,
                (),
                num_features=inputs.shape[-1],
                weight_decay=0.0,
                entropy_weight=1.0,
            )
            # The last call counts: a layer that is shared has one rate.
            self.sow(
                "concrete",
                "entropy_term",
                entropy_term,
                init_fn=lambda: entropy_term,
                reduce_fn=lambda _, new: new,
            )
        return functional.concrete_dropout(
            key, inputs, rate_logit, deterministic=deterministic, temperature=self.temperature
        )


class VariationalGaussianDropout(Dropper):
    """Multiplies features by Gaussian noise, of a variance that is learned for each of them.

    The parameter ``log_alpha`` is a float32 vector, of the size of the inputs' last axis. Add
    ``jaxdrop.variational_gaussian_kl`` of it to the loss, divided by the number of examples where
    the loss is a mean.

    Takes floating or complex arrays of shape ``(..., F)`` and keeps shape and dtype.

    Attributes:
        init_log_alpha: logarithm of the variance that learning starts from.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = VariationalGaussianDropout(deterministic=False)
        >>> keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        >>> variables = layer.init(keys, jnp.ones((2, 8)))
        >>> variables["params"]["log_alpha"].shape
        (8,)

    References:
        Kingma, Salimans & Welling, "Variational dropout and the local reparameterization trick",
        2015; Molchanov, Ashukha & Vetrov, "Variational dropout sparsifies deep neural networks",
        2017.
    """

    init_log_alpha: float = -3.0
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    rate = None  # there is no probability of dropping

    def drop(self, key: Any, inputs: Any, deterministic: Any) -> Any:
        start = nn.initializers.constant(self.init_log_alpha)
        log_alpha = self.param("log_alpha", start, inputs.shape[-1:], jnp.float32)
        return functional.variational_gaussian_dropout(
            key, inputs, log_alpha, deterministic=deterministic
        )
