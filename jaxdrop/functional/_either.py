"""One of two ways, at run time: only that one is computed."""

from jax import lax
from jax.core import Tracer


def either(flag, first, second, branch):
    """``first(branch)`` where the flag is true, else ``second(branch)``; one of them runs."""
    if not isinstance(flag, Tracer):
        return first(branch) if flag else second(branch)
    return lax.cond(flag, lambda: first(branch), lambda: second(branch))
