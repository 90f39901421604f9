"""A model as a static part of a function: equal to another one if both compute the same."""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


@dataclasses.dataclass(frozen=True, eq=False)
class ByValue:
    """What compares by its contents, arrays and the types of numbers among them.

    A model that is made anew is the same program, whereas the fields 1, 1.0 and True, which Python
    takes for equal, are three. A NumPy array counts with the values that it has now.

    Attributes:
        value: the model, or whatever else is static.
    """

    value: Any

    def __hash__(self):
        return hash(_contents(self.value))

    def __eq__(self, other):
        if not isinstance(other, ByValue):
            return NotImplemented
        return _contents(self.value) == _contents(other.value)


class _Itself:
    """What cannot be hashed, and so is equal to itself alone."""

    def __init__(self, value):
        self.value = value

    def __hash__(self):
        return id(self.value)

    def __eq__(self, other):
        return isinstance(other, _Itself) and other.value is self.value


def _contents(value):
    """A hashable value that holds the types and the contents of a nested one."""
    if isinstance(value, Tracer):
        return _Itself(value)
    if isinstance(value, np.ndarray | jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return "key", str(value.dtype), _contents(jax.random.key_data(value))
        array = np.asarray(value)
        if array.dtype == object:
            return _Itself(value)
        return type(value), array.shape, str(array.dtype), array.tobytes()
    if isinstance(value, bool | int | float | complex | np.generic):
        return type(value), repr(value)  # which tells 0.0 from -0.0, too
    if isinstance(value, Mapping):
        return type(value), tuple((_contents(k), _contents(v)) for k, v in value.items())
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_contents, value))
    if isinstance(value, functools.partial):
        return "partial", *map(_contents, (value.func, value.args, value.keywords))
    if isinstance(value, types.MethodType):
        return "method", value.__func__, _contents(value.__self__)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value) if field.name != "parent")
        return type(value), tuple(_contents(getattr(value, name, None)) for name in names)
    try:
        hash(value)
    except TypeError:
        return _Itself(value)
    return value
