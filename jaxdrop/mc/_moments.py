"""Mean and spread of any outputs."""

from typing import Any, NamedTuple

from jaxdrop.mc import _summary
from jaxdrop.mc._summary import Summary
from jaxdrop.uncertainty import _repr


class Moments(NamedTuple):
    """Mean and spread of the samples, each shaped like the output of one pass.

    Attributes:
        mean: mean over the samples.
        variance: variance over the samples, their mean squared deviation from ``mean``.
        standard_error: Monte-Carlo standard error of ``mean``; inf for a single sample.
    """

    mean: Any
    variance: Any
    standard_error: Any

    def __repr__(self):
        return _repr.short(self)


def moments() -> Summary:
    """Mean, variance and standard error of any pytree of floating outputs.

    Chunks are merged by their means and squared deviations, in float32 or better, so the variance
    is right where it is small beside the mean. Memory does not grow with the number of samples.

    Returns:
        A `Summary` whose result is a `Moments`; each field has the structure of the output.

    Example:
        >>> fn = lambda key, x: x + jax.random.normal(key, x.shape)
        >>> out = predict(fn, jax.random.key(0), jnp.zeros(3), num_samples=1000)
        >>> bool((jnp.abs(out.mean) < 5 * out.standard_error).all())
        True

    References:
        Chan, Golub & LeVeque, "Algorithms for computing the sample variance", 1983, eq. 2.1.
    """
    return Summary(_init, _update, _result)


def _init(sample, num_samples):
    del num_samples
    return _summary.init_welford(sample)


def _update(state, samples, start):
    del start
    return _summary.update_welford(state, samples)


def _result(state):
    return Moments(state.mean, _summary.variance(state), _summary.standard_error(state))
