"""Several summaries of the same samples."""

from typing import Any

from jax.tree_util import Partial

from jaxdrop.mc._summary import Summary


def combine(**summaries: Summary) -> Summary:
    """Several summaries of the same samples, by name: the passes are run once for all of them.

    Args:
        **summaries: each a `Summary`.

    Returns:
        A `Summary` whose result is a dict of their results.

    Raises:
        TypeError: one is no `Summary`.
        ValueError: there is none.

    Example:
        >>> fn = lambda key, x: x + jax.random.normal(key, x.shape)
        >>> summary = combine(moments=moments(), band=quantiles((0.05, 0.95)))
        >>> out = predict(fn, jax.random.key(0), jnp.zeros(3), summary=summary)
        >>> out["moments"].mean.shape, out["band"].values.shape
        ((3,), (2, 3))
    """
    if not summaries:
        raise ValueError(
            "summaries: expected one or more by name, got none; write for example "
            "combine(moments=moments(), samples=samples())"
        )
    for name, summary in summaries.items():
        if not isinstance(summary, Summary):
            raise TypeError(
                f"{name}: expected a Summary, got {summary!r}; call it, as in {name}=moments()"
            )
    parts = {name: tuple(summary[:3]) for name, summary in summaries.items()}
    checks = {n: summary.check for n, summary in summaries.items() if summary.check is not None}
    return Summary(
        Partial(_init, parts),
        Partial(_update, parts),
        Partial(_result, parts),
        Partial(_check, checks) if checks else None,
    )


def _init(parts: dict, sample: Any, num_samples: int):
    return {name: init(sample, num_samples) for name, (init, _, _) in parts.items()}


def _update(parts, state, samples, start):
    return {name: update(state[name], samples, start) for name, (_, update, _) in parts.items()}


def _result(parts, state):
    return {name: result(state[name]) for name, (_, _, result) in parts.items()}


def _check(checks, result):
    for name, check in checks.items():
        check(result[name])
