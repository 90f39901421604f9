"""Uncertainty by the loss that a prediction is paid with, split into model and noise."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks, _entropy, _repr, _scores

_RULES = "log", "brier", "zero_one"


class ScoringRuleSplit(NamedTuple):
    """Expected losses of a prediction, each of shape ``(...)`` for samples ``(S, ..., C)``.

    Attributes:
        epistemic: what more knowledge of the weights would save, at least 0.
        aleatoric: mean over the samples of the loss that each expects.
        total: the loss that the averaged prediction expects, the sum of the two.
    """

    epistemic: jax.Array
    aleatoric: jax.Array
    total: jax.Array

    def __repr__(self) -> str:
        return _repr.short(self)


def scoring_rule_split(probabilities: ArrayLike, rule: str = "log") -> ScoringRuleSplit:
    """Splits the loss that a prediction expects into model and noise, for a proper scoring rule.

    A rule has an entropy G, the least loss to expect if the classes are drawn from p. With it,
    ``total = G[1/S sum_s p_s]``, ``aleatoric = 1/S sum_s G[p_s]`` and ``epistemic`` is the
    difference, computed as a mean of terms of at least 0.

    | rule | loss | G |
    | --- | --- | --- |
    | ``"log"`` | `negative_log_likelihood` | ``-sum_c p_c log p_c``, in nats |
    | ``"brier"`` | `brier_score` | ``1 - sum_c p_c^2`` |
    | ``"zero_one"`` | 1 - `accuracy` | ``1 - max_c p_c`` |

    For ``"log"`` the parts are `predictive_entropy`, `expected_entropy` and `mutual_information`.
    For ``"brier"`` the epistemic part is the sum of the variances of the probabilities. For
    ``"zero_one"`` it is 0 if all samples vote for one class. Choose the loss of the task.

    Args:
        probabilities: floating array of shape ``(S, ..., C)``, samples on axis 0.
        rule: ``"log"``, ``"brier"`` or ``"zero_one"``.

    Returns:
        The `ScoringRuleSplit`; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: ``probabilities`` is not floating.
        ValueError: ``rule`` is unknown, the axis of samples is missing or empty, there are fewer
            than two classes, or the values are known and are not probabilities.

    Example:
        >>> sure_but_at_odds = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> [float(part) for part in scoring_rule_split(sure_but_at_odds, "brier")]
        [0.5, 0.0, 0.5]

    References:
        Gneiting & Raftery, "Strictly proper scoring rules, prediction, and estimation", 2007,
        section 2. Hofman et al., "Quantifying aleatoric and epistemic uncertainty with proper
        scoring rules", 2024. Kotelevskii & Panov, "Predictive uncertainty quantification via risk
        decompositions for strictly proper scoring rules", 2024.
    """
    if not (isinstance(rule, str) and rule in _RULES):
        raise ValueError(
            f"rule: expected 'log', 'brier' or 'zero_one', got {rule!r}; "
            "write for example rule='brier', and name the loss of the task"
        )
    p = _checks.check_probabilities(probabilities, samples=True)
    return _scoring_rule_split(p, rule=rule)


@functools.partial(jax.jit, static_argnames="rule")
def _scoring_rule_split(p: jax.Array, *, rule: str) -> ScoringRuleSplit:
    mean = p.mean(0)
    if rule == "log":
        epistemic = _entropy.mutual_information_of(p)
        aleatoric, total = _entropy.expected_entropy_of(p), _entropy.entropy_of(mean)
    elif rule == "brier":
        epistemic = jnp.square(p - mean[None]).mean(0).sum(-1)
        aleatoric, total = (p * (1 - p)).mean(0).sum(-1), (mean * (1 - mean)).sum(-1)
    else:
        # What each sample expects to lose by the vote of their mean, instead of by its own.
        vote = _scores.one_hot(mean.argmax(-1), mean)
        epistemic = (p.max(-1) - jnp.where(vote[None], p, 0).sum(-1)).mean(0)
        aleatoric, total = 1 - p.max(-1).mean(0), 1 - mean.max(-1)
    return ScoringRuleSplit(epistemic, aleatoric, total)
