"""What a label would tell about other predictions."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks

_MAX_ELEMENTS = 2**20


def epig(pool_probabilities: ArrayLike, target_probabilities: ArrayLike) -> jax.Array:
    """Expected predictive information gain: what the label of a candidate tells about the targets.

    ``1/M sum_m I(y_n; y_m)``, the mutual information of the label of candidate n and that of target
    m under the mixture of the samples, ``1/S sum_s p_sn[y] q_sm[y']``. It is never negative and
    at most the `mutual_information` of the candidate, which also counts what is of use nowhere: a
    candidate unlike all targets has a low score here. The targets are inputs, without labels, from
    where the model is to be good.

    Each joint distribution is exact. Time grows with ``S N M C^2``, and memory beyond the arguments
    and the result is bounded for every N and M.

    Args:
        pool_probabilities: floating array of shape ``(S, N, C)``: samples, candidates, classes.
        target_probabilities: floating array of shape ``(S, M, D)``, predictions of the targets by
            the same samples of the weights; D is usually C. A traced NaN gives NaN.

    Returns:
        Array of shape ``(N,)`` in nats; float32, or float64 if an argument is.

    Raises:
        TypeError: an argument is not floating.
        ValueError: a shape is not as above, there is no target, the numbers of samples differ, or
            known values are not probabilities.

    Example:
        >>> sure_but_at_odds = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> agreed = jnp.array([[0.5, 0.5], [0.5, 0.5]])
        >>> pool = jnp.stack([sure_but_at_odds, agreed], axis=1)
        >>> scores = epig(pool, sure_but_at_odds[:, None])
        >>> np.round(scores / np.log(2), 4).tolist()
        [1.0, 0.0]

    References:
        Bickford Smith et al., "Prediction-oriented Bayesian active learning", 2023, section 4.
    """
    named = {"pool_probabilities": pool_probabilities, "target_probabilities": target_probabilities}
    pool, targets = (
        _checks.check_probabilities(x, samples=True, name=name) for name, x in named.items()
    )
    for name, x in zip(named, (pool, targets)):
        if x.ndim != 3:
            raise ValueError(
                f"{name}: expected shape (S, N, C), got {x.shape}; "
                "put samples, examples and classes on one axis each, with reshape"
            )
    if pool.shape[0] != targets.shape[0]:
        raise ValueError(
            "pool_probabilities, target_probabilities: expected the same samples on axis 0, got "
            f"{pool.shape[0]} and {targets.shape[0]}; predict both with the same weights, for "
            "example by one call for both"
        )
    if not targets.shape[1]:
        raise ValueError(
            f"target_probabilities: expected at least one target, got shape {targets.shape}; "
            "give inputs on which the model is to be good, for example the pool itself"
        )
    wide = jnp.promote_types(pool.dtype, targets.dtype)
    return _epig(pool.astype(wide), targets.astype(wide))


@jax.jit
def _epig(pool: jax.Array, targets: jax.Array) -> jax.Array:
    per_pair = pool.shape[2] * targets.shape[2]
    targets = targets.swapaxes(0, 1)
    at_once = min(len(targets), max(1, _MAX_ELEMENTS // per_pair))

    def mean_information(candidate: jax.Array) -> jax.Array:
        def information(target: jax.Array) -> jax.Array:
            return _information(candidate, target)

        return jax.lax.map(information, targets, batch_size=at_once).mean()

    if not pool.shape[1]:
        return jnp.zeros(0, pool.dtype)
    chunk = max(1, _MAX_ELEMENTS // (len(targets) * per_pair))
    chunk = min(chunk, pool.shape[1])
    return jax.lax.map(mean_information, pool.swapaxes(0, 1), batch_size=chunk)


def _information(p: jax.Array, q: jax.Array) -> jax.Array:
    """Mutual information of two labels, whose probabilities have shapes (S, C) and (S, D)."""
    first, second = p.mean(0), q.mean(0)
    apart = first[:, None] * second[None]
    # The joint distribution less the product of its margins, from deviations, so that a small
    # difference keeps its digits.
    covariance = jnp.einsum(
        "sc,sd->cd", p - first[None], q - second[None], precision="highest"
    ) / len(p)
    gone = abs(apart) < jnp.finfo(p.dtype).tiny
    ratio = jnp.where(gone, 0, covariance) / jnp.where(gone, 1, apart)
    # Of all terms (1 + r) log(1 + r) - r, weighted, the last ones add up to 0. With them every term
    # is positive. Rounding may put 1 + r, the joint probability over ``apart``, at 0 or below.
    never = ratio <= -1
    log = jnp.log1p(jnp.where(never, 0, ratio))
    return jnp.maximum((apart * ((1 + ratio) * log - ratio)).sum(), 0)
