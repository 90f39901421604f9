"""Dropout of the weights of a layer."""

from collections.abc import Callable
from typing import Any

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Wrapper, update_changed


class DropConnect(Wrapper):
    """Runs any layer with weights dropped at random, anew in each call.

    The parameters of the layer are never changed. What else the layer changes in its call, such as
    the statistics of a BatchNorm or the counts of its streams, changes as without dropout, but
    variables that the call adds are lost. The weights serve the whole batch of the call.

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

    References:
        Wan et al., "Regularization of neural networks using DropConnect", 2013, eq. 4.
    """

    def __init__(
        self,
        layer: nnx.Module,
        rate: float,
        *,
        where: Callable[[tuple, Any], bool] | None = None,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)
        self.layer = layer
        self.where = where

    def drop(self, key, args, kwargs, deterministic):
        if deterministic is True:
            return self.layer(*args, **kwargs)
        graph, params, others = nnx.split(self.layer, nnx.Param, ...)
        dropped = functional.drop_connect(
            key,
            nnx.to_pure_dict(params),
            self.rate,
            deterministic=deterministic,
            where=self.where,
        )
        nnx.replace_by_pure_dict(params, dropped)
        copy = nnx.merge(graph, params, others, copy=True)
        output = copy(*args, **kwargs)
        update_changed(self.layer, others, nnx.state(copy, nnx.Not(nnx.Param)))
        return output
