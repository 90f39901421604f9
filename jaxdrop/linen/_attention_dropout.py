"""Dropout of attention weights."""

from collections.abc import Sequence

from jaxdrop import functional
from jaxdrop.linen._base import Dropper


class AttentionDropout(Dropper):
    """Drops attention weights, independently for each example, head, query and key.

    Attributes:
        rate: probability of dropping, in [0, 1].
        broadcast_dims: axes that share one decision.
        renormalize: if true, rows sum to 1 again; else the mean over keys is the input.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = AttentionDropout(0.1, renormalize=True, deterministic=False)
        >>> weights = jax.nn.softmax(jnp.ones((2, 4, 8, 8)))
        >>> y = layer.apply({}, weights, rngs={"dropout": jax.random.key(0)})
        >>> bool(jnp.allclose(y.sum(-1), 1))
        True

    References:
        Vaswani et al., "Attention is all you need", 2017, section 5.4; Lin et al., "DropAttention:
        a regularization method for fully-connected self-attention networks", 2019.
    """

    rate: float
    broadcast_dims: Sequence[int] = ()
    renormalize: bool = False
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def drop(self, key, inputs, deterministic):
        return functional.attention_dropout(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            broadcast_dims=self.broadcast_dims,
            renormalize=self.renormalize,
        )
