"""A function whose decisions are at their mean, as a program; refused if that is not all it draws.

`masks.tapped` says what a tap is. Every draw of a pass has to be one, in a place where derivatives
by it are taken, and no two may be one decision.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _fingerprint, _jaxpr, _pytrees
from jaxdrop.mc._jaxpr import Draw, Value

# Primitives whose results are their operands, or stand for the same keys.
_SAME = {"copy", "name", "optimization_barrier", "random_clone", "random_unwrap", "random_wrap"}


class Tapped(NamedTuple):
    """A function whose decisions are at their mean.

    Attributes:
        program: of the key and of arrays.
        shapes: of the output, a pytree.
    """

    program: ClosedJaxpr
    shapes: Any

    def run(self, total: jax.Array, key: jax.Array, arrays: Any) -> list[Any]:
        """The leaves of the output; the cotangent of ``total`` for one of an output's elements is
        the variance of the element."""
        return _run(self.program, total, jax.tree.leaves((key, arrays)))


def tapped(fn: Any, key: jax.Array, args: Any, kwargs: Any) -> Tapped:
    """The `Tapped` program of ``fn(key, *args, **kwargs)``.

    Raises:
        ValueError: the output is random in another way than by decisions that can be tapped.
    """
    arrays, static = _pytrees.split((fn, args, kwargs))

    def call(key: jax.Array, arrays: list[Any]) -> Any:
        fn, args, kwargs = _pytrees.join(arrays, static)
        return jax.tree.map(jnp.asarray, fn(key, *args, **kwargs))

    with masks.tapped(True), jax.disable_jit(False):  # disabled, JAX writes out turns of loops
        program, shapes = jax.make_jaxpr(call, return_shape=True)(key, arrays)
    _refuse(program.jaxpr)
    return Tapped(program, shapes)


def _refuse(jaxpr: Jaxpr) -> None:
    walk = _Cut()
    inputs = [Value(key=number == 0) for number in range(len(jaxpr.invars))]
    outputs = walk.outputs(jaxpr, inputs)
    others = [_name(draw) for draw in walk.draws if draw.origin.key and not isinstance(draw, _Tap)]
    if any(value.key for value in outputs):
        raise ValueError(
            "fn: expected a function that is random only by dropout which multiplies or chooses, "
            f"or by Gaussian noise, got one that is also random by {_listed(others) or 'its key'}; "
            "write jaxdrop.mc.predict, which runs passes, or leave these sites out with sites="
        )
    fixed = [_name(draw) for draw in walk.draws if not draw.origin.key and isinstance(draw, _Tap)]
    if fixed:
        raise ValueError(
            "fn: expected a function that draws by its key alone, got one that draws by another "
            f"key, the same in every pass, at {_listed(fixed)}; use the key of the pass"
        )
    keys = _Keys()
    keys.outputs(jaxpr, [keys.new() for _ in jaxpr.invars], ())
    if keys.hidden:
        raise ValueError(
            "fn: expected dropout that JAX differentiates in reverse mode, got some inside a "
            f"while loop or a function with a rule of its own, at {_listed(keys.hidden)}; write "
            "jaxdrop.mc.predict, which runs passes"
        )
    if keys.tied:
        raise ValueError(
            "fn: expected decisions that are drawn once, got the same ones drawn again by the "
            f"same key, at {_listed(keys.tied)}; draw a mask once and apply it several times, as "
            "jaxdrop's recurrent cells do, or write jaxdrop.mc.predict, which runs passes"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _name(draw: Draw) -> str:
    origin = draw.origin
    return origin.site or (origin.owner and origin.owner[0]) or draw.place or "a draw"


class _Tap(Draw):
    """A draw whose decisions are at their mean."""


class _Cut(_jaxpr.Walk):
    """Follows what depends on the key otherwise than by a tap."""

    def leaving(self, equation: JaxprEqn, entering: list[Value]) -> list[Value]:
        if not _is_tap(equation):
            return super().leaving(equation, entering)
        shape = _jaxpr.shape_of(equation.outvars[0])
        key = _of_key(equation, entering, Value())
        if 0 not in shape:
            self.draws.append(_Tap(_jaxpr.place_of(self.around), shape, key, balanced=False))
        return [Value()] * len(equation.outvars)


def _is_tap(equation: JaxprEqn) -> bool:
    # Flax's scan, which traces what is known beforehand on its own, may leave one without results.
    return equation.params.get("name") == masks.TAP and bool(equation.outvars)


def _of_key(equation: JaxprEqn, entering: Sequence[Any], default: Any) -> Any:
    """Of what enters a tap, the word of the key; a partial evaluation may have reordered it."""
    kinds = [jnp.issubdtype(v.aval.dtype, jnp.integer) for v in equation.invars]  # pyright: ignore
    return next((value for value, is_word in zip(entering, kinds) if is_word), default)


def _holds_tap(equation: JaxprEqn) -> bool:
    """Whether an equation is a tap, or has one inside."""
    inner = _jaxpr.programs(equation.params)
    return _is_tap(equation) or any(_holds_tap(e) for program in inner for e in program.eqns)


class _Keys:
    """Numbers the values of a program, so that taps by the same key are seen.

    Values of one number are equal. A value that changes from turn to turn of a loop is varying
    over it; a tap inside a loop whose key is not draws the same decisions in every turn.

    Attributes:
        tied: names of taps whose decisions another one has drawn.
        hidden: names of taps that no derivative reaches.
    """

    def __init__(self) -> None:
        self.tied: list[str] = []
        self.hidden: list[str] = []
        self._numbers: dict[Any, int] = {}
        self._varying: list[frozenset[int]] = []  # for each number, the loops it varies over
        self._seen: set[int] = set()
        self._around: list[JaxprEqn] = []

    def new(self, varying: frozenset[int] = frozenset()) -> int:
        """A number that no value has."""
        self._varying.append(varying)
        return len(self._varying) - 1

    def outputs(self, jaxpr: Jaxpr, inputs: Sequence[int], around: tuple[Any, ...]) -> list[int]:
        """Numbers of the outputs of a program, inside loops and rules."""
        known = dict(zip(jaxpr.invars, inputs))

        def read(variable: Any) -> int:
            if isinstance(variable, Literal):
                return self._number(("literal", str(variable.aval), repr(variable.val)), ())
            return known[variable] if variable in known else self._number(variable, ())

        for equation in jaxpr.eqns:
            entering = [read(variable) for variable in equation.invars]
            self._around.append(equation)
            known.update(zip(equation.outvars, self._leaving(equation, entering, around)))
            self._around.pop()
        return [read(variable) for variable in jaxpr.outvars]

    def _number(self, what: Any, of: Sequence[int]) -> int:
        if what not in self._numbers:
            self._numbers[what] = self.new(frozenset().union(*(self._varying[n] for n in of)))
        return self._numbers[what]

    def _leaving(
        self, equation: JaxprEqn, entering: list[int], around: tuple[Any, ...]
    ) -> list[int]:
        name, params = equation.primitive.name, equation.params
        if _is_tap(equation):
            self._note(equation, _of_key(equation, entering, self.new()), around)
            return [self.new() for _ in equation.outvars]
        if name in _SAME:
            return entering
        if name == "scan":
            return self._scan(equation, entering, around)
        inner = list(_jaxpr.programs(params))
        if len(inner) == 1 and len(inner[0].invars) == len(entering) and name != "while":
            hides = name in _fingerprint.CUSTOM_RULES
            return self.outputs(inner[0], entering, (*around, None) if hides else around)
        varying = frozenset().union(*(self._varying[number] for number in entering))
        if inner:
            entering = entering[1:] if name == "cond" else entering
            for program in inner:
                fits = name == "cond" and len(program.invars) == len(entering)
                inputs = entering if fits else [self.new(varying) for _ in program.invars]
                self.outputs(program, inputs, around if name == "cond" else (*around, None))
            return [self.new(varying) for _ in equation.outvars]
        what = (name, str(sorted(params.items())), *entering)
        places = range(len(equation.outvars))
        return [self._number((what, place), entering) for place in places]

    def _scan(self, equation: JaxprEqn, entering: list[int], around: tuple[Any, ...]) -> list[int]:
        num_consts, num_carry = _jaxpr.scan_sizes(equation)
        body, end = equation.params["jaxpr"].jaxpr, num_consts + num_carry
        varying = frozenset().union(*(self._varying[number] for number in entering))
        loops = around
        if equation.params["length"] > 1:
            loop = self.new()
            loops, varying = (*around, loop), varying | {loop}
        handed = _jaxpr.forwarded(body)
        same = [handed[number] == num_consts + number for number in range(num_carry)]
        inputs = [
            number if place < num_consts or (place < end and same[place - num_consts])
            else self.new(varying)
            for place, number in enumerate(entering)
        ]  # fmt: skip
        self.outputs(body, inputs, loops)
        outside = frozenset().union(*(self._varying[number] for number in entering))
        carries = entering[num_consts:end]
        return [
            carries[place] if place < num_carry and same[place] else self.new(outside)
            for place in range(len(equation.outvars))
        ]

    def _note(self, equation: JaxprEqn, key: int, around: tuple[Any, ...]) -> None:
        name = _jaxpr.place_of(self._around) or "a draw"
        if None in around or len(equation.outvars) != 2:  # its variance is not asked for
            self.hidden.append(name)
        elif key in self._seen or not self._varying[key] >= set(around):
            self.tied.append(name)
        self._seen.add(key)


@jax.custom_vjp
def _gather(total: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
    """The mean of decisions, whose cotangents add up the variance that they make to ``total``."""
    del total, variance
    return mean


def _gather_forward(total: jax.Array, mean: jax.Array, variance: jax.Array) -> tuple[Any, Any]:
    return _gather(total, mean, variance), variance


def _gather_backward(variance: jax.Array, cotangent: jax.Array) -> tuple[Any, ...]:
    return (variance * jnp.square(cotangent)).sum(), None, None


_gather.defvjp(_gather_forward, _gather_backward)


def _run(program: ClosedJaxpr, total: jax.Array, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of a program whose taps gather to ``total``."""
    jaxpr = program.jaxpr
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, program.consts))
    known.update(zip(jaxpr.invars, inputs))
    for equation in jaxpr.eqns:
        entering = [v.val if isinstance(v, Literal) else known[v] for v in equation.invars]
        with equation.ctx.manager:
            known.update(zip(equation.outvars, _step(equation, total, entering)))
    return [v.val if isinstance(v, Literal) else known[v] for v in jaxpr.outvars]


