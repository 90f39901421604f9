"""Summaries that store the samples, `samples` and `quantiles`: memory grows with their number."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _summary
from jaxdrop.mc._summary import Summary
from jaxdrop.uncertainty import _internal as uncertainty


class Quantiles(NamedTuple):
    """Quantiles over the samples; each field has the structure of the output.

    Attributes:
        values: shape ``(Q, ...)``, one for each probability.
        standard_error: Monte-Carlo standard error of each, of the same shape: half the distance
            between the sample quantiles one standard error of the rank below and above; inf for
            a single sample.
    """

    values: Any
    standard_error: Any

    def __repr__(self) -> str:
        return uncertainty.short(self)


def samples() -> Summary:
    """The samples themselves, on axis 0. Memory grows with their number.

    Returns:
        A `Summary` whose result has the structure of the output, with a leading sample axis.

    Example:
        >>> fn = lambda key, x: x + jax.random.normal(key, x.shape)
        >>> predict(fn, jax.random.key(0), jnp.zeros(3), num_samples=7, summary=samples()).shape
        (7, 3)
    """
    return _samples(1)


def _samples(block_size: int) -> Summary:
    del block_size  # the samples are what they are
    return Summary(_init, _update, _result, None, _samples, stores=True)


def quantiles(probabilities: Sequence[float] | ArrayLike) -> Summary:
    """Quantiles of the outputs, element by element. Memory grows with the number of samples.

    Between two samples it interpolates linearly, as ``jnp.quantile``. In float32 or better.

    Args:
        probabilities: numbers in [0, 1], such as ``(0.05, 0.5, 0.95)``, or a known array of
            shape ``(Q,)``.

    Returns:
        A `Summary` whose result is a `Quantiles`.

    Raises:
        TypeError: ``probabilities`` does not hold real numbers, or is traced.
        ValueError: one lies outside [0, 1], or they are empty or have more than one axis.

    Example:
        >>> fn = lambda key, x: x + jax.random.uniform(key, x.shape)
        >>> summary = quantiles((0.1, 0.9))
        >>> out = predict(fn, jax.random.key(0), jnp.zeros(3), num_samples=999, summary=summary)
        >>> bool((jnp.abs(out.values - jnp.array([[0.1], [0.9]])) < 0.05).all())
        True

    References:
        Hyndman & Fan, "Sample quantiles in statistical packages", 1996, definition 7.
    """
    if isinstance(probabilities, Tracer):
        raise TypeError(
            f"probabilities: expected known numbers in [0, 1], got {probabilities}; write for "
            "example quantiles((0.05, 0.5, 0.95)), outside of jax.jit"
        )
    if isinstance(probabilities, np.ndarray | jax.Array) and probabilities.ndim == 1:
        probabilities = list(np.asarray(probabilities))
    if not isinstance(probabilities, Sequence) or not len(probabilities):
        raise ValueError(
            f"probabilities: expected one number in [0, 1] or more, got {probabilities!r}; write "
            "for example quantiles((0.05, 0.5, 0.95))"
        )
    remedy = "0.5 is the median"
    numbers = [
        masks.check_real(p, "probabilities", (0.0, 1.0), "[0, 1]", "probabilities", remedy)
        for p in probabilities
    ]
    known = np.asarray(numbers, np.float32)
    return Summary(_init_floating, _update, Partial(_result_quantiles, known), stores=True)


def _init(sample: Any, num_samples: int) -> Any:
    return jax.tree.map(lambda leaf: _summary.zeros_like(leaf, leaf.dtype, num_samples), sample)


def _init_floating(sample: Any, num_samples: int) -> Any:
    def buffer(path: Any, leaf: Any) -> jax.Array:
        return _summary.zeros_like(leaf, _summary.wide(leaf.dtype, path), num_samples)

    return jax.tree_util.tree_map_with_path(buffer, sample)


def _update(state: Any, samples: Any, start: Any) -> Any:
    def write(buffer: jax.Array, chunk: jax.Array) -> jax.Array:
        chunk = _summary.gather(chunk.astype(buffer.dtype))
        return jax.lax.dynamic_update_slice_in_dim(buffer, chunk, start, axis=0)

    return jax.tree.map(write, state, samples)


def _result(state: Any) -> Any:
    return state


def _result_quantiles(probabilities: Any, state: Any) -> Quantiles:
    def one(drawn: jax.Array) -> tuple[jax.Array, jax.Array]:
        count = drawn.shape[0]
        asked = jnp.asarray(probabilities, drawn.dtype)
        step = jnp.sqrt(asked * (1 - asked) / count)
        ends = jnp.concatenate([asked, asked - step, asked + step])
        values, low, high = jnp.split(jnp.quantile(drawn, jnp.clip(ends, 0, 1), axis=0), 3)
        error = (high - low) / 2 if count > 1 else jnp.full_like(values, jnp.inf)
        return values, error

    leaves, structure = jax.tree.flatten(state)
    values, errors = zip(*map(one, leaves))
    return Quantiles(structure.unflatten(values), structure.unflatten(errors))
