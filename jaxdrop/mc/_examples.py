"""Whether the examples of a batch stay apart in a program, by following their axis through it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from jaxdrop.mc import _jaxpr

# The axis that counts the examples: at place b of it a value depends on example b alone. None if
# the value depends on no example.
Axis = int | None

# fmt: off
_ELEMENTWISE = {
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp", "clz", "complex", "conj",
    "convert_element_type", "copy", "copy_p", "cos", "cosh", "digamma", "div", "eq", "erf",
    "erf_inv", "erfc", "exp", "exp2", "expm1", "ge", "gt", "igamma", "igammac", "imag",
    "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "log2", "logistic", "lt", "max",
    "min", "mul", "name", "ne", "neg", "nextafter", "not", "one_minus_square", "or", "polygamma",
    "population_count", "pow", "zeta",
    "real", "reduce_precision", "rem", "round", "rsqrt", "select_n", "shift_left",
    "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square",
    "stop_gradient", "sub", "tan", "tanh", "xor", lax.floor_p.name,
}
# fmt: on
# Primitives that leave all axes alone but one, and what that is called.
_ALONG = {
    "concatenate": "dimension",
    "cumlogsumexp": "axis",
    "cummax": "axis",
    "cummin": "axis",
    "cumprod": "axis",
    "cumsum": "axis",
    "sort": "dimension",
    "split": "axis",
}


class MixedError(Exception):
    """An equation whose results may depend on several examples at once, or is not known here."""


def output_axes(jaxpr: Jaxpr, axes: Sequence[Axis]) -> list[Axis]:
    """The axis of the examples in each output of a program, given those in its inputs.

    Raises:
        MixedError: examples may meet.
    """
    known = dict(zip(jaxpr.invars, axes))
    read = lambda v: None if isinstance(v, Literal) else known.get(v)  # noqa: E731
    for equation in jaxpr.eqns:
        entering = [read(variable) for variable in equation.invars]
        if any(axis is not None for axis in entering):
            known.update(zip(equation.outvars, _leaving(equation, entering)))
    return [read(variable) for variable in jaxpr.outvars]


def joined(axes: Sequence[Axis]) -> Axis:
    """The one axis of values that are put together."""
    found = {axis for axis in axes if axis is not None}
    if len(found) > 1:
        raise MixedError
    return next(iter(found), None)


def _leaving(equation: JaxprEqn, entering: list[Axis]) -> Sequence[Axis]:
    name, params, count = equation.primitive.name, equation.params, len(equation.outvars)
    if name == "optimization_barrier":
        return entering
    if name in _ELEMENTWISE:
        return [joined(entering)] * count
    if name == "scan":
        return _scan(equation, entering)
    if name == "cond":
        _require(entering[0] is None)
        branches = [output_axes(branch.jaxpr, entering[1:]) for branch in params["branches"]]
        return [joined(axes) for axes in zip(*branches)]
    if name in _RULES:
        return [_RULES[name](equation, entering)] * count
    if name in _ALONG or name.startswith(("reduce_", "arg")):
        return [_kept(name, params, joined(entering))] * count
    inner = list(_jaxpr.programs(params))
    _require(len(inner) == 1 and len(inner[0].invars) == len(entering) and name != "while")
    return output_axes(inner[0], entering)


def _require(apart: bool) -> None:
    if not apart:
        raise MixedError


def _kept(name: str, params: Mapping[str, Any], axis: Any) -> int:
    """The axis after an operation along others, which it may remove."""
    if name in _ALONG:
        _require(axis != params[_ALONG[name]])
        return axis
    if "window_dimensions" in params:
        sizes = params["window_dimensions"], params["window_strides"]
        _require(all(size[axis] == 1 for size in sizes) and params["padding"][axis] == (0, 0))
        return axis
    gone = params.get("axes", (axis,))
    _require(axis not in gone)
    return axis - sum(other < axis for other in gone)


def _scan(equation: JaxprEqn, entering: list[Axis]) -> list[Axis]:
    num_consts, num_carry = _jaxpr.scan_sizes(equation)
    body, end = equation.params["jaxpr"].jaxpr, num_consts + num_carry
    consts, carry = entering[:num_consts], entering[num_consts:end]
    _require(0 not in entering[end:])  # else it goes through the examples one by one
    slices = [None if axis is None else axis - 1 for axis in entering[end:]]
    while True:
        leaving = output_axes(body, [*consts, *carry, *slices])
        merged = [joined(pair) for pair in zip(carry, leaving)]
        if merged == carry:
            stacks = [None if axis is None else axis + 1 for axis in leaving[num_carry:]]
            return merged + stacks
        carry = merged


def _broadcast(equation: JaxprEqn, entering: list[Axis]) -> Axis:
    return equation.params["broadcast_dimensions"][_first(entering)]


def _reshape(equation: JaxprEqn, entering: list[Axis]) -> Axis:
    axis, before = _first(entering), _jaxpr.shape_of(equation.invars[0])
    after = _jaxpr.shape_of(equation.outvars[0])
    for place, size in enumerate(after):
        if size == before[axis] and math.prod(after[:place]) == math.prod(before[:axis]):
            return place
    raise MixedError


def _transpose(equation: JaxprEqn, entering: list[Axis]) -> Axis:
    return tuple(equation.params["permutation"]).index(_first(entering))


def _squeeze(equation: JaxprEqn, entering: list[Axis]) -> Axis:
    axis = _first(entering)
    return axis - sum(gone < axis for gone in equation.params["dimensions"])


def _stack(equation: JaxprEqn, entering: list[Axis]) -> Axis:
    axis = _first(entering)
    return axis + (equation.params["axis"] <= axis)


def _unstack(equation: JaxprEqn, entering: list[Axis]) -> Axis:
    axis, gone = _first(entering), equation.params["axis"]
    _require(axis != gone)
    return axis - (gone < axis)


def _slice(equation: JaxprEqn, entering: list[Axis]) -> Axis:
    """Slices of any kind, padding, tiles and reversal: the axis of the examples stays whole."""
    axis, params = _first(entering), equation.params
    size = _jaxpr.shape_of(equation.invars[0])[axis]
    whole = _jaxpr.shape_of(equation.outvars[0])[axis] == size
    low = params["padding_config"][axis] == (0, 0, 0) if "padding_config" in params else True
    _require(whole and low and axis not in params.get("dimensions", ()))
    # A scalar that depends on an example has no axis of them, so the starts depend on none.
    return axis


def _dot(equation: JaxprEqn, entering: list[Axis]) -> Axis:
    contracted, batches = equation.params["dimension_numbers"]
    ranks = [len(_jaxpr.shape_of(variable)) for variable in equation.invars]
    free = [
        [axis for axis in range(rank) if axis not in (*contracted[n], *batches[n])]
        for n, rank in enumerate(ranks)
    ]
    outs: list[Axis] = []
    for side, axis in enumerate(entering):
        if axis is None:
            continue
        _require(axis not in contracted[side])
        if axis in batches[side]:
            outs.append(tuple(batches[side]).index(axis))
        else:
            _require(entering[1 - side] is None)
            skipped = len(batches[0]) + (len(free[0]) if side else 0)
            outs.append(skipped + free[side].index(axis))
    return joined(outs)


def _convolution(equation: JaxprEqn, entering: list[Axis]) -> Axis:
    numbers = equation.params["dimension_numbers"]
    alone = entering[1] is None and equation.params["batch_group_count"] == 1
    _require(alone and entering[0] == numbers.lhs_spec[0])
    return numbers.out_spec[0]


def _gather(equation: JaxprEqn, entering: list[Axis]) -> Axis:
    operand, indices = entering
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    rank, offsets = len(_jaxpr.shape_of(equation.outvars[0])), numbers.offset_dims
    if indices is not None:
        pairs = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims)
        _require(operand is None or (operand, indices) in pairs)
        return [axis for axis in range(rank) if axis not in offsets][indices]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    size = _jaxpr.shape_of(equation.invars[0])[operand]  # pyright: ignore
    _require(operand not in gone and sizes[operand] == size)
    kept = [axis for axis in range(len(sizes)) if axis not in gone]
    return offsets[kept.index(operand)]  # pyright: ignore


def _top_k(equation: JaxprEqn, entering: list[Axis]) -> Axis:
    axis = _first(entering)
    _require(axis != len(_jaxpr.shape_of(equation.invars[0])) - 1)
    return axis


def _first(entering: list[Axis]) -> Any:
    """The axis of an operand, beside which nothing depends on examples."""
    return joined(entering)


_RULES: dict[str, Any] = {
    "broadcast_in_dim": _broadcast,
    "conv_general_dilated": _convolution,
    "dot_general": _dot,
    "dynamic_slice": _slice,
    "gather": _gather,
    "pad": _slice,
    "reshape": _reshape,
    "rev": _slice,
    "slice": _slice,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _slice,
    "top_k": _top_k,
    "transpose": _transpose,
    "unstack": _unstack,
}


def steps(program: ClosedJaxpr) -> list[Any]:
    """What a program does apart from shapes: its primitives, and the numbers that stand in it."""
    found: list[Any] = [list(map(np.shape, program.consts))]
    for equation in _jaxpr.equations(program.jaxpr):
        literals = [v.val for v in equation.invars if isinstance(v, Literal)]
        found.append(equation.primitive.name)
        # As text, because NaN is not equal to itself.
        found += [str(x) for x in literals if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
        if equation.primitive.name == "iota":
            found.append(equation.params["shape"][equation.params["dimension"]])
    return found
