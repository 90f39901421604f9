"""What the classes share that run another module for some calls, or some examples."""

from typing import Any

import jax
from flax import nnx
from jax import lax
from jax.core import Tracer

from jaxdrop.nnx._base import Switchable, find_key


class Wrapper(Switchable):
    """A module that runs another one."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *args: Any, deterministic: bool | None = None, rngs: Any = None, **kwargs: Any
    ):
        """Calls the wrapped module, or not.

        Args:
            *args: arguments of the wrapped module, the one that goes around it first.
            deterministic: overrides the attribute for this call; the wrapped module does not get
                it.
            rngs: key, stream or ``nnx.Rngs`` to use in place of the module's own stream.
            **kwargs: keyword arguments of the wrapped module, handed on as they are.

        Returns:
            Array or pytree like the first argument.
        """
        flag = self.resolve(deterministic)
        return self.drop(find_key(self, flag, rngs), args, kwargs, deterministic=flag)

    def drop(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key, args, kwargs, deterministic
    ):
        raise NotImplementedError


def either(flag, first, second, module):
    """``first(module)`` where the flag is true, else ``second(module)``; one of them runs.

    The module is written to only where one of both would change it: the transforms of JAX refuse
    to write, even the same.
    """
    if not isinstance(flag, Tracer):
        return first(module) if flag else second(module)
    graph, state = nnx.split(module)
    before = {path: variable.get_value() for path, variable in nnx.to_flat_state(state)}

    def run(function):
        copy = nnx.merge(graph, state, copy=True)
        output = function(copy)
        after = dict(nnx.to_flat_state(nnx.state(copy)))
        return output, {path: after[path].get_value() for path in before}

    changed = set()

    def note_changes(function):
        output, after = run(function)
        changed.update(path for path in before if after[path] is not before[path])
        return output

    for function in (first, second):
        jax.eval_shape(lambda function=function: note_changes(function))

    def branch(function):
        output, after = run(function)
        return output, {path: after[path] for path in changed}

    output, after = lax.cond(flag, lambda: branch(first), lambda: branch(second))
    variables = dict(nnx.to_flat_state(state))
    nnx.update(
        module,
        nnx.from_flat_state([(path, variables[path].replace(after[path])) for path in changed]),
    )
    return output
