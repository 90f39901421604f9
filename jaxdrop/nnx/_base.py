"""What the classes share: keep a stream, resolve the switch, find the key, call the function."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, dataclass_transform

import jax
import numpy as np
from flax import nnx
from jax import lax

from jaxdrop.functional import _internal
from jaxdrop.masks import _internal as masks

_T = TypeVar("_T")


class Settable(nnx.Module):
    """A module whose numbers may be set to arrays, traced or not: ``model.drop.rate = rate``."""

    def __setattr__(self, name: str, value: Any) -> None:
        # What was set to a number is static, and Flax compares static values with ``==``.
        is_array = isinstance(value, jax.Array | np.ndarray)
        super().__setattr__(name, nnx.data(value) if is_array else value)


class Dropper(Settable):
    """A module with a stream of keys of its own, whose call is that of ``function``.

    The attributes that the function names are its keyword arguments.
    """

    function: ClassVar[Callable[..., Any]]
    mc_role: ClassVar[_internal.Role] = "drops"
    rng_collection: str

    def fork(self, rngs: Any) -> None:
        """Keeps a stream of its own, forked from the given one."""
        if isinstance(rngs, nnx.Rngs):
            self.rngs = rngs[self.rng_collection].fork()
        elif isinstance(rngs, nnx.RngStream):
            self.rngs = rngs.fork()
        elif rngs is None:
            self.rngs = nnx.data(None)
        else:
            raise TypeError(
                f"rngs must be a Rngs, RngStream or None, but got {type(rngs)}. "
                "Write rngs=nnx.Rngs(0)."
            )

    def __call__(self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None) -> Any:
        """Drops from ``inputs``.

        Args:
            inputs: array of the shape that the class names.
            deterministic: overrides the constructor's for this call.
            rngs: key, stream or ``nnx.Rngs`` to use instead of the module's own stream.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        return self.call(deterministic, rngs, inputs)

    def call(self, deterministic: Any, rngs: Any, *inputs: Any) -> Any:
        """What ``__call__`` does, for a class that documents its own."""
        flag = self.resolve(deterministic)
        return self.drop(find_key(self, flag, rngs), *inputs, deterministic=flag)

    def resolve(self, deterministic: Any) -> Any:
        """The flag of a call, from its argument and the attribute."""
        return resolve(self, deterministic)

    def drop(self, *args: Any, **kwargs: Any) -> Any:
        """``drop(key, *inputs, deterministic=flag)``: what the call gives, once both are known."""
        return _internal.forward(type(self).function, self, *args, **kwargs)


@dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
def layer(cls: type[_T]) -> type[_T]:
    """Makes a dataclass of a module: its fields are arguments by name."""
    return dataclasses.dataclass(eq=False, repr=False, kw_only=True)(cls)


@layer
class Switchable(Dropper):
    """A `Dropper` that ``train()``, ``eval()`` and ``nnx.view`` switch on and off."""

    deterministic: bool | None = False
    rng_collection: str = "dropout"
    rngs: dataclasses.InitVar[nnx.Rngs | nnx.RngStream | None] = None

    def __post_init__(self, rngs: Any) -> None:
        self.fork(rngs)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Class method used by ``nnx.view``.

        Args:
            deterministic: if true, inputs pass unchanged.
        """
        if deterministic is not None:
            self.deterministic = deterministic


@layer
class Layer(Switchable):
    """A `Switchable` with a rate, its one argument by place."""

    rate: float = dataclasses.field(kw_only=False)


class Wrapper(Switchable):
    """A module that runs another one."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *args: Any, deterministic: bool | None = None, rngs: Any = None, **kwargs: Any
    ) -> Any:
        """Calls the wrapped module, if the class does not skip it.

        Args:
            *args: arguments of the wrapped module, the one that goes around it first.
            deterministic: overrides the attribute for this call; the wrapped module does not get
                it.
            rngs: key, stream or ``nnx.Rngs`` to use instead of the module's own stream.
            **kwargs: keyword arguments of the wrapped module, handed on as they are.

        Returns:
            What the class makes of the output of the wrapped module.
        """
        flag = self.resolve(deterministic)
        return self.drop(find_key(self, flag, rngs), args, kwargs, deterministic=flag)


def resolve(module: Any, deterministic: Any) -> Any:
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


def find_key(module: Any, deterministic: Any, rngs: Any) -> Any:
    """The key of the call, or one from the stream of the call or of the module; None if unused."""
    if not masks.draws(module.rate, deterministic):
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


def traced_cond(
    flag: Any, first: Callable[..., Any], second: Callable[..., Any], module: nnx.Module
) -> Any:
    """``first(module)`` if a traced flag is true, else ``second(module)``; one of them runs.

    The module is written to only if one of both would change it: the transforms of JAX refuse
    to write, even the same.
    """
    graph, state = nnx.split(module)
    before = {path: variable.get_value() for path, variable in nnx.to_flat_state(state)}

    def run(function: Callable[..., Any]) -> tuple[Any, dict[Any, Any]]:
        copy = nnx.merge(graph, state, copy=True)
        output = function(copy)
        after = dict(nnx.to_flat_state(nnx.state(copy)))
        return output, {path: after[path].get_value() for path in before}

    changed: set[Any] = set()

    def note_changes(function: Callable[..., Any]) -> Any:
        output, after = run(function)
        changed.update(path for path in before if after[path] is not before[path])
        return output

    for function in (first, second):
        jax.eval_shape(lambda function=function: note_changes(function))

    def branch(function: Callable[..., Any]) -> tuple[Any, dict[Any, Any]]:
        output, after = run(function)
        return output, {path: after[path] for path in changed}

    output, after = lax.cond(flag, lambda: branch(first), lambda: branch(second))
    variables = dict(nnx.to_flat_state(state))
    nnx.update(
        module,
        nnx.from_flat_state([(path, variables[path].replace(after[path])) for path in changed]),
    )
    return output


def update_changed(layer: Any, before: Any, after: Any) -> None:
    """Gives the layer what differs: the transforms of JAX refuse to write to it, even the same."""
    values = {path: variable.get_value() for path, variable in nnx.to_flat_state(before)}
    changed = [
        (path, variable)
        for path, variable in nnx.to_flat_state(after)
        if path in values and variable.get_value() is not values[path]
    ]
    nnx.update(layer, nnx.from_flat_state(changed))
