"""What every function refuses before it computes, and the arrays that it computes with.

Values are checked if they are known. A traced array passes unread, and what it should not hold
(NaN, a label that is not a class) comes out as NaN. Shapes of real numbers must be equal and are
never broadcast: means of shape (N, 1) and targets of shape (N,) would give all N * N pairs.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def as_array(x: object, name: str) -> jax.Array:
    """``x`` as a JAX array; it may be a list of numbers."""
    try:
        return jnp.asarray(float(x) if isinstance(x, Fraction) else x)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name}: expected an array of numbers, got {type(x).__name__}; "
            "convert it first, for example with np.asarray(x, float) or jnp.stack"
        ) from None


def known(x: object) -> bool:
    """Whether the values of ``x`` can be read now."""
    return not isinstance(x, Tracer)


def read(fn: Callable[[Any], Iterable[jax.Array]], x: object) -> list[Any]:
    """Python numbers of ``fn(x)`` for a known ``x``, also while something else is traced."""
    with jax.ensure_compile_time_eval():
        return [value.item() for value in jax.device_get(fn(x))]


@jax.jit
def extremes(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest element of ``x``, both NaN if one is."""
    return x.min(), x.max()


def check_count(count: Any, name: str, unit: str, usual: int) -> int:
    """``count`` as a positive Python integer; ``usual`` is what the message proposes."""
    try:
        number = None if isinstance(count, bool | np.bool_) else operator.index(count)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(
            f"{name}: expected a Python integer, got {count!r}; write for example {name}={usual}"
        )
    if number < 1:
        raise ValueError(
            f"{name}: expected at least one {unit}, got {number}; write for example {name}={usual}"
        )
    return number


def check_floating(x: object, name: str) -> jax.Array:
    """``x`` as a floating array, of its own dtype."""
    array = as_array(x, name)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{name}: expected a floating array, got dtype {array.dtype}; "
            f"cast it first, for example {name}.astype(jnp.float32)"
        )
    return array


def widen(x: jax.Array) -> jax.Array:
    """``x`` in float32, or in its own dtype if that is wider."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def check_probabilities(
    probabilities: object, *, samples: bool = False, name: str = "probabilities"
) -> jax.Array:
    """``probabilities`` in float32 or wider, with samples on axis 0 if ``samples``."""
    p = check_floating(probabilities, name)
    _check_classes(p, name, "(S, ..., C)" if samples else "(..., C)")
    if samples and (p.ndim < 2 or p.shape[0] < 1):
        raise ValueError(
            f"{name}: expected shape (S, ..., C) with at least one sample, got "
            f"{p.shape}; stack samples along axis 0, put the classes on the last axis"
        )
    if known(p) and p.size:
        _check_simplex(p, name)
    return widen(p)


def check_pair(probabilities: object, labels: object) -> tuple[jax.Array, jax.Array]:
    """`check_probabilities`, and one class number of int32 or wider per row."""
    p = check_probabilities(probabilities)
    return p, check_labels(labels, "probabilities", p.shape)


def check_labels(labels: object, name: str, shape: tuple[int, ...]) -> jax.Array:
    """One class number of int32 or wider per row of an array of ``shape``."""
    array = as_array(labels, "labels")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"labels: expected class numbers of an integer dtype, got dtype {array.dtype}; "
            "write labels.astype(jnp.int32), or labels.argmax(-1) for one-hot rows"
        )
    *rows, classes = shape
    if array.shape != tuple(rows):
        raise ValueError(
            f"labels: expected shape {tuple(rows)} for {name} of shape {shape}, "
            f"got {array.shape}; give one class number per row, labels.argmax(-1) for "
            f"one-hot rows, and {name} of every class, jnp.stack([{_two_columns(name)}], axis=-1) "
            "for those of yes or no"
        )
    if not array.size:
        raise ValueError(
            f"labels: expected at least one example, got shape {array.shape}; "
            "leave empty batches out: nothing has no mean"
        )
    if known(array):
        low, high = read(extremes, array)
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels: expected class numbers in [0, {classes}), got values from {low} to "
                f"{high}; count classes from 0 and leave out rows that have no label"
            )
    # A narrow dtype may not hold the number of classes, with which labels are compared.
    return array if array.dtype.itemsize >= 4 else array.astype(jnp.int32)


def check_logits(logits: object, labels: object) -> tuple[jax.Array, jax.Array]:
    """Finite logits in float32 or wider, and one class number per row."""
    z = check_floating(logits, "logits")
    _check_classes(z, "logits", "(..., C)")
    classes = check_labels(labels, "logits", z.shape)
    if known(z):
        low, high = read(extremes, widen(z))
        if not np.isfinite([low, high]).all():
            raise ValueError(
                f"logits: expected finite numbers, got values from {low:.6g} to {high:.6g}; "
                "look for NaN and overflow, and mask classes with -1e9 instead of -inf"
            )
    return widen(z), classes


def check_real(*, finite: bool = True, **named: object) -> list[jax.Array]:
    """Arrays of real numbers by name, in float32, or in float64 if one of them is."""
    arrays = [as_array(x, name) for name, x in named.items()]
    for name, x in zip(named, arrays):
        if not any(jnp.issubdtype(x.dtype, kind) for kind in (jnp.floating, jnp.integer)):
            raise TypeError(
                f"{name}: expected real numbers, got dtype {x.dtype}; "
                f"cast them first, for example {name}.astype(jnp.float32)"
            )
        if known(x) and x.size:
            _check_values(widen(x), name, finite)
    # A Python number does not widen the arrays beside it.
    double = any(x.dtype == jnp.float64 and not x.weak_type for x in arrays)
    return [x.astype(jnp.float64 if double else jnp.float32) for x in arrays]


def check_gaussian(
    mean: object, variance: object, targets: object, *, positive: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, variance and targets of one shape; the variance is at least 0, or above it."""
    mu, noise, y = check_real(mean=mean, variance=variance, targets=targets)
    check_shapes(("mean", "targets"), (mu, y))
    return mu, check_noise(noise, "variance", y.shape, positive=positive), y


