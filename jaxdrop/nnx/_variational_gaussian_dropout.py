"""Gaussian noise whose variance is learned."""

import jax.numpy as jnp
from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable


class VariationalGaussianDropout(Switchable):
    """Multiplies features by Gaussian noise, of a variance that is learned for each of them.

    The parameter ``log_alpha`` is a float32 vector. Add ``jaxdrop.variational_gaussian_kl`` of it
    to the loss, divided by the number of examples where the loss is a mean.

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
    ):
        super().__init__(None, deterministic, rng_collection, rngs)
        self.log_alpha = nnx.Param(jnp.full((num_features,), init_log_alpha, jnp.float32))

    def drop(self, key, inputs, deterministic):
        return functional.variational_gaussian_dropout(
            key, inputs, self.log_alpha[...], deterministic=deterministic
        )
