"""Dropout of attention weights."""

from collections.abc import Sequence

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable


class AttentionDropout(Switchable):
    """Drops attention weights, independently for each example, head, query and key.

    Args:
        rate: probability of dropping, in [0, 1].
        broadcast_dims: axes that share one decision.
        renormalize: if true, rows sum to 1 again; else the mean over keys is the input.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = AttentionDropout(0.1, renormalize=True, rngs=nnx.Rngs(0))
        >>> y = layer(jax.nn.softmax(jnp.ones((2, 4, 8, 8))))
        >>> bool(jnp.allclose(y.sum(-1), 1))
        True

    References:
        Vaswani et al., "Attention is all you need", 2017, section 5.4; Lin et al., "DropAttention:
        a regularization method for fully-connected self-attention networks", 2019.
    """

    def __init__(
        self,
        rate: float,
        *,
        broadcast_dims: Sequence[int] = (),
        renormalize: bool = False,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)
        self.broadcast_dims = broadcast_dims
        self.renormalize = renormalize

    def drop(self, key, inputs, deterministic):
        return functional.attention_dropout(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            broadcast_dims=self.broadcast_dims,
            renormalize=self.renormalize,
        )
