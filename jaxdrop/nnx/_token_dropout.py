"""Dropout of tokens that really leaves them out, so that what follows costs less."""

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable


class TokenDropout(Switchable):
    """Leaves out a share of the tokens of each example; returns the pair ``(kept, indices)``.

    Args:
        rate: share of the tokens behind the prefix to leave out, in [0, 1], a Python number.
        num_prefix_tokens: number of tokens at the start that are always kept.
        ordered: whether the kept tokens stand in the order that they had.
        deterministic: if true, all tokens are kept; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = TokenDropout(0.5, num_prefix_tokens=1, rngs=nnx.Rngs(0))
        >>> kept, indices = layer(jnp.ones((2, 9, 4)))
        >>> kept.shape, indices.shape
        ((2, 5, 4), (2, 5))

    References:
        Liu et al., "PatchDropout: economizing vision transformers using patch dropout", 2022.
    """

    rate_decides_shapes = True

    def __init__(
        self,
        rate: float,
        *,
        num_prefix_tokens: int = 0,
        ordered: bool = True,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)
        self.num_prefix_tokens = num_prefix_tokens
        self.ordered = ordered

    def drop(self, key, inputs, deterministic):
        return functional.token_dropout(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            num_prefix_tokens=self.num_prefix_tokens,
            ordered=self.ordered,
        )
