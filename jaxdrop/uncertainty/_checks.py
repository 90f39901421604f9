"""What every function refuses before it computes.

Values are checked where they are known. A traced array passes unread, and what it should not hold
(NaN, a label that is no class) comes out as NaN.
"""

import operator

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.uncertainty._arrays import as_array, known, read, widen


def check_probabilities(probabilities, *, samples=False):
    """``probabilities`` in float32 or better, with samples on axis 0 if ``samples``."""
    given = _check_floating(probabilities, "probabilities")
    layout = "(S, ..., C)" if samples else "(..., C)"
    fits = given.ndim >= (2 if samples else 1) and given.shape[-1] >= 1
    if not fits or (samples and given.shape[0] < 1):
        hint = "stack samples along axis 0, " if samples else ""
        raise ValueError(
            f"probabilities: expected shape {layout} with at least one of each letter, got "
            f"{given.shape}; {hint}put the classes on the last axis"
        )
    if known(given) and given.size:
        _check_simplex(given)
    return widen(given)


def check_pair(probabilities, labels):
    """``check_probabilities``, and one class number of int32 or wider for each row."""
    probabilities = check_probabilities(probabilities)
    labels = as_array(labels, "labels")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels: expected class numbers of an integer dtype, got dtype {labels.dtype}; "
            "write labels.astype(jnp.int32), or labels.argmax(-1) for one-hot rows"
        )
    *rows, classes = probabilities.shape
    if labels.shape != tuple(rows):
        raise ValueError(
            f"labels: expected shape {tuple(rows)} for probabilities of shape "
            f"{probabilities.shape}, got {labels.shape}; give one class number for each row, "
            "labels.argmax(-1) for one-hot rows"
        )
    if not labels.size:
        raise ValueError(
            f"labels: expected at least one example, got shape {labels.shape}; "
            "leave empty batches out: there is no mean over none"
        )
    if known(labels):
        low, high = read(_range, labels)
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels: expected class numbers in [0, {classes}), got values from {low} to "
                f"{high}; count classes from 0 and leave out rows that have no label"
            )
    return probabilities, labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)


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
    if known(uncertainty) and np.isnan(read(_range, widen(uncertainty))).any():
        raise ValueError(
            "uncertainty: expected numbers that can be sorted, got NaN; "
            "look for the NaN in the predictions, or leave those examples out"
        )
    wide = jnp.float64 if jnp.float64 in (uncertainty.dtype, errors.dtype) else jnp.float32
    return uncertainty, errors.astype(wide)


def check_num_bins(num_bins):
    """``num_bins`` as a positive Python integer."""
    try:
        count = None if isinstance(num_bins, bool | np.bool_) else operator.index(num_bins)
    except TypeError:
        count = None
    if count is None:
        raise TypeError(
            f"num_bins: expected a Python integer, got {num_bins!r}; write for example num_bins=15"
        )
    if count < 1:
        raise ValueError(
            f"num_bins: expected at least one bin, got {count}; write for example num_bins=15"
        )
    return count


def _check_floating(x, name):
    x = as_array(x, name)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name}: expected a floating array, got dtype {x.dtype}; "
            f"cast it first, for example {name}.astype(jnp.float32)"
        )
    return x


def _check_simplex(given):
    low, high, least, most = read(_simplex_range, given)
    # A softmax in 16 bits rounds every entry: three classes in bfloat16 sum to 1.002.
    tolerance = 1e-3 if given.dtype.itemsize >= 4 else 1e-2
    if not (low >= 0 and abs(least - 1) <= tolerance and abs(most - 1) <= tolerance):
        raise ValueError(
            "probabilities: expected numbers in [0, 1] that sum to 1 over the last axis, got "
            f"values from {low:.6g} to {high:.6g} and sums from {least:.6g} to {most:.6g}; "
            "pass jax.nn.softmax(logits) if these are logits"
        )


@jax.jit
def _range(x):
    return x.min(), x.max()


@jax.jit
def _simplex_range(x):
    x = widen(x)
    return *_range(x), *_range(x.sum(-1))
