"""What the classes share: resolve the switch, find the key, call the function."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
from flax import linen as nn

from jaxdrop.functional import _internal
from jaxdrop.masks import _internal as masks

# What an adapter of mc has decided for dropout modules while one is at work, else None. jit
# finds a function by it, too: a part of the model may have been compiled for other decisions.
adapted = jax.make_user_context(default_value=None)


class Dropper(nn.Module):
    """A module with the fields ``rate``, ``deterministic`` and ``rng_collection``.

    Its call is that of ``function``, with the other fields as keyword arguments.
    """

    function: ClassVar[Callable[..., Any]]
    mc_role: ClassVar[_internal.Role] = "drops"

    @nn.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Any:
        """Drops from ``inputs``.

        Args:
            inputs: array of the shape that the class names.
            deterministic: as the field, for this call.
            rng: key to use instead of one from ``rng_collection``.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        return self.call(deterministic, rng, inputs)

    def call(self, deterministic: Any, rng: Any, *inputs: Any) -> Any:
        """What ``__call__`` does, for a class that documents its own."""
        flag = self.resolve(deterministic)
        return self.drop(find_key(self, flag, rng), *inputs, deterministic=flag)

    def resolve(self, deterministic: Any) -> Any:
        """The flag of a call, from its argument and the field."""
        return nn.merge_param("deterministic", self.deterministic, deterministic)  # pyright: ignore

    def drop(self, *args: Any, **kwargs: Any) -> Any:
        """``drop(key, *inputs, deterministic=flag)``: what the call gives, once both are known."""
        return _internal.forward(type(self).function, self, *args, **kwargs)


def find_key(module: Any, deterministic: Any, rng: Any) -> Any:
    """The key given in the call, else one of the module's collection; None if none is drawn."""
    if rng is None and masks.draws(module.rate, deterministic):
        return module.make_rng(module.rng_collection)
    return rng


class Wrapper(Dropper):
    """A module that runs another one; while parameters are made, it runs as it is."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *args: Any, deterministic: bool | None = None, rng: Any = None, **kwargs: Any
    ) -> Any:
        """Calls the wrapped module, if the class does not skip it.

        Args:
            *args: arguments of the wrapped module, the one that goes around it first.
            deterministic: as the field, for this call; the wrapped module does not get it.
            rng: key to use instead of one from ``rng_collection``.
            **kwargs: keyword arguments of the wrapped module, handed on as they are.

        Returns:
            What the class makes of the output of the wrapped module.
        """
        flag = self.resolve(deterministic)
        key = None if self.is_initializing() else find_key(self, flag, rng)
        return self.drop(key, args, kwargs, deterministic=self.is_initializing() or flag)
