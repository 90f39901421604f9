"""Dropout of residual branches."""

from jaxdrop import functional
from jaxdrop.linen._base import Dropper


class DropPath(Dropper):
    """Drops whole examples of a residual branch: stochastic depth.

    Attributes:
        rate: probability of dropping, in [0, 1].
        mode: ``"row"`` decides for each example, ``"batch"`` once for all.
        batch_axis: axis of the inputs that counts examples.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = DropPath(0.5, deterministic=False)
        >>> y = layer.apply({}, jnp.ones((8, 3)), rngs={"dropout": jax.random.key(0)})
        >>> bool((y == y[:, :1]).all())
        True

    References:
        Huang et al., "Deep networks with stochastic depth", 2016, eq. 2.
    """

    rate: float
    mode: str = "row"
    batch_axis: int = 0
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def drop(self, key, inputs, deterministic):
        return functional.drop_path(
            key,
            inputs,
            self.rate,
            deterministic=deterministic,
            mode=self.mode,
            batch_axis=self.batch_axis,
        )
