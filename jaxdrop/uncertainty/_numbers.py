"""What the functions of real numbers refuse: predictions and targets of a regression.

Values are checked where they are known; traced ones pass unread. Shapes must be equal and are
never broadcast: means of shape (N, 1) and targets of shape (N,) would meet crosswise.
"""

import jax.numpy as jnp
import numpy as np

from jaxdrop.uncertainty._arrays import as_array, extremes, known, read, widen


def check_real(*, finite=True, **named):
    """Arrays of real numbers by name, in float32, or float64 if one of them is."""
    arrays = [as_array(x, name) for name, x in named.items()]
    for name, x in zip(named, arrays):
        if not any(jnp.issubdtype(x.dtype, kind) for kind in (jnp.floating, jnp.integer)):
            raise TypeError(
                f"{name}: expected real numbers, got dtype {x.dtype}; "
                f"cast them first, for example {name}.astype(jnp.float32)"
            )
        if known(x) and x.size:
            _check_values(widen(x), name, finite)
    # A Python number has no say in the dtype.
    double = any(x.dtype == jnp.float64 and not x.weak_type for x in arrays)
    return [x.astype(jnp.float64 if double else jnp.float32) for x in arrays]


def check_alike(*, finite=True, **named):
    """Arrays of real numbers by name, of one shape, with at least one entry."""
    arrays = check_real(finite=finite, **named)
    _check_shapes(named, arrays)
    return arrays


def check_gaussian(mean, variance, targets, *, positive=False):
    """Mean, variance and targets of one shape; the variance at least 0, or above it."""
    mean, variance, targets = check_real(mean=mean, variance=variance, targets=targets)
    _check_shapes(("mean", "targets"), (mean, targets))
    return mean, check_noise(variance, "variance", targets.shape, positive=positive), targets


def check_samples(name, samples, targets=None):
    """Samples on axis 0 and, where there are targets, one for each entry of a sample."""
    if samples.ndim < 1 or not samples.shape[0]:
        raise ValueError(
            f"{name}: expected shape (S, ...) with at least one sample, got {samples.shape}; "
            "stack samples along axis 0, for example with jnp.stack"
        )
    if targets is not None:
        _check_shapes((f"{name}[0]", "targets"), (samples[0], targets))


def check_noise(noise, name, shape, *, positive=False):
    """A variance or a precision, one number or of ``shape``, made to have that shape."""
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


def check_ends(*, lower, upper, finite=True, **targets):
    """Ends of intervals, and targets if given, of one shape; none ends before it begins."""
    given = check_alike(finite=finite, lower=lower, upper=upper, **targets)
    if known(given[0]) and known(given[1]):
        (swapped,) = read(lambda ends: [(ends[0] > ends[1]).sum()], given)
        if swapped:
            raise ValueError(
                "lower and upper: expected lower <= upper everywhere, got the opposite for "
                f"{swapped} of {given[0].size}; swap the two, or sort them with jnp.sort"
            )
    return given


def _check_values(x, name, finite):
    low, high = read(extremes, x)
    if np.isnan(low) or (finite and not np.isfinite([low, high]).all()):
        raise ValueError(
            f"{name}: expected {'finite numbers' if finite else 'numbers'}, got values from "
            f"{low:.6g} to {high:.6g}; look for NaN and overflow, or leave those examples out"
        )


def _check_shapes(names, arrays):
    shapes = [x.shape for x in arrays]
    if any(shape != shapes[-1] for shape in shapes):
        raise ValueError(
            f"{', '.join(names)}: expected one shape for all, got "
            f"{', '.join(str(shape) for shape in shapes)}; reshape them: nothing is broadcast, "
            "since (N, 1) and (N,) would meet crosswise"
        )
    if not arrays[-1].size:
        raise ValueError(
            f"{', '.join(names)}: expected at least one entry, got shape {shapes[-1]}; "
            "leave empty batches out: there is no mean over none"
        )
