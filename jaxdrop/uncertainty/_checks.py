"""What every function refuses before it computes.

Values are checked where they are known. A traced array passes unread, and what it should not hold
(NaN, a label that is no class) comes out as NaN.
"""

import operator

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.uncertainty._arrays import as_array, extremes, known, read, widen

_TWO_COLUMNS = {"probabilities": "1 - p, p", "logits": "jnp.zeros_like(z), z"}


def check_probabilities(probabilities, *, samples=False):
    """``probabilities`` in float32 or better, with samples on axis 0 if ``samples``."""
    given = _check_floating(probabilities, "probabilities")
    _check_classes(given, "probabilities", "(S, ..., C)" if samples else "(..., C)")
    if samples and (given.ndim < 2 or given.shape[0] < 1):
        raise ValueError(
            "probabilities: expected shape (S, ..., C) with at least one sample, got "
            f"{given.shape}; stack samples along axis 0, put the classes on the last axis"
        )
    if known(given) and given.size:
        _check_simplex(given)
    return widen(given)


def check_pair(probabilities, labels):
    """``check_probabilities``, and one class number of int32 or wider for each row."""
    probabilities = check_probabilities(probabilities)
    return probabilities, _check_labels(labels, "probabilities", probabilities.shape)


def check_logits(logits, labels):
    """Finite logits in float32 or better, and one class number for each row."""
    given = _check_floating(logits, "logits")
    _check_classes(given, "logits", "(..., C)")
    labels = _check_labels(labels, "logits", given.shape)
    if known(given):
        low, high = read(extremes, widen(given))
        if not np.isfinite([low, high]).all():
            raise ValueError(
                f"logits: expected finite numbers, got values from {low:.6g} to {high:.6g}; "
                "look for NaN and overflow, and mask classes with -1e9 instead of -inf"
            )
    return widen(given), labels


def check_ranking(uncertainty, errors):
    """``uncertainty`` as it is, and ``errors`` in the wider dtype of both, at least float32."""
    uncertainty = _check_floating(uncertainty, "uncertainty")
    errors = as_array(errors, "errors")
    if errors.dtype != jnp.bool_ and not any(
        jnp.issubdtype(errors.dtype, kind) for kind in (jnp.floating, jnp.integer)
    ):
        raise TypeError(
            f"errors: expected booleans or real losses, got dtype {errors.dtype}; "
            "write for example predicted != labels"
        )
    if uncertainty.ndim != 1 or uncertainty.shape != errors.shape or not errors.size:
        raise ValueError(
            "uncertainty and errors: expected the same shape (N,) with N of at least 1, got "
            f"{uncertainty.shape} and {errors.shape}; flatten both with .ravel()"
        )
    if known(uncertainty) and np.isnan(read(extremes, widen(uncertainty))).any():
        raise ValueError(
            "uncertainty: expected numbers that can be sorted, got NaN; "
            "look for the NaN in the predictions, or leave those examples out"
        )
    wide = jnp.float64 if jnp.float64 in (uncertainty.dtype, errors.dtype) else jnp.float32
    return uncertainty, errors.astype(wide)


def check_count(count, name, unit, usual):
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


def _check_floating(x, name):
    x = as_array(x, name)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name}: expected a floating array, got dtype {x.dtype}; "
            f"cast it first, for example {name}.astype(jnp.float32)"
        )
    return x


def _check_classes(given, name, layout):
    """One class for all would make every row certain, and right: it is one of two."""
    if given.ndim < 1 or given.shape[-1] < 2:
        raise ValueError(
            f"{name}: expected shape {layout} with at least two classes, got {given.shape}; put "
            f"the classes on the last axis, jnp.concatenate([{_TWO_COLUMNS[name]}], axis=-1) for a "
            "column of yes or no"
        )


def _check_labels(labels, name, shape):
    labels = as_array(labels, "labels")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels: expected class numbers of an integer dtype, got dtype {labels.dtype}; "
            "write labels.astype(jnp.int32), or labels.argmax(-1) for one-hot rows"
        )
    *rows, classes = shape
    if labels.shape != tuple(rows):
        raise ValueError(
            f"labels: expected shape {tuple(rows)} for {name} of shape {shape}, "
            f"got {labels.shape}; give one class number for each row, labels.argmax(-1) for "
            f"one-hot rows, and {name} of every class, jnp.stack([{_TWO_COLUMNS[name]}], axis=-1) "
            "for those of yes or no"
        )
    if not labels.size:
        raise ValueError(
            f"labels: expected at least one example, got shape {labels.shape}; "
            "leave empty batches out: there is no mean over none"
        )
    if known(labels):
        low, high = read(extremes, labels)
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels: expected class numbers in [0, {classes}), got values from {low} to "
                f"{high}; count classes from 0 and leave out rows that have no label"
            )
    return labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)


def _check_simplex(given):
    low, high, least, most = read(_simplex_range, given)
    # A softmax in 16 bits rounds every entry: three classes in bfloat16 sum to 1.002.
    tolerance = 1e-3 if given.dtype.itemsize >= 4 else 1e-2
    if not (low >= 0 and abs(least - 1) <= tolerance and abs(most - 1) <= tolerance):
        remedy = "pass jax.nn.softmax(logits) if these are logits"
        if 0 <= low <= high <= 1:
            remedy += (
                f", jnp.stack([{_TWO_COLUMNS['probabilities']}], axis=-1) if each is that of a yes"
            )
        raise ValueError(
            "probabilities: expected numbers in [0, 1] that sum to 1 over the last axis, got "
            f"values from {low:.6g} to {high:.6g} and sums from {least:.6g} to {most:.6g}; {remedy}"
        )


@jax.jit
def _simplex_range(x):
    x = widen(x)
    return *extremes(x), *extremes(x.sum(-1))
