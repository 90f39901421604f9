"""Dropout of the weights of a layer."""

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Wrapper, layer, update_changed

__all__ = ["DropConnect"]


@layer
class DropConnect(Wrapper):
    """Runs any layer with weights dropped at random, again in each call.

    The parameters of the layer are never changed. What else the layer changes in its call, such as
    the statistics of a BatchNorm or the counts of its streams, changes as without dropout, but
    variables that the call adds are lost. The weights serve the whole batch of the call. See
    `jaxdrop.drop_connect` for the paper.

    Args:
        layer: module whose ``nnx.Param`` variables are dropped from.
        rate: probability of dropping, in [0, 1].
        where: ``where(path, leaf)`` says whether a parameter of the layer is dropped from, by its
            path inside the layer, such as ``("kernel",)``; None chooses every floating one, biases
            among them.
        deterministic: if true, the layer runs as it is; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = DropConnect(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), 0.5, rngs=nnx.Rngs(1))
        >>> x = jnp.ones((2, 4))
        >>> bool((layer(x) == layer(x)).all())
        False
    """

    layer: nnx.Module = dataclasses.field(kw_only=False)
    rate: float = dataclasses.field(kw_only=False)
    where: Callable[[tuple[Any, ...], Any], bool] | None = None

    def drop(self, key: Any, args: Any, kwargs: Any, deterministic: Any) -> Any:
        if deterministic is True:
            return self.layer(*args, **kwargs)
        graph, params, others = nnx.split(self.layer, nnx.Param, ...)
        values = nnx.to_pure_dict(params)
        dropped = functional.drop_connect(
            key, values, self.rate, deterministic=deterministic, where=self.where
        )
        nnx.replace_by_pure_dict(params, dropped)
        copy = nnx.merge(graph, params, others, copy=True)
        output = copy(*args, **kwargs)
        update_changed(self.layer, others, nnx.state(copy, nnx.Not(nnx.Param)))
        return output
