"""Dropout of the weights of a layer."""

from collections.abc import Callable
from typing import Any

from flax import nnx

from jaxdrop import functional
from jaxdrop.nnx._base import Switchable, find_key


class DropConnect(Switchable):
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

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *args: Any, deterministic: bool | None = None, rngs: Any = None, **kwargs: Any
    ):
        """Calls the layer.

        Args:
            *args: arguments of the layer.
            deterministic: overrides the attribute for this call; the layer does not get it.
            rngs: key, stream or ``nnx.Rngs`` to use in place of the module's own stream.
            **kwargs: keyword arguments of the layer.

        Returns:
            What the layer returns.
        """
        flag = self.resolve(deterministic)
        return self.drop(find_key(self, flag, rngs), args, kwargs, flag)

    def drop(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key, args, kwargs, deterministic
    ):
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


def update_changed(layer, before, after):
    """Gives the layer what differs: the transforms of JAX refuse to write to it, even the same."""
    values = {path: variable.get_value() for path, variable in nnx.to_flat_state(before)}
    changed = [
        (path, variable)
        for path, variable in nnx.to_flat_state(after)
        if path in values and variable.get_value() is not values[path]
    ]
    nnx.update(layer, nnx.from_flat_state(changed))
