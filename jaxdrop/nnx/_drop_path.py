"""Dropout of residual branches."""

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable


class DropPath(Switchable):
    """Drops whole examples of a residual branch: stochastic depth.

    Args:
        rate: probability of dropping, in [0, 1].
        mode: ``"row"`` decides for each example, ``"batch"`` once for all.
        batch_axis: axis of the inputs that counts examples.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = DropPath(0.5, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.ones((8, 3)))
        >>> bool((y == y[:, :1]).all())
        True

    References:
        Huang et al., "Deep networks with stochastic depth", 2016, eq. 2.
    """

    def __init__(
        self,
        rate: float,
        *,
        mode: str = "row",
        batch_axis: int = 0,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)
        self.mode = mode
        self.batch_axis = batch_axis

    def drop(self, key, inputs, deterministic):
        return functional.drop_path(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            mode=self.mode,
            batch_axis=self.batch_axis,
        )