def check_samples(name: str, samples: jax.Array, targets: jax.Array | None = None) -> None:
    """Refuses an array without samples on axis 0, and targets of another shape than a sample."""
    if samples.ndim < 1 or not samples.shape[0]:
        raise ValueError(
            f"{name}: expected shape (S, ...) with at least one sample, got {samples.shape}; "
            "stack samples along axis 0, for example with jnp.stack"
        )
    if targets is not None:
        check_shapes((f"{name}[0]", "targets"), (samples[0], targets))


def check_noise(
    noise: jax.Array, name: str, shape: tuple[int, ...], *, positive: bool = False
) -> jax.Array:
    """A variance or a precision of ``shape``; one number is repeated."""
    if noise.shape not in ((), shape):
        ways = f"one number or shape {shape}, that of the means" if shape else "one number"
        raise ValueError(
            f"{name}: expected {ways}, got shape {noise.shape}; "
            "reshape it, or give one noise level for all as a number"
        )
    if known(noise) and noise.size:
        low, _ = read(extremes, noise)
        if low < 0 or (positive and low == 0):
            raise ValueError(
                f"{name}: expected numbers {'above' if positive else 'of at least'} 0, got "
                f"{low:.6g}; take jnp.exp of a predicted logarithm, jnp.square of a deviation"
            )
    return jnp.broadcast_to(noise, shape)


def check_shapes(names: Iterable[str], arrays: Sequence[jax.Array]) -> None:
    """Refuses arrays of different shapes, and arrays without elements."""
    shapes = [x.shape for x in arrays]
    if any(shape != shapes[-1] for shape in shapes):
        raise ValueError(
            f"{', '.join(names)}: expected one shape for all, got "
            f"{', '.join(str(shape) for shape in shapes)}; reshape them: nothing is broadcast, "
            "because (N, 1) and (N,) would give all pairs"
        )
    if not arrays[-1].size:
        raise ValueError(
            f"{', '.join(names)}: expected at least one element, got shape {shapes[-1]}; "
            "leave empty batches out: nothing has no mean"
        )


def _two_columns(name: str) -> str:
    """How to write both classes, if there is a number for one of two."""
    return "jnp.zeros_like(z), z" if name == "logits" else "1 - p, p"


def _check_classes(x: jax.Array, name: str, layout: str) -> None:
    # With a single class every row would be certain, and right. Such a column usually is the
    # probability of one of two classes.
    if x.ndim < 1 or x.shape[-1] < 2:
        raise ValueError(
            f"{name}: expected shape {layout} with at least two classes, got {x.shape}; put "
            f"the classes on the last axis, jnp.concatenate([{_two_columns(name)}], axis=-1) for "
            "a column of yes or no"
        )


def _check_simplex(p: jax.Array, name: str) -> None:
    low, high, least, most = read(_simplex_range, p)
    # A softmax in 16 bits rounds every element: three classes in bfloat16 sum to 1.002.
    tolerance = 1e-3 if p.dtype.itemsize >= 4 else 1e-2
    if not (low >= 0 and abs(least - 1) <= tolerance and abs(most - 1) <= tolerance):
        remedy = "pass jax.nn.softmax(logits) if these are logits"
        if 0 <= low <= high <= 1:
            remedy += f", jnp.stack([{_two_columns(name)}], axis=-1) if each is that of a yes"
        raise ValueError(
            f"{name}: expected numbers in [0, 1] that sum to 1 over the last axis, got "
            f"values from {low:.6g} to {high:.6g} and sums from {least:.6g} to {most:.6g}; {remedy}"
        )


@jax.jit
def _simplex_range(x: jax.Array) -> tuple[jax.Array, ...]:
    x = widen(x)
    return *extremes(x), *extremes(x.sum(-1))


def _check_values(x: jax.Array, name: str, finite: bool) -> None:
    low, high = read(extremes, x)
    if np.isnan(low) or (finite and not np.isfinite([low, high]).all()):
        raise ValueError(
            f"{name}: expected {'finite numbers' if finite else 'numbers'}, got values from "
            f"{low:.6g} to {high:.6g}; look for NaN and overflow, or leave those examples out"
        )
