"""Dropout of whole layers, which cost nothing where they are dropped."""

from typing import Any

from flax import nnx

from jaxdrop.functional import _layer_drop
from jaxdrop.nnx._wrap import Wrapper, either


class LayerDrop(Wrapper):
    """Runs a whole block, its residual connection included, or skips it and returns its input.

    A block that is skipped is not computed, and changes nothing of its own. Further arguments of a
    call go to the block.

    Args:
        block: module whose output is like its first input.
        rate: probability of skipping, in [0, 1]; a scalar.
        rescale: if true, a block that runs is rescaled as in `layer_drop`; the paper does not.
        deterministic: if true, the block runs; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = LayerDrop(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), 0.5, rngs=nnx.Rngs(1))
        >>> x = jnp.ones((8, 4))
        >>> len({layer(x).tobytes() for _ in range(20)})  # the block's, and x
        2

    References:
        Fan et al., "Reducing transformer depth on demand with structured dropout", 2020, section
        3.2.
    """

    def __init__(
        self,
        block: nnx.Module,
        rate: Any,
        *,
        rescale: bool = False,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)
        self.block = block
        self.rescale = rescale

    def drop(self, key, args, kwargs, deterministic):
        x, *others = args

        def call(block, x):
            return block(x, *others, **kwargs)

        return _layer_drop.run_or_skip(
            key, self.block, x, self.rate, deterministic, self.rescale, call=call, either=either
        )
