"""Dropout of the weights of a layer."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from jaxdrop import functional
from jaxdrop.linen._base import Dropper, find_key


class DropConnect(Dropper):
    """Runs any layer with weights dropped at random, anew in each call.

    The parameters are those of the layer, under the name ``layer``, and never changed;
    initialising drops nothing. The weights serve the whole batch of the call.

    Attributes:
        layer: module whose parameters are dropped from.
        rate: probability of dropping, in [0, 1].
        where: ``where(path, leaf)`` says whether a parameter of the layer is dropped from, by its
            path inside the layer, such as ``("kernel",)``; None chooses every floating one, biases
            among them.
        deterministic: if true, the layer runs as it is; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = DropConnect(nn.Dense(8), 0.5, deterministic=False)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> jax.tree.map(jnp.shape, variables["params"])
        {'layer': {'bias': (8,), 'kernel': (4, 8)}}
        >>> rngs = {"dropout": jax.random.key(1)}
        >>> layer.apply(variables, jnp.ones((2, 4)), rngs=rngs).shape
        (2, 8)

    References:
        Wan et al., "Regularization of neural networks using DropConnect", 2013, eq. 4.
    """

    layer: nn.Module
    rate: float
    where: Callable[[tuple, Any], bool] | None = None
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *args: Any, deterministic: bool | None = None, rng: Any = None, **kwargs: Any
    ):
        """Calls the layer.

        Args:
            *args: arguments of the layer.
            deterministic: as the field, for this call; the layer does not get it.
            rng: key to use in place of one from ``rng_collection``.
            **kwargs: keyword arguments of the layer.

        Returns:
            What the layer returns.
        """
        flag = self.resolve(deterministic)
        key = None if self.is_initializing() else find_key(self, flag, rng)
        return self.drop(key, args, kwargs, flag)

    def drop(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key, args, kwargs, deterministic
    ):
        def dropped(variables):
            return {
                "params": functional.drop_connect(
                    key,
                    variables["params"],
                    self.rate,
                    deterministic=deterministic,
                    where=self.where,
                )
            }

        def call(layer):
            return layer(*args, **kwargs)

        if not (self.is_initializing() or deterministic is True):
            call = nn.map_variables(call, "params", trans_in_fn=dropped)
        return call(self.layer)
