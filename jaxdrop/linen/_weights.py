"""Dropout of the weights of a layer."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from jaxdrop import functional
from jaxdrop.linen._base import Wrapper

__all__ = ["DropConnect"]


class DropConnect(Wrapper):
    """Runs any layer with weights dropped at random, again in each call.

    The parameters are those of the layer, under the name ``layer``, and never changed; initialising
    drops nothing. The weights serve the whole batch of the call. See `jaxdrop.drop_connect` for the
    paper.

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
    """

    layer: nn.Module
    rate: float
    where: Callable[[tuple[Any, ...], Any], bool] | None = None
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def drop(self, key: Any, args: Any, kwargs: Any, deterministic: Any) -> Any:
        def dropped(variables: Any) -> Any:
            params = variables["params"]
            params = functional.drop_connect(
                key, params, self.rate, deterministic=deterministic, where=self.where
            )
            return {"params": params}

        def call(layer: Any) -> Any:
            return layer(*args, **kwargs)

        if deterministic is not True:
            call = nn.map_variables(call, "params", trans_in_fn=dropped)
        return call(self.layer)