def _step(equation: JaxprEqn, total: jax.Array, entering: list[Any]) -> Sequence[Any]:
    """The results of an equation."""
    name, params = equation.primitive.name, equation.params
    if not _holds_tap(equation):
        results = equation.primitive.bind(*entering, **equation.primitive.get_bind_params(params))
        return results if equation.primitive.multiple_results else [results]
    if _is_tap(equation):
        mean, variance = jax.jit(jaxpr_as_fun(params["jaxpr"]))(*entering)
        return [_gather(total, mean, variance), variance]

    def runner(program: Any) -> Any:
        closed = program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ())
        return lambda *inputs: _run(closed, total, inputs)

    if name == "cond":
        return jax.lax.switch(entering[0], list(map(runner, params["branches"])), *entering[1:])
    if name == "scan":
        num_consts, num_carry = _jaxpr.scan_sizes(equation)
        body, end = runner(params["jaxpr"]), num_consts + num_carry

        def turn(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
            results = body(*entering[:num_consts], *carry, *slices)
            return results[:num_carry], results[num_carry:]

        options = {option: params[option] for option in ("length", "reverse", "unroll")}
        carry, stacks = jax.lax.scan(turn, entering[num_consts:end], entering[end:], **options)
        return [*carry, *stacks]
    (inner,) = (v for v in params.values() if isinstance(v, ClosedJaxpr | Jaxpr))
    if "prevent_cse" in params:
        options = {option: params[option] for option in ("prevent_cse", "policy")}
        return jax.checkpoint(runner(inner), **options)(*entering)
    return runner(inner)(*entering)
