"""Values as keys that are equal only where a program may be shared, and keep nothing alive."""

import dataclasses
import enum
import functools
import hashlib
import operator
import sys
import types
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

# Their functions always do the same; a user's may read a global that has changed.
_LIBRARIES = {"builtins", "flax", "jax", "jaxdrop", "jaxlib", "math", "numpy", "operator", "optax"}
_PLAIN = (type(None), bool, int, str, bytes, type(...))
# Their rules of differentiation are new functions at each trace, and not used going forward.
CUSTOM_RULES = {"custom_jvp_call", "custom_vjp_call"}


class UnknownError(Exception):
    """A value that cannot be compared by its contents: a user's function, an unknown object."""


class Key:
    """Hashable parts, hashed once."""

    __slots__ = ("_hash", "_parts")

    def __init__(self, parts: Any) -> None:
        self._parts = parts
        self._hash = hash(parts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._parts == other._parts


def fingerprint(*values: Any) -> Key | None:
    """The `Key` of values, or None if one of them is unknown.

    Numbers that are equal but not the same, such as 1, 1.0 and True, or 0.0 and -0.0, have other
    keys; NaN has one. Classes are held weakly. What the code of a class or of a library reads
    from outside is taken to stay as it is.
    """
    reader = Reader()
    try:
        return reader.key(tuple(map(reader.read, values)))
    except UnknownError:
        return None


class Reader:
    """Reads values; programs inside that are the same are read, and stored, once."""

    def __init__(self, is_run: bool = False) -> None:
        self._programs: dict[Any, int] = {}
        self._seen: dict[int, tuple[int, Any]] = {}
        self._is_run = is_run  # functions run whenever the program does: what they read is of now

    def key(self, parts: Any) -> Key:
        """The `Key` of parts that have been read."""
        try:
            return Key((tuple(self._programs), parts))
        except TypeError as error:  # a value of JAX that has no hash
            raise UnknownError from error

    def read(self, value: Any) -> Any:
        """One value as something hashable."""
        kind = type(value)
        if kind in _PLAIN:
            return kind, value
        if kind in (tuple, list) or (isinstance(value, tuple) and hasattr(kind, "_fields")):
            return weakref.ref(kind), tuple(map(self.read, value))
        if isinstance(value, type):
            return weakref.ref(value)
        if hasattr(kind, "__dataclass_fields__"):
            return self._fields(value)
        if isinstance(value, Mapping) and _library(kind) in _LIBRARIES:
            return weakref.ref(kind), tuple(map(self.read, (*value.keys(), *value.values())))
        if kind in (set, frozenset):
            return kind, frozenset(map(self.read, value))
        if kind in (float, complex):  # by its text: NaN is one thing, and -0.0 is not 0.0
            return kind, repr(value)
        if isinstance(value, enum.Enum):
            return weakref.ref(kind), value.name
        if isinstance(value, np.dtype):
            return np.dtype, value
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return self._array(value)
        if isinstance(value, jax.tree_util.PyTreeDef):
            return self._structure(value)
        if isinstance(value, ClosedJaxpr | Jaxpr):
            return self._program(value)
        if isinstance(value, Named):
            return Named, value.key
        is_value = kind.__eq__ is not object.__eq__ or not callable(value)
        if isinstance(value, jax.sharding.Mesh) or (
            _library(kind) in ("jax", "jaxlib") and is_value
        ):
            return kind, value  # shardings, names of axes
        if callable(value):
            return self._function(value)
        raise UnknownError(value)

    def equation(self, equation: JaxprEqn, inputs: Iterable[Any], outputs: Iterable[Any]) -> Any:
        """An equation of a jaxpr, with its variables numbered."""
        params = equation.params
        if equation.primitive.name in CUSTOM_RULES:
            params = {"call_jaxpr": params["call_jaxpr"]}
        params = tuple((name, self.read(params[name])) for name in sorted(params))
        avals = tuple(variable.aval for variable in equation.outvars)
        return equation.primitive, equation.ctx, params, tuple(inputs), tuple(outputs), avals

    def literal(self, literal: Literal) -> Any:
        """A constant inside a jaxpr."""
        return literal.aval, self._array(literal.val)

    def _program(self, program: Any) -> Any:
        if id(program) not in self._seen:
            # The program is kept beside its number, so that no other gets its id.
            number = self._programs.setdefault(self._equations(program), len(self._programs))
            self._seen[id(program)] = number, program
        return Jaxpr, self._seen[id(program)][0]

    def _equations(self, program: Any) -> Any:
        jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
        numbers: dict[Any, int] = {}

        def atom(v: Any) -> Any:
            if isinstance(v, Literal):
                return self.literal(v)
            return numbers.setdefault(v, len(numbers))

        inputs = [*jaxpr.constvars, *jaxpr.invars]
        return (
            tuple((atom(v), v.aval) for v in inputs),
            tuple(map(self.read, getattr(program, "consts", ()))),
            tuple(self.equation(e, map(atom, e.invars), map(atom, e.outvars)) for e in jaxpr.eqns),
            tuple(map(atom, jaxpr.outvars)),
        )

    def _array(self, value: Any) -> Any:
        if isinstance(value, Tracer) or getattr(value.dtype, "hasobject", False):
            raise UnknownError(value)
        sharding = None
        if isinstance(value, jax.Array):
            if not value.is_fully_addressable:
                raise UnknownError(value)
            sharding = value.sharding
            if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                return self._array(jax.random.key_data(value)), value.dtype
        data = np.asarray(value)
        return data.dtype, data.shape, sharding, hashlib.sha256(data.tobytes()).digest()

    def _structure(self, tree: Any) -> Any:
        node = tree.node_data()
        if node is None:
            return tree.num_leaves  # a leaf, or nothing at all
        return tuple(map(self.read, node)), tuple(map(self._structure, tree.children()))

    def _fields(self, value: Any) -> Any:
        names = [field.name for field in dataclasses.fields(value)]
        if isinstance(value, nn.Module):
            if value.scope is not None:  # bound: it holds variables
                raise UnknownError(value)
        elif not set(names) >= getattr(value, "__dict__", {}).keys():
            raise UnknownError(value)
        held = (getattr(value, name, None) for name in names)
        return weakref.ref(type(value)), tuple(map(self.read, held))

    def _function(self, value: Any) -> Any:
        if isinstance(value, functools.partial):
            return functools.partial, *map(self.read, (value.func, value.args, value.keywords))
        if isinstance(value, types.MethodType):
            return types.MethodType, self.read(value.__func__), self.read(value.__self__)
        if type(value) in (operator.itemgetter, operator.attrgetter):
            return self.read(value.__reduce__())
        is_library = _library(value) in _LIBRARIES
        if (is_library or self._is_run) and _is_named(value):
            return value
        if not is_library or not isinstance(value, types.FunctionType):
            raise UnknownError(value)
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        inside = (cells, value.__defaults__, value.__kwdefaults__)
        return value.__code__, *map(self.read, inside)


class Named:
    """What has a `Key` of its own, ``key``."""

    key: Key


def _library(thing: Any) -> str:
    return (getattr(thing, "__module__", None) or "").split(".")[0]


def _is_named(function: Any) -> bool:
    """Whether it is what its module has under its name."""
    module = sys.modules.get(function.__module__)
    try:
        return operator.attrgetter(function.__qualname__)(module) is function
    except AttributeError:
        return False


@dataclasses.dataclass(frozen=True, eq=False)
class ByValue:
    """A static value, such as a model, that is equal to another one if both compute the same.

    A model that is made again is the same program, whereas the fields 1, 1.0 and True, which Python
    takes for equal, are three. A NumPy array counts with the values that it has now. What holds a
    function of the user's is equal to itself alone.
    """

    value: Any

    def __hash__(self) -> int:
        return hash(self._key())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ByValue):
            return NotImplemented
        return self._key() == other._key()

    def _key(self) -> Any:
        key = fingerprint(self.value)
        return id(self.value) if key is None else key
