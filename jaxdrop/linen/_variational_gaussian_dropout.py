"""Gaussian noise whose variance is learned."""

import jax.numpy as jnp
from flax import linen as nn

from jaxdrop import functional
from jaxdrop.linen._base import Dropper


class VariationalGaussianDropout(Dropper):
    """Multiplies features by Gaussian noise, of a variance that is learned for each of them.

    The parameter ``log_alpha`` is a float32 vector, of the size of the inputs' last axis. Add
    ``jaxdrop.variational_gaussian_kl`` of it to the loss, divided by the number of examples where
    the loss is a mean.

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

    def drop(self, key, inputs, deterministic):
        start = nn.initializers.constant(self.init_log_alpha)
        log_alpha = self.param("log_alpha", start, inputs.shape[-1:], jnp.float32)
        return functional.variational_gaussian_dropout(
            key, inputs, log_alpha, deterministic=deterministic
        )
