"""What the classes share that run another module for some calls, or some examples."""

from typing import Any

from flax import linen as nn
from jax.core import Tracer

from jaxdrop.linen._base import Dropper, find_key


class Wrapper(Dropper):
    """A module that runs another one; while parameters are made, it runs as it is."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *args: Any, deterministic: bool | None = None, rng: Any = None, **kwargs: Any
    ):
        """Calls the wrapped module, or not.

        Args:
            *args: arguments of the wrapped module, the one that goes around it first.
            deterministic: as the field, for this call; the wrapped module does not get it.
            rng: key to use in place of one from ``rng_collection``.
            **kwargs: keyword arguments of the wrapped module, handed on as they are.

        Returns:
            Array or pytree like the first argument.
        """
        flag = self.resolve(deterministic)
        key = None if self.is_initializing() else find_key(self, flag, rng)
        return self.drop(key, args, kwargs, deterministic=self.is_initializing() or flag)

    def drop(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key, args, kwargs, deterministic
    ):
        raise NotImplementedError


def either(flag, first, second, module):
    """``first(module)`` where the flag is true, else ``second(module)``; one of them runs."""
    if not isinstance(flag, Tracer):
        return first(module) if flag else second(module)
    return nn.cond(flag, first, second, module)
