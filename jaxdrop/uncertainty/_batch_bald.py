"""Which examples to label next, chosen together."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks, _entropy, _repr

_MAX_CONFIGURATIONS = 10**6
_MAX_ELEMENTS = 2**20


class BatchSelection(NamedTuple):
    """Examples chosen one after the other, each array of shape ``(batch_size,)``.

    Attributes:
        indices: indices of the examples, int32, in the order of their choice, all different.
        scores: mutual information of labels and weights, in nats: element k is that of the first
            k + 1 examples together.
    """

    indices: jax.Array
    scores: jax.Array

    def __repr__(self) -> str:
        return _repr.short(self)


def batch_bald(probabilities: ArrayLike, batch_size: int) -> BatchSelection:
    """Chooses examples whose labels, taken together, tell most about the weights.

    The choice is greedy: each step adds the example that makes the joint mutual information
    ``H[y_1, ..., y_b] - 1/S sum_s sum_i H[p_si]`` largest, the first of equal ones. An example
    that repeats what another one tells adds nothing; a sum of `mutual_information` counts it
    twice. The first choice is that of `mutual_information`. Scores are at most ``log S``.

    The joint distribution is exact, over all ``C ** batch_size`` combinations of labels. Time
    grows with ``S N C ** batch_size``, memory with ``S C ** (batch_size - 1)`` for every N.

    Args:
        probabilities: floating array of shape ``(S, N, C)``: samples, candidates, classes.
            Traced NaN gives NaN scores.
        batch_size: how many to choose, a Python integer in [1, N] with ``C ** batch_size`` at
            most a million.

    Returns:
        The `BatchSelection`; scores in float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: ``probabilities`` is not floating, or ``batch_size`` is not a Python
            integer.
        ValueError: the shape is not ``(S, N, C)``, known values are not probabilities,
            ``batch_size`` lies outside [1, N], or there are too many combinations.

    Example:
        >>> twice = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> other = jnp.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.1, 0.9]])
        >>> chosen = batch_bald(jnp.stack([twice, twice, other], axis=1), 2)
        >>> chosen.indices.tolist()
        [0, 2]

    References:
        Kirsch et al., "BatchBALD: efficient and diverse batch acquisition for deep Bayesian
        active learning", 2019.
    """
    p = _checks.check_probabilities(probabilities, samples=True)
    if p.ndim != 3:
        raise ValueError(
            f"probabilities: expected shape (S, N, C), got {p.shape}; "
            "put samples, candidates and classes on one axis each, with reshape"
        )
    batch_size = _checks.check_count(batch_size, "batch_size", "example", 3)
    _check_batch_size(batch_size, *p.shape[1:])
    return _batch_bald(p, batch_size=batch_size)


def _check_batch_size(batch_size: int, candidates: int, classes: int) -> None:
    if batch_size > candidates:
        raise ValueError(
            f"batch_size: expected at most {candidates}, the number of candidates, got "
            f"{batch_size}; choose fewer, or give more candidates"
        )
    if classes**batch_size > _MAX_CONFIGURATIONS:
        most = max(b for b in range(batch_size) if classes**b <= _MAX_CONFIGURATIONS)
        raise ValueError(
            f"batch_size: expected at most {most} for {classes} classes, got {batch_size}: the "
            f"joint distribution would have {classes}**{batch_size} elements, and a million is the "
            "limit; choose fewer at a time, or the largest of mutual_information with jax.lax.top_k"
        )


@functools.partial(jax.jit, static_argnames="batch_size")
def _batch_bald(p: jax.Array, *, batch_size: int) -> BatchSelection:
    expected = _entropy.expected_entropy_of(p)
    scores = _entropy.mutual_information_of(p)
    taken = jnp.zeros(p.shape[1], bool)
    joint, within = jnp.ones((p.shape[0], 1), p.dtype), jnp.zeros((), p.dtype)
    indices: list[jax.Array] = []
    best: list[jax.Array] = []
    for step in range(batch_size):
        if step:
            joint = (joint[:, :, None] * p[:, indices[-1], None]).reshape(p.shape[0], -1)
            within = within + expected[indices[-1]]
            scores = _joint_entropies(joint, p) - within - expected
        pick = jnp.where(taken, -jnp.inf, scores).argmax().astype(jnp.int32)
        taken = taken.at[pick].set(True)
        indices.append(pick)
        best.append(scores[pick])
    # More labels never tell less, but the rounded difference of two entropies may fall.
    gained = jax.lax.cummax(jnp.stack(best))
    return BatchSelection(jnp.stack(indices), gained)


def _joint_entropies(joint: jax.Array, p: jax.Array) -> jax.Array:
    """Entropy of the chosen labels with that of each candidate, a few candidates at a time."""

    def entropy(candidate: jax.Array) -> jax.Array:
        products = jnp.einsum("sm,sc->mc", joint, candidate, precision="highest")
        return _entropy.entropy_of(products / p.shape[0]).sum()

    chunk = max(1, _MAX_ELEMENTS // (joint.shape[1] * p.shape[2]))
    return jax.lax.map(entropy, p.swapaxes(0, 1), batch_size=min(chunk, p.shape[1]))
