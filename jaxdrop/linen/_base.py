"""What the classes share: resolve the switch, find the key, call the function."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
from flax import linen as nn
from jax.core import Tracer

from jaxdrop.functional import _drop
from jaxdrop.functional._modules import Role

# What an adapter of floor 4 has decided for dropout modules while one is at work, else None. jit
# finds a function by it, too: a part of the model may have been compiled for other decisions.
adapted = jax.make_user_context(default_value=None)

_COMMON = {"rate", "deterministic", "rng_collection", "parent", "name"}


class Dropper(nn.Module):
    """A module with the fields ``rate``, ``deterministic`` and ``rng_collection``.

    Its call is that of ``function``, with the other fields as keyword arguments.
    """

    function: ClassVar[Callable[..., Any]]
    mc_role: ClassVar[Role] = "drops"

    @nn.compact
    def __call__(self, inputs, deterministic: bool | None = None, rng: Any = None):
        """Drops from ``inputs``.

        Args:
            inputs: array of the shape that the class names.
            deterministic: as the field, for this call.
            rng: key to use in place of one from ``rng_collection``.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        return self.call(inputs, deterministic, rng)

    def call(self, inputs, deterministic, rng):
        """What ``__call__`` does, for a class that documents its own."""
        flag = self.resolve(deterministic)
        return self.drop(find_key(self, flag, rng), inputs, flag)

    def resolve(self, deterministic):
        """The flag of a call, from its argument and the field."""
        return nn.merge_param("deterministic", self.deterministic, deterministic)  # pyright: ignore

    def drop(self, key, inputs, deterministic):
        """Calls the function of this class with its fields."""
        own = {name: getattr(self, name) for name in _own_fields(type(self))}
        return self.function(key, inputs, self.rate, deterministic=deterministic, **own)


@functools.cache
def _own_fields(cls):
    """The fields that the function of a class takes by name."""
    return [field.name for field in dataclasses.fields(cls) if field.name not in _COMMON]


def find_key(module, deterministic, rng):
    """The key given in the call, else one of the module's collection; None if none is drawn."""
    if rng is None and _drop.draws(module.rate, deterministic):
        return module.make_rng(module.rng_collection)
    return rng


class Wrapper(Dropper):
    """A module that runs another one; while parameters are made, it runs as it is."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *args: Any, deterministic: bool | None = None, rng: Any = None, **kwargs: Any
    ):
        """Calls the wrapped module, if the class does not skip it.

        Args:
            *args: arguments of the wrapped module, the one that goes around it first.
            deterministic: as the field, for this call; the wrapped module does not get it.
            rng: key to use in place of one from ``rng_collection``.
            **kwargs: keyword arguments of the wrapped module, handed on as they are.

        Returns:
            What the class makes of the output of the wrapped module.
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
