"""Traced programs: their equations, their random draws, and where their values come from."""

import math
import pathlib
import sysconfig
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax
import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

import jaxdrop
from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _marks, _pytrees

_LIBRARIES = tuple(str(pathlib.Path(str(m.__file__)).parent) for m in (jax, flax, jaxdrop))
_PYTHON = sysconfig.get_paths()["stdlib"]
_PRIMITIVES = {"random_bits", "random_gamma", "rng_bit_generator", "rng_uniform", "threefry2x32"}
_PHILOX = "philox4x32"  # the one program by which this package draws bits
_COUNTER = 4  # words of its input beside those of the key


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
    """Bytes of values depending on the marked inputs that the greediest equation reads and writes.

    This is about what one more pass side by side adds to the memory of a program whose equations
    run one after the other.
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


def shape_of(variable: Any) -> tuple[int, ...]:
    """The shape of a variable of a program."""
    return getattr(variable.aval, "shape", ())


def _bytes(variable: Any) -> int:
    size = math.prod(n for n in shape_of(variable) if isinstance(n, int))  # a symbol counts as 1
    return size * getattr(getattr(variable.aval, "dtype", None), "itemsize", 4)


class Value(NamedTuple):
    """What is known of a value of a program.

    Attributes:
        source: number of the input that it is, a `_Slice` of one inside a loop, or None.
        key: whether it depends on the key of the pass.
        site: path of the site by way of whose key it does so, or None.
        owner: path and kind of the module that has got it as a key of its own, or as one among the
            arguments of its call.
    """

    source: Any = None
    key: bool = False
    site: str | None = None
    owner: tuple[str, str] | None = None


class _Slice(NamedTuple):
    """A slice that a loop takes from the input that is the source ``of`` it."""

    of: Any
    loop: int


class Draw(NamedTuple):
    """Random bits of a program.

    Attributes:
        place: where they are drawn.
        shape: of them.
        origin: what is known of the key.
        balanced: whether they are decisions, which balanced passes share out.
    """

    place: str
    shape: tuple[int, ...]
    origin: Value
    balanced: bool


def forwarded(jaxpr: Jaxpr) -> list[int | None]:
    """For each output of a program the number of the input that it is, or None.

    The lifted transforms of Flax hand an unchanged variable on through calls, through the carry of
    a loop, as slices that a loop gives back, and through branches that agree.
    """
    inputs = [Value(source=number) for number in range(len(jaxpr.invars))]
    return [value.source for value in Walk().outputs(jaxpr, inputs)]


def handed_on(run: Callable[[Any], Mapping[Any, Any]], values: Mapping[Any, Any]) -> set[Any]:
    """The names under which ``run`` returns what it has got, by `forwarded`."""
    if not values:
        return set()

    def after(values: Mapping[Any, Any]) -> dict[Any, list[Any]]:
        end = run(values)
        return {name: jax.tree.leaves(end[name]) for name in values}

    with jax.disable_jit(False):  # disabled, JAX writes out every turn of a loop
        program, shape = jax.make_jaxpr(after, return_shape=True)(values)
    sources, start, same = iter(forwarded(program.jaxpr)), 0, set[Any]()
    for name in sorted(values):  # as JAX flattens a dict
        end = start + len(jax.tree.leaves(values[name]))
        if [next(sources) for _ in shape[name]] == list(range(start, end)):
            same.add(name)
        start = end
    return same


def draws(jaxpr: Jaxpr) -> tuple[list[Draw], bool]:
    """Every `Draw` of a program, and whether an output depends on its first input, the key."""
    walk = Walk()
    outputs = walk.outputs(jaxpr, [Value(key=number == 0) for number in range(len(jaxpr.invars))])
    return walk.draws, any(value.key for value in outputs)


def _computed(values: Collection[Value]) -> Value:
    """A value that depends on several."""
    return Value(
        None,
        any(value.key for value in values),
        next((value.site for value in values if value.site is not None), None),
        next((value.owner for value in values if value.owner is not None), None),
    )


def _one_of(values: Sequence[Value], deciding: Sequence[Value] = ()) -> Value:
    """A value that is one of several, which others decide."""
    agree = all(value.source == values[0].source for value in values)
    return _computed((*values, *deciding))._replace(source=values[0].source if agree else None)


class Walk:
    """Follows the values of a program, and of the programs inside it, from inputs to outputs."""

    def __init__(self) -> None:
        self.draws: list[Draw] = []
        self.around: list[JaxprEqn] = []  # the equation that is followed, and those around it

    def outputs(self, jaxpr: Jaxpr, inputs: Sequence[Value]) -> list[Value]:
        """The outputs of a program with these inputs."""
        known, constant = dict(zip(jaxpr.invars, inputs)), Value()

        def read(variable: Any) -> Value:
            return constant if isinstance(variable, Literal) else known.get(variable, constant)

        for equation in jaxpr.eqns:
            self.around.append(equation)
            leaving = self.leaving(equation, [read(variable) for variable in equation.invars])
            known.update(zip(equation.outvars, leaving))
            self.around.pop()
        return [read(variable) for variable in jaxpr.outvars]

    def leaving(self, equation: JaxprEqn, entering: list[Value]) -> list[Value]:
        """The outputs of an equation."""
        name, params = equation.primitive.name, equation.params
        computed = _computed(entering)
        if _is_draw(equation):
            shape = shape_of(equation.outvars[0])
            if 0 not in shape:
                balanced = masks.DECISIONS in str(equation.source_info.name_stack)
                self.draws.append(Draw(place_of(self.around), shape, computed, balanced))
            return [computed] * len(equation.outvars)
        if name in ("random_fold_in", "random_wrap"):
            return [_key_made(equation, computed)]
        if name in ("name", "copy", "copy_p", "optimization_barrier"):
            return [computed._replace(source=value.source) for value in entering]
        if name == "scan":
            return self.scan(equation, entering)
        if name == "while":
            return self.while_loop(params, entering)
        if name == "cond":
            results = [self.outputs(branch.jaxpr, entering[1:]) for branch in params["branches"]]
            return [_one_of(values, entering[:1]) for values in zip(*results)]
        inner = list(programs(params))
        if len(inner) == 1 and len(inner[0].invars) == len(entering):
            return self.outputs(inner[0], entering)
        # Which operand enters where is not known, so everything meets everything.
        for program in inner:
            self.outputs(program, [computed] * len(program.invars))
        return [computed] * len(equation.outvars)

    def scan(self, equation: JaxprEqn, entering: list[Value]) -> list[Value]:
        """The outputs of a loop over slices."""
        num_consts, num_carry = scan_sizes(equation)
        end, loop = num_consts + num_carry, id(equation)
        slices = [
            value._replace(source=None if value.source is None else _Slice(value.source, loop))
            for value in entering[end:]
        ]
        body, carry = equation.params["jaxpr"].jaxpr, entering[num_consts:end]
        leaving = self.loop(body, entering[:num_consts], carry, slices)
        # A stack of the slices of a value is that value; of anything else it is a new one.
        for number, value in enumerate(leaving[num_carry:], num_carry):
            whole = isinstance(value.source, _Slice) and value.source.loop == loop
            leaving[number] = value._replace(source=value.source.of if whole else None)
        return leaving

    def while_loop(self, params: Mapping[str, Any], entering: list[Value]) -> list[Value]:
        """The outputs of a loop whose length may depend on something, too."""
        end = params["cond_nconsts"]
        consts, entering = entering[:end], entering[end:]
        end = params["body_nconsts"]
        leaving = self.loop(params["body_jaxpr"].jaxpr, entering[:end], entering[end:], [])
        again = self.outputs(params["cond_jaxpr"].jaxpr, [*consts, *leaving])
        return [_one_of((value,), again) for value in leaving]

    def loop(
        self, body: Jaxpr, consts: list[Value], carry: list[Value], slices: list[Value]
    ) -> list[Value]:
        """The outputs of the last turn of a loop."""
        start = len(self.draws)
        while True:
            leaving = self.outputs(body, [*consts, *carry, *slices])
            merged = [_one_of(pair) for pair in zip(carry, leaving)]
            if merged == carry:  # another turn changes nothing
                # A loop may end before its first turn, which then has not replaced the carry.
                after = [b._replace(source=a.source) for a, b in zip(merged, leaving)]
                return after + leaving[len(carry) :]
            carry = merged
            del self.draws[start:]


def _key_made(equation: JaxprEqn, origin: Value) -> Value:
    """A key that an equation makes, maybe in a scope of an adapter."""
    scopes = str(equation.source_info.name_stack)
    owner = _marks.read_owner(scopes)
    if equation.primitive.name == "random_wrap" and owner is not None:
        return origin._replace(owner=owner, site=None)
    site = _marks.read_site(scopes) if origin.key else None
    return origin if site is None else origin._replace(site=site)


def scan_sizes(equation: JaxprEqn) -> tuple[int, int]:
    """How many constants and how many carried values a scan has; JAX's own names for it change."""
    body = equation.params["jaxpr"].jaxpr

    def stacked(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        return sum(a.aval.ndim > b.aval.ndim for a, b in zip(outside, inside))

    num_carry = len(equation.outvars) - stacked(equation.outvars, body.outvars)
    slices = stacked(equation.invars, body.invars)
    return len(equation.invars) - slices - num_carry, num_carry


def _is_draw(equation: JaxprEqn) -> bool:
    name = equation.primitive.name
    if name in _PRIMITIVES:
        return True
    # Flax's scan traces what is known beforehand on its own: the counter without the key.
    ours = name in ("jit", "pjit") and equation.params["name"] == _PHILOX
    return ours and len(equation.invars) > _COUNTER


def place_of(around: Sequence[JaxprEqn]) -> str:
    """Where in the user's code the last of some equations was made, each inside the one before."""
    return next(filter(None, map(_place, reversed(around))), "")


def _place(equation: JaxprEqn) -> str:
    traceback = equation.source_info.traceback
    frames: Any = () if traceback is None else traceback.frames
    for frame in frames:
        if not _is_library(frame.file_name):
            return f"{frame.function_name} ({pathlib.Path(frame.file_name).name}:{frame.line_num})"
    return ""


def _is_library(file: str) -> bool:
    of_python = file.startswith(_PYTHON) and "site-packages" not in file
    return of_python or file.startswith(_LIBRARIES)
