"""Many stochastic passes as one jitted program, reduced while they run."""

import inspect
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _adaptive, _checks, _program, _pytrees
from jaxdrop.mc._adaptive import Adaptive
from jaxdrop.mc._passes import Counts, SampleAxis, counted, find_axis, key_alike
from jaxdrop.mc._summary import Summary, moments


def predict(
    fn: Any,
    key: Any,
    *args: Any,
    num_samples: int = 100,
    summary: Summary | None = None,
    chunk_size: int | Literal["auto"] = 10,
    memory_budget: int | None = None,
    sample_axis: str | tuple[str, ...] | None = None,
    output: Callable[[Any], Any] | None = None,
    balanced: bool | None = None,
    tolerance: float | None = None,
    max_samples: int = 4096,
    **kwargs: Any,
) -> Any:
    """Runs ``fn`` with many keys and summarises its outputs.

    Sample ``i`` depends on the key and on ``i`` alone, and on the size of a block if passes are
    balanced. So the masks are the same bits for every ``chunk_size``, and the outputs agree to the
    rounding of the matrix products. If passes are independent, sample ``i`` is
    ``fn(jax.random.fold_in(key, i), *args, **kwargs)``. All passes are one program; what does not
    depend on the key runs once.

    A function predicts with what it holds at the time of the call: weights that were trained in
    place, attributes, globals. It is traced at every call to see them (some milliseconds for a
    small network) and is not kept alive; the same program is compiled once, for all weights.
    A function of `from_linen` or `from_nnx` is not traced again, unless a field of the model, an
    argument or ``sites`` holds a function of your own. It then does not see changes to what the
    methods of a model's class read from outside, nor, as anywhere in JAX, to what a function that
    is jitted inside has closed over. Under ``jax.grad`` or ``jax.vmap`` wrap the call in
    ``jax.jit``. Otherwise two kinds of functions are compiled at each call: a function of your
    own, and one that calls back to a Python function that is not defined by name at the top of a
    module, such as a lambda. Under ``jax.disable_jit`` the passes run step by step.

    Args:
        fn: function of a PRNG key and more arguments, from `from_linen`, `from_nnx` or of your
            own; returns an array or a pytree of arrays.
        key: PRNG key.
        *args: arguments of ``fn`` after the key. Arrays are traced; all else, such as
            ``train=False``, is passed as it is: 1, 1.0 and True are three arguments.
        num_samples: number of passes, at least 1.
        summary: what to make of the samples: `moments` (the default), `classification`,
            `regression`, `quantiles`, `samples`, or several of them by `combine`.
        chunk_size: number of passes that run side by side, at least 1; or ``"auto"``, as many as
            the budget has room for. Memory grows with it, the samples do not depend on it.
        memory_budget: bytes that passes side by side may take, counted from the shapes of one
            pass; used by ``"auto"``. None is 32 MiB on a CPU, about what its cache holds, and
            1 GiB elsewhere.
        sample_axis: mesh axis, or axes, over whose devices the samples are divided; of the mesh
            that ``jax.set_mesh`` has set, else of the one that an argument lies on. Arguments may
            be sharded over the others. ``chunk_size`` is rounded up to a multiple of the number
            of devices, ``memory_budget`` holds for each. None leaves the samples together, and
            sharded arguments need nothing.
        output: function that picks what to summarise from the output of ``fn``, if that is more
            than arrays of numbers, such as ``lambda out: out["logits"]``.
        balanced: whether passes share their drops out. They then come in blocks of S passes, the
            largest power of two up to 128 of which four fit into ``num_samples``. With a tolerance
            S is 16, or 8 if every rate is known and from 0.1 to 0.9. In a block each decision
            drops in floor(rate * S) or ceil(rate * S) passes, in an order of its own, which takes
            much error from means and none from spreads. Pass ``i`` depends on the key, on ``i``
            and on S. Every draw of jaxdrop that drops is balanced, and dropout of Flax under the
            adapters. Continuous noise, layers whose rate decides a shape and draws of
            ``jax.random`` stay independent. None is False for summaries that return the samples or
            order them, such as `samples` and `quantiles`, and True for the others. Write False if
            ``fn`` takes the data of its key apart, because the keys of balanced passes have three
            words. ``standard_error`` comes from the means of whole blocks, times a factor by which
            two standard errors hold what they should although blocks are few (Student's t).
            ``chunk_size`` is rounded down to a power of two or to whole blocks.
        tolerance: blocks are added to the first four until no standard error is above it, or
            until there are ``max_samples``; then ``num_samples`` is not used. May be traced.
        max_samples: the most passes with a tolerance, at least 64.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        The result of the summary; with a tolerance an `Adaptive` one, which holds it.

    Raises:
        TypeError: a number is not an integer, ``key`` not a PRNG key, ``sample_axis`` not a name,
            ``summary`` not a `Summary`; ``fn`` is a model, returns other than arrays of numbers,
            or does not take a keyword argument.
        ValueError: a number is below 1, ``tolerance`` is not above 0, ``max_samples`` is below 64,
            or the summary does not suit ``balanced`` or ``tolerance``; there is no example; the
            output does not depend on the key, in which case the message holds the audit;
            ``sample_axis`` is not an axis of the mesh, or the key of a kind whose samples run one
            after the other.

    Example:
        >>> model = nn.Sequential([nn.Dense(8), nn.Dropout(0.5, deterministic=True), nn.Dense(2)])
        >>> x = jnp.ones((3, 4))
        >>> fn = from_linen(model, model.init(jax.random.key(0), x))
        >>> out = predict(fn, jax.random.key(1), x, num_samples=50)
        >>> out.mean.shape, bool((out.variance > 0).all())
        ((3, 2), True)
        >>> out = predict(fn, jax.random.key(1), x, tolerance=0.1)
        >>> bool(out.reached), out.result.mean.shape
        (True, (3, 2))

    References:
        Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in
        deep learning", 2016, eq. 6 and 9.
    """
    masks.check_key(key)
    numbers = num_samples, chunk_size, memory_budget, tolerance, max_samples
    summary, counts, tolerance = planned(summary, balanced, *numbers)
    fn, key = _checks.outputs(fn, output), masks.typed(key)
    with _checks.hints(kwargs, _OPTIONS):
        alike = key_alike(key, counts, sample_axis is not None)
        settled = _program.settle(fn, alike, *args, **kwargs)
        if tolerance is not None:
            before = counts
            summary, counts = _adaptive.suited(settled, key, args, kwargs, summary, counts)
            if counts != before:  # keys are of another kind
                alike = key_alike(key, counts, sample_axis is not None)
                settled = _program.settle(fn, alike, *args, **kwargs)
        axis = find_axis(sample_axis, key, (settled, args, kwargs))
        return summarised(settled, key, args, kwargs, summary, counts, axis, tolerance)


