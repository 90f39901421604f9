"""What the classes share: resolve the switch, find the key, call the function."""

from typing import Any

import jax
from flax import linen as nn

from jaxdrop.functional import _drop

# What an adapter of floor 4 has decided for dropout modules while one is at work, else None. jit
# finds a function by it, too: a part of the model may have been compiled for other decisions.
adapted = jax.make_user_context(default_value=None)


class Dropper(nn.Module):
    """A module with the fields ``rate``, ``deterministic`` and ``rng_collection``."""

    rate_decides_shapes = False  # or it cannot be another one in a program

    @nn.compact
    def __call__(self, inputs, deterministic: bool | None = None, rng: Any = None):
        """Drops from ``inputs``.

        Args:
            inputs: floating or complex array, of the shape that the class describes.
            deterministic: as the field, for this call.
            rng: key to use in place of one from ``rng_collection``.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        flag = self.resolve(deterministic)
        return self.drop(find_key(self, flag, rng), inputs, flag)

    def resolve(self, deterministic):
        """The flag of a call, from its argument and the field."""
        return nn.merge_param("deterministic", self.deterministic, deterministic)  # pyright: ignore

    def drop(self, key, inputs, deterministic):
        """Calls the function of this class with its fields."""
        raise NotImplementedError


def find_key(module, deterministic, rng):
    """The key given in the call, else one of the module's collection; None if none is drawn."""
    if rng is None and _drop.draws(module.rate, deterministic):
        return module.make_rng(module.rng_collection)
    return rng
