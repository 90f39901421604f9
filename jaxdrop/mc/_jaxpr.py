"""Traced programs: their equations, where their values go, and the memory that a pass takes."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from jaxdrop.mc import _pytrees

Value = TypeVar("Value")


def trace(fn: Callable[..., Any], key: Any, args: Any, kwargs: Any) -> Jaxpr:
    """The program of ``fn(key, *args, **kwargs)``, which is not run; its first input is the key.

    Outputs that are not arrays are left out.
    """
    dynamic, static = _pytrees.split((fn, args, kwargs))

    def call(key: Any, dynamic: list[Any]) -> list[Any]:
        fn, args, kwargs = _pytrees.join(dynamic, static)
        return _pytrees.split(fn(key, *args, **kwargs))[0]

    with jax.disable_jit(False):  # disabled, JAX writes out every turn of a loop
        return jax.make_jaxpr(call)(key, dynamic).jaxpr


def programs(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """The programs among the parameters of an equation."""
    for value in params.values():
        for program in value if isinstance(value, tuple | list) else (value,):
            if isinstance(program, ClosedJaxpr):
                yield program.jaxpr
            elif isinstance(program, Jaxpr):
                yield program


def equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Every equation of a program and of all programs inside it, in order."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in programs(equation.params):
            yield from equations(inner)


def working_set(jaxpr: Jaxpr, inputs: Sequence[bool]) -> int:
    """Bytes that the greediest equation among those behind the marked inputs reads and writes.

    Only values that depend on the inputs count. This is about what one more pass side by side adds
    to the memory of a program whose equations run one after the other.
    """
    tainted = {variable for variable, is_marked in zip(jaxpr.invars, inputs) if is_marked}
    most = 0
    for equation in jaxpr.eqns:
        entering = [not isinstance(v, Literal) and v in tainted for v in equation.invars]
        if not any(entering):
            continue
        tainted.update(equation.outvars)
        moved = [v for v, is_marked in zip(equation.invars, entering) if is_marked]
        most = max(most, sum(map(_bytes, [*moved, *equation.outvars])))
        for inner in programs(equation.params):
            same = len(inner.invars) == len(entering)
            most = max(most, working_set(inner, entering if same else [True] * len(inner.invars)))
    return most


def _bytes(variable: Any) -> int:
    shape = getattr(variable.aval, "shape", ())
    size = math.prod(n for n in shape if isinstance(n, int))  # a symbol counts as 1
    return size * getattr(getattr(variable.aval, "dtype", None), "itemsize", 4)


class Flow(Generic[Value]):
    """Follows values through a program and the programs inside it, from inputs to outputs.

    A subclass says what is known of a value, and what becomes of it in an equation. Values are
    compared: a loop is followed until its carry no longer changes.
    """

    nothing: Value  # what is known of a constant

    def __init__(self) -> None:
        self.around: list[JaxprEqn] = []  # the equation that is followed, and those around it
        self.found: list[Any] = []  # for a subclass; a loop keeps what its last turn adds

    def plain(self, equation: JaxprEqn, entering: list[Value]) -> list[Value] | None:
        """The outputs of an equation, or None if the programs inside it decide."""
        raise NotImplementedError

    def mixed(self, values: Sequence[Value]) -> Value:
        """What is known of a value that is computed from several."""
        raise NotImplementedError

    def one_of(self, values: Sequence[Value], deciding: Sequence[Value] = ()) -> Value:
        """What is known of a value that is one of several, chosen by others."""
        raise NotImplementedError

    def after_loop(self, carry: Value, leaving: Value) -> Value:
        """What is known of a carry when a loop has ended."""
        del carry
        return leaving

    def slice_of(self, value: Value, loop: JaxprEqn) -> Value:
        """What is known of a slice that a loop takes from a value."""
        del loop
        return value

    def stack_of(self, value: Value, loop: JaxprEqn) -> Value:
        """What is known of the stack of a value of each turn of a loop."""
        del loop
        return value

    def outputs(self, jaxpr: Jaxpr, inputs: Sequence[Value]) -> list[Value]:
        """What is known of the outputs of a program."""
        known, nothing = dict(zip(jaxpr.invars, inputs)), self.nothing

        def read(variable: Any) -> Value:
            return nothing if isinstance(variable, Literal) else known.get(variable, nothing)

        for equation in jaxpr.eqns:
            self.around.append(equation)
            leaving = self._leaving(equation, [read(variable) for variable in equation.invars])
            known.update(zip(equation.outvars, leaving))
            self.around.pop()
        return [read(variable) for variable in jaxpr.outvars]

    def _leaving(self, equation: JaxprEqn, entering: list[Value]) -> list[Value]:
        plain = self.plain(equation, entering)
        if plain is not None:
            return plain
        name, params = equation.primitive.name, equation.params
        if name == "scan":
            return self._scan(equation, entering)
        if name == "while":
            return self._while(params, entering)
        if name == "cond":
            results = [self.outputs(branch.jaxpr, entering[1:]) for branch in params["branches"]]
            return [self.one_of(values, entering[:1]) for values in zip(*results)]
        inner = list(programs(params))
        if len(inner) == 1 and len(inner[0].invars) == len(entering):
            return self.outputs(inner[0], entering)
        # Which operand enters where is not known, so everything meets everything.
        mixed = self.mixed(entering)
        for program in inner:
            self.outputs(program, [mixed] * len(program.invars))
        return [mixed] * len(equation.outvars)

    def _scan(self, equation: JaxprEqn, entering: list[Value]) -> list[Value]:
        num_consts, num_carry = _scan_sizes(equation)
        end = num_consts + num_carry
        slices = [self.slice_of(value, equation) for value in entering[end:]]
        body, carry = equation.params["jaxpr"].jaxpr, entering[num_consts:end]
        leaving = self._loop(body, entering[:num_consts], carry, slices)
        stacks = [self.stack_of(value, equation) for value in leaving[num_carry:]]
        return leaving[:num_carry] + stacks

    def _while(self, params: Mapping[str, Any], entering: list[Value]) -> list[Value]:
        end = params["cond_nconsts"]
        consts, entering = entering[:end], entering[end:]
        end = params["body_nconsts"]
        leaving = self._loop(params["body_jaxpr"].jaxpr, entering[:end], entering[end:], [])
        again = self.outputs(params["cond_jaxpr"].jaxpr, [*consts, *leaving])
        return [self.one_of((value,), again) for value in leaving]

    def _loop(
        self, body: Jaxpr, consts: list[Value], carry: list[Value], slices: list[Value]
    ) -> list[Value]:
        start = len(self.found)
        while True:
            leaving = self.outputs(body, [*consts, *carry, *slices])
            merged = [self.one_of(pair) for pair in zip(carry, leaving)]
            if merged == carry:
                after = [self.after_loop(*pair) for pair in zip(carry, leaving)]
                return after + leaving[len(carry) :]
            carry = merged
            del self.found[start:]


def _scan_sizes(equation: JaxprEqn) -> tuple[int, int]:
    """How many constants and how many carried values a scan has; JAX's own names for it change."""
    body = equation.params["jaxpr"].jaxpr

    def stacked(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        return sum(a.aval.ndim > b.aval.ndim for a, b in zip(outside, inside))

    num_carry = len(equation.outvars) - stacked(equation.outvars, body.outvars)
    slices = stacked(equation.invars, body.invars)
    return len(equation.invars) - slices - num_carry, num_carry


def forwarded(jaxpr: Jaxpr) -> list[int | None]:
    """For each output of a program the number of the input that it is, or None.

    The lifted transforms of Flax hand an unchanged variable on through calls, through the carry of
    a loop, as slices that a loop gives back, and through branches that agree.
    """
    return _Forwarding().outputs(jaxpr, range(len(jaxpr.invars)))


class _Slice(NamedTuple):
    of: Any
    loop: int


class _Forwarding(Flow[Any]):
    """The number of an input, a `_Slice` of one in a loop, or None for any other value."""

    nothing = None

    def plain(self, equation: JaxprEqn, entering: list[Any]) -> list[Any] | None:
        handing_on = equation.primitive.name in ("name", "copy", "copy_p", "optimization_barrier")
        return entering if handing_on else None

    def mixed(self, values: Sequence[Any]) -> None:
        return None

    def one_of(self, values: Sequence[Any], deciding: Sequence[Any] = ()) -> Any:
        return values[0] if all(value == values[0] for value in values) else None

    def after_loop(self, carry: Any, leaving: Any) -> Any:
        # A loop may end before its first turn, which then has not overwritten the carry.
        return self.one_of((carry, leaving))

    def slice_of(self, value: Any, loop: JaxprEqn) -> _Slice | None:
        return None if value is None else _Slice(value, id(loop))

    def stack_of(self, value: Any, loop: JaxprEqn) -> Any:
        is_slice = isinstance(value, _Slice) and value.loop == id(loop)
        return value.of if is_slice else None
