"""Functions as the programs that they are now, and compiled programs found by what they do.

`jax.jit` finds a function by its identity and answers with what it closed over when it was first
called. Here a function is traced at every call, what it has captured becomes arguments, and the
program that is left finds its compiled form.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _fingerprint, _pytrees
from jaxdrop.mc._checks import Outputs
from jaxdrop.mc._model_fn import ModelFn

_CALLS = ("jit", "pjit")


def call(body: Callable[..., Any], static: Any, *arrays: Any) -> Any:
    """``body(static, *arrays)``, compiled once for each program."""
    key = _fingerprint.fingerprint(body, static)
    if key is None:
        closed = close(functools.partial(body, static), *arrays)
        if closed is None:
            return jax.jit(functools.partial(body, static))(*arrays)
        inputs, static = _pytrees.split((closed, arrays))
        return call(_call_closed, static, inputs)
    with _holding(key, static) as held:
        return _compiled(held, body, *arrays)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Known:
    """What is known as soon as a function is traced; leaves no array."""

    value: Any


def known(body: Callable[..., Known], static: Any, *arrays: Any) -> Any:
    """The value of ``body(static, *arrays)``, which is traced once for each program and not run."""
    key = _fingerprint.fingerprint(body, static)
    if key is None:
        return jax.eval_shape(functools.partial(body, static), *arrays).value
    with _holding(key, static) as held:
        return _compiled.eval_shape(held, body, *arrays).value


def settle(fn: Any, *args: Any, **kwargs: Any) -> Any:
    """``fn`` as it is now, for arguments like these: a `Closed` one, or itself if it cannot be.

    The function of an adapter holds its arrays as leaves, so it need not be traced if all else of
    it can be compared.
    """
    if isinstance(fn.fn if isinstance(fn, Outputs) else fn, ModelFn):
        captured, static = _pytrees.split(fn)
        key = _fingerprint.fingerprint(static)
        if key is not None and _fingerprint.fingerprint(_pytrees.split((args, kwargs))[1]):
            return Closed(captured, _Adapter(key, static))
    return close(fn, *args, **kwargs) or fn


def close(fn: Any, *args: Any, **kwargs: Any) -> "Closed | None":
    """``fn`` as a `Closed` program for arguments like these.

    None inside another trace, whose values ``fn`` may have captured, if JAX does not compile, and
    if the program calls back to Python.
    """
    arrays, static = _pytrees.split((args, kwargs))
    is_disabled = jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
    if is_disabled or _pytrees.holds_tracer((fn, arrays)):
        return None

    def called(arrays: list[Any]) -> Any:
        args, kwargs = _pytrees.join(arrays, static)
        return fn(*args, **kwargs)

    jaxpr, shapes = jax.make_jaxpr(called, axis_env=[(masks.AXIS, 1)], return_shape=True)(arrays)
    try:
        program = _Program(jaxpr, jax.tree.structure(shapes), fn)
    except _fingerprint.UnknownError:
        return None
    return None if _pytrees.holds_tracer(program.captured) else Closed(program.captured, program)


def signature(args: Any) -> Any:
    """What two lists of arguments share if a function that is settled for one fits the other."""
    arrays, static = _pytrees.split(args)
    key = _fingerprint.fingerprint(static)
    return None if key is None else (key, [*map(jax.typeof, jax.tree.leaves(arrays))])


def original(fn: Any) -> Any:
    """The function that a `Closed` one was made of."""
    return fn.program.original(fn.captured) if isinstance(fn, Closed) else fn


@jax.tree_util.register_pytree_node_class
class Closed:
    """A function as it was when it was settled; its leaves are the arrays that it had captured."""

    def __init__(self, captured: list[Any], program: Any) -> None:
        self.captured, self.program = captured, program

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.program.run(self.captured, *args, **kwargs)

    def tree_flatten(self) -> tuple[Any, Any]:
        return (self.captured,), self.program

    @classmethod
    def tree_unflatten(cls, program: Any, children: Any) -> "Closed":
        (captured,) = children
        return cls(captured, program)


class _Adapter(_fingerprint.Named):
    """A function of an adapter without its arrays."""

    def __init__(self, key: _fingerprint.Key, static: Any) -> None:
        self.key, self._static = key, static

    def original(self, captured: list[Any]) -> Any:
        return _pytrees.join(captured, self._static)

    def run(self, captured: list[Any], *args: Any, **kwargs: Any) -> Any:
        return self.original(captured)(*args, **kwargs)


class _Program(_fingerprint.Named):
    """The equations of a function, with every array that it captured an input."""

    def __init__(self, closed: ClosedJaxpr, structure: Any, original: Any) -> None:
        self._structure, self._original, self._count = structure, original, 0
        self.captured: list[Any] = []
        self._captures: dict[int, int] = {}  # numbers of the captured arrays, by id
        self._steps: list[tuple[JaxprEqn, list[Any], list[int]]] = []
        self._capturing: dict[int, bool] = {}
        reader = _fingerprint.Reader(is_run=True)
        self._arguments = [self._new() for _ in closed.jaxpr.invars]
        self._outputs = self._add(closed, self._arguments)
        atom = lambda a: reader.literal(a) if isinstance(a, Literal) else a  # noqa: E731
        self.key = reader.key(
            (
                tuple(variable.aval for variable in closed.jaxpr.invars),
                tuple(zip(self._captures.values(), map(jax.typeof, self.captured))),
                tuple(reader.equation(e, map(atom, i), o) for e, i, o in self._steps),
                tuple(map(atom, self._outputs)),
                reader.read(structure),
            )
        )

    def original(self, captured: list[Any]) -> Any:
        del captured  # the function holds them itself
        return self._original

    def run(self, captured: list[Any], *args: Any, **kwargs: Any) -> Any:
        arrays, _ = _pytrees.split((args, kwargs))
        values = dict(zip(self._arguments, jax.tree.leaves(arrays)))
        values.update(zip(self._captures.values(), map(_fresh, captured)))
        read = lambda a: a.val if isinstance(a, Literal) else values[a]  # noqa: E731
        for equation, entering, leaving in self._steps:
            primitive = equation.primitive
            params = primitive.get_bind_params(equation.params)
            with equation.ctx.manager:
                results = primitive.bind(*map(read, entering), **params)
            values.update(zip(leaving, results if primitive.multiple_results else [results]))
        return jax.tree.unflatten(self._structure, map(read, self._outputs))

    def _new(self) -> int:
        self._count += 1
        return self._count

    def _add(self, program: ClosedJaxpr, inputs: Iterable[Any]) -> list[Any]:
        """Adds the equations of a program, and gives its outputs; variables become numbers."""
        jaxpr = program.jaxpr
        numbers = dict(zip(jaxpr.invars, inputs))
        numbers.update(zip(jaxpr.constvars, map(self._capture, program.consts)))
        read = lambda v: v if isinstance(v, Literal) else numbers[v]  # noqa: E731
        for equation in jaxpr.eqns:
            entering = [read(v) for v in equation.invars]
            inner = self._opened(equation)
            if inner is None:
                leaving = [self._new() for _ in equation.outvars]
                self._steps.append((equation, entering, leaving))
            else:
                leaving = self._add(inner, entering)
            numbers.update(zip(equation.outvars, leaving))
        return [read(v) for v in jaxpr.outvars]

    def _opened(self, equation: JaxprEqn) -> ClosedJaxpr | None:
        """The program that an equation merely calls, if its steps are added instead of the call.

        That is so if it captures arrays of its own, which have to become inputs, and if it has
        rules of differentiation, which may hold anything and are not needed.
        """
        params = equation.params
        if equation.primitive.name in _fingerprint.CUSTOM_RULES:
            return params["call_jaxpr"]
        if equation.primitive.name not in _CALLS:
            return None
        shardings = (*params["in_shardings"], *params["out_shardings"])
        free = all(type(sharding).__name__ == "UnspecifiedValue" for sharding in shardings)
        return params["jaxpr"] if free and self._is_capturing(params["jaxpr"]) else None

    def _is_capturing(self, program: ClosedJaxpr) -> bool:
        if id(program) not in self._capturing:
            self._capturing[id(program)] = bool(program.consts) or any(
                self._is_capturing(equation.params["jaxpr"])
                for equation in program.jaxpr.eqns
                if equation.primitive.name in _CALLS
            )
        return self._capturing[id(program)]

    def _capture(self, array: Any) -> int:
        if id(array) not in self._captures:
            self._captures[id(array)] = self._new()
            self.captured.append(array if isinstance(array, jax.Array) else np.asarray(array))
        return self._captures[id(array)]


class _Held(_fingerprint.Key):
    """A static argument that is found by its key, and that the cache of jit does not keep."""

    __slots__ = ("value",)

    def __init__(self, key: _fingerprint.Key, value: Any) -> None:
        super().__init__(key)
        self.value = value


@contextlib.contextmanager
def _holding(key: _fingerprint.Key, value: Any) -> Generator[_Held]:
    """A static argument, whose value is let go afterwards, because the cache keeps it."""
    held = _Held(key, value)
    try:
        yield held
    finally:
        held.value = None


def _fresh(array: Any) -> Any:
    """A captured array; a key as one that has not been used, for the checker of their reuse."""
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return jax.random.clone(array) if is_key else array


def _call_closed(static: Any, arrays: Any) -> Any:
    closed, arrays = _pytrees.join(arrays, static)
    return closed(*arrays)


@functools.partial(jax.jit, static_argnames=("held", "body"))
def _compiled(held: _Held, body: Callable[..., Any], *arrays: Any) -> Any:
    return body(held.value, *arrays)