def planned(
    summary: Summary | None,
    balanced: Any,
    num_samples: Any,
    chunk_size: Any,
    memory_budget: Any,
    tolerance: Any,
    max_samples: Any,
) -> tuple[Summary, Counts, Any]:
    """The summary of such passes, the checked numbers of them, and the tolerance as an array.

    With a tolerance `_adaptive.suited` then fits the first two to a function.
    """
    summary = moments() if summary is None else _checks.check_summary(summary)
    if balanced is None:
        balanced = summary.in_blocks is not None and not summary.stores
    counts = counted(num_samples, chunk_size, memory_budget, balanced, tolerance, max_samples)
    if counts.block_bits:
        if summary.in_blocks is None:
            raise ValueError(
                "balanced: expected a summary whose standard errors can come from blocks of "
                "passes, such as moments(), got one that takes all passes as independent, such as "
                "quantiles(); leave balanced out, or give your own Summary the field in_blocks"
            )
        if tolerance is None:
            summary = summary.in_blocks(counts.block_size)
    if tolerance is None:
        return summary, counts, None
    if summary.stores:
        raise ValueError(
            "tolerance: expected a summary that does not store the passes, such as moments(), got "
            "samples() or quantiles(); write num_samples=100 instead of a tolerance"
        )
    tolerance = masks.check_real(
        tolerance, "tolerance", _TOLERANCES, "(0, inf)", "a number", "0.01 is usual"
    )
    return summary, counts, jnp.asarray(tolerance, jnp.float32)


_TOLERANCES = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_OPTIONS = [
    name
    for name, parameter in inspect.signature(predict).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
]


def summarised(
    fn: Any,
    key: jax.Array,
    args: Any,
    kwargs: Any,
    summary: Summary,
    counts: Counts,
    axis: SampleAxis | None,
    tolerance: Any = None,
) -> Any:
    """The summary of the samples of a settled function."""
    arrays, static = _pytrees.split((fn, args, kwargs, tuple(summary[:3])))
    result = _program.call(_predict, (static, counts, axis), key, tolerance, arrays)
    if summary.check is not None and not _pytrees.holds_tracer(result):
        summary.check(result if tolerance is None else result.result)
    return result


def _predict(static: Any, key: jax.Array, tolerance: Any, arrays: list[Any]) -> Any:
    """All passes of a call, or as many as a tolerance needs."""
    run = _adaptive.prepared(static, key, arrays, stored=tolerance is None)
    state = run.more(run.state, 0, run.counts.least)
    if tolerance is None:
        return run.finish(state)

    def is_open(state: Any) -> jax.Array:
        errors = _adaptive.errors_of(run.finish(state))
        return jnp.stack([(error > tolerance.astype(error.dtype)).any() for error in errors]).any()

    state, taken = run.until(is_open, state, jnp.int32(run.counts.least))
    result = run.finish(state)
    errors = _adaptive.errors_of(result)
    within = [(error <= tolerance.astype(error.dtype)).all() for error in errors]
    return Adaptive(result, taken, jnp.stack(within).all())
