"""What the bodies of the classes share: keep a stream, resolve the switch, find the key."""

from typing import Any

import jax
from flax import nnx

from jaxdrop.functional import _drop


class Dropper(nnx.Module):
    """A module with a rate and a stream of keys of its own, forked from the given one."""

    rate_decides_shapes = False  # or it cannot be another one in a program

    def __init__(self, rate, rng_collection, rngs):
        if rate is not None:  # otherwise the class says what its rate is
            self.rate = rate
        self.rng_collection = rng_collection
        if isinstance(rngs, nnx.Rngs):
            self.rngs = rngs[rng_collection].fork()
        elif isinstance(rngs, nnx.RngStream):
            self.rngs = rngs.fork()
        elif rngs is None:
            self.rngs = nnx.data(None)
        else:
            raise TypeError(
                f"rngs must be a Rngs, RngStream or None, but got {type(rngs)}. "
                "Write rngs=nnx.Rngs(0)."
            )

    def __call__(self, inputs, *, deterministic: bool | None = None, rngs: Any = None):
        """Drops from ``inputs``.

        Args:
            inputs: floating or complex array, of the shape that the class describes.
            deterministic: overrides the constructor's for this call.
            rngs: key, stream or ``nnx.Rngs`` to use in place of the module's own stream.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        flag = self.resolve(deterministic)
        return self.drop(find_key(self, flag, rngs), inputs, flag)

    def resolve(self, deterministic):
        """The flag of a call, from its argument and the attribute."""
        return resolve(self, deterministic)

    def drop(self, key, inputs, deterministic):
        """Calls the function of this class with its attributes."""
        raise NotImplementedError


class Switchable(Dropper):
    """A `Dropper` that ``train()``, ``eval()`` and ``nnx.view`` switch on and off."""

    def __init__(self, rate, deterministic, rng_collection, rngs):
        super().__init__(rate, rng_collection, rngs)
        self.deterministic = deterministic

    def set_view(self, deterministic: bool | None = None):
        """Class method used by ``nnx.view``.

        Args:
            deterministic: if true, inputs pass unchanged.
        """
        if deterministic is not None:
            self.deterministic = deterministic


def resolve(module, deterministic):
    """The flag of this call: its argument, else the module's attribute."""
    if deterministic is None:
        deterministic = module.deterministic
    if deterministic is None:
        name = type(module).__name__
        raise ValueError(
            f"No `deterministic` argument was provided to {name}: expected True or False, got "
            f"None. Write nnx.view(model, deterministic=True/False), or pass `deterministic` to "
            f"the {name} constructor or to its call."
        )
    return deterministic


def find_key(module, deterministic, rngs):
    """The key of the call, or one from the stream of the call or of the module; None if unused."""
    if not _drop.draws(module.rate, deterministic):
        return None
    rngs = module.rngs if rngs is None else rngs
    if rngs is None:
        name = type(module).__name__
        raise ValueError(
            f"`deterministic` is False, but no `rngs` argument was provided to {name} as either "
            f"a __call__ argument or class attribute. Write {name}(..., rngs=nnx.Rngs(0)), or "
            "pass a key: layer(x, rngs=jax.random.key(0))."
        )
    if isinstance(rngs, nnx.Rngs):
        return rngs[module.rng_collection]()
    if isinstance(rngs, nnx.RngStream):
        return rngs()
    if isinstance(rngs, jax.Array):
        return rngs
    raise TypeError(
        f"rngs must be a Rngs, RngStream or jax.Array, but got {type(rngs)}. "
        "Write rngs=nnx.Rngs(0), or pass a key: rngs=jax.random.key(0)."
    )
