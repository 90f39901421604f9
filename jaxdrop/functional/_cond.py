"""One of two ways: chosen now if the flag is known, else at run time; only that one is computed."""

from collections.abc import Callable
from typing import Any

from jax import lax
from jax.core import Tracer

Branch = Callable[[Any], Any]


def _closed_cond(flag: Any, first: Branch, second: Branch, operand: Any) -> Any:
    # The operand, such as a function, need not be a pytree of arrays.
    return lax.cond(flag, lambda: first(operand), lambda: second(operand))


def cond(
    flag: Any,
    first: Branch,
    second: Branch,
    operand: Any,
    traced: Callable[..., Any] = _closed_cond,
) -> Any:
    """``first(operand)`` where the flag is true, else ``second(operand)``.

    Args:
        flag: boolean; None counts as False.
        first: one way.
        second: the other one.
        operand: what both take.
        traced: ``traced(flag, first, second, operand)`` for a flag that is not known now: the
            conditional of a framework whose modules are the operand.
    """
    if not isinstance(flag, Tracer):
        return first(operand) if flag else second(operand)
    return traced(flag, first, second, operand)
