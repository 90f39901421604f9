"""Dropout of whole layers, which cost nothing where they are dropped."""

from typing import Any

from flax import linen as nn

from jaxdrop.functional import _layer_drop
from jaxdrop.linen._wrap import Wrapper, either


class LayerDrop(Wrapper):
    """Runs a whole block, its residual connection included, or skips it and returns its input.

    The parameters are those of the block, under the name ``block`` or, if it is made in a
    compact model, its own; initialising skips nothing.
    A block that is skipped is not computed. One whose call makes new variables, such as sown ones,
    cannot be skipped in a compiled program. Further arguments of a call go to the block.

    Attributes:
        block: module whose output is like its first input.
        rate: probability of skipping, in [0, 1]; a scalar.
        rescale: if true, a block that runs is rescaled as in `layer_drop`; the paper does not.
        deterministic: if true, the block runs; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = LayerDrop(nn.Dense(4), 0.5, deterministic=False)
        >>> x = jnp.ones((8, 4))
        >>> variables = layer.init(jax.random.key(0), x)
        >>> layer.apply(variables, x, rngs={"dropout": jax.random.key(1)}).shape
        (8, 4)

    References:
        Fan et al., "Reducing transformer depth on demand with structured dropout", 2020, section
        3.2.
    """

    block: nn.Module
    rate: Any
    rescale: bool = False
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def drop(self, key, args, kwargs, deterministic):
        x, *others = args

        def call(block, x):
            return block(x, *others, **kwargs)

        return _layer_drop.run_or_skip(
            key, self.block, x, self.rate, deterministic, self.rescale, call=call, either=either
        )
