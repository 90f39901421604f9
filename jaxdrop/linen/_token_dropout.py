"""Dropout of tokens that really leaves them out, so that what follows costs less."""

from jaxdrop import functional
from jaxdrop.linen._base import Dropper


class TokenDropout(Dropper):
    """Leaves out a share of the tokens of each example; returns the pair ``(kept, indices)``.

    Attributes:
        rate: share of the tokens behind the prefix to leave out, in [0, 1], a Python number.
        num_prefix_tokens: number of tokens at the start that are always kept.
        ordered: whether the kept tokens stand in the order that they had.
        deterministic: if true, all tokens are kept; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = TokenDropout(0.5, num_prefix_tokens=1, deterministic=False)
        >>> x = jnp.ones((2, 9, 4))
        >>> kept, indices = layer.apply({}, x, rngs={"dropout": jax.random.key(0)})
        >>> kept.shape, indices.shape
        ((2, 5, 4), (2, 5))

    References:
        Liu et al., "PatchDropout: economizing vision transformers using patch dropout", 2022.
    """

    rate: float
    num_prefix_tokens: int = 0
    ordered: bool = True
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    rate_decides_shapes = True

    def drop(self, key, inputs, deterministic):
        return functional.token_dropout(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            num_prefix_tokens=self.num_prefix_tokens,
            ordered=self.ordered,
        )
