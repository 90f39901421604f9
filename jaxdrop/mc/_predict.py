"""Many stochastic passes as one jitted program, reduced while they run."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxdrop.functional._drop import check_count
from jaxdrop.masks import _keys
from jaxdrop.mc import _sample_axis, _trace
from jaxdrop.mc._audit import audit, warn
from jaxdrop.mc._moments import moments
from jaxdrop.mc._summary import Summary


def predict(
    fn: Any,
    key: Any,
    *args: Any,
    num_samples: int = 100,
    summary: Summary | None = None,
    chunk_size: int | Literal["auto"] = 10,
    memory_budget: int | None = None,
    sample_axis: str | tuple[str, ...] | None = None,
    **kwargs: Any,
) -> Any:
    """Runs ``fn`` with many keys and summarises its outputs.

    Sample ``i`` is ``fn(jax.random.fold_in(key, i), *args, **kwargs)``: it depends on the key and
    on ``i`` alone, so the masks are the same bits for every ``chunk_size``, and the outputs agree
    to the rounding of the matrix products. All passes are one program, compiled once for the
    shapes of the arguments; what does not depend on the key runs once.

    Args:
        fn: function of a PRNG key and more arguments, from `from_linen`, `from_nnx` or of your
            own; returns an array or a pytree of arrays.
        key: PRNG key.
        *args: arguments of ``fn`` after the key. Arrays are traced; all else, such as
            ``train=False``, is passed as it is and has to be hashable.
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
        **kwargs: keyword arguments of ``fn``.

    Returns:
        The result of the summary.

    Raises:
        TypeError: a number is no integer, ``key`` no PRNG key, or ``sample_axis`` no name.
        ValueError: a number is below 1; the output does not depend on the key, in which case the
            message holds the audit; ``sample_axis`` is no axis of the mesh, or the key of a kind
            whose samples run one after the other.

    Example:
        >>> model = nn.Sequential([nn.Dense(8), nn.Dropout(0.5, deterministic=True), nn.Dense(2)])
        >>> x = jnp.ones((3, 4))
        >>> fn = from_linen(model, model.init(jax.random.key(0), x))
        >>> out = predict(fn, jax.random.key(1), x, num_samples=50)
        >>> out.mean.shape, bool((out.variance > 0).all())
        ((3, 2), True)

    References:
        Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in
        deep learning", 2016, eq. 6 and 9.
    """
    _keys.check_key(key)
    num_samples = check_count(num_samples, "num_samples", 100)
    size = budget = None
    if isinstance(chunk_size, str) and chunk_size == "auto":
        budget = _default_budget() if memory_budget is None else memory_budget
        budget = check_count(budget, "memory_budget", 2**30)
    else:
        size = min(check_count(chunk_size, "chunk_size", 10), num_samples)
    summary = moments() if summary is None else summary
    arrays, static = _trace.split((fn, args, kwargs, tuple(summary)))
    counts = {"num_samples": num_samples, "chunk_size": size, "memory_budget": budget}
    axis = _sample_axis.find(sample_axis, key, arrays)
    result = _predict(key, arrays, static=static, axis=axis, **counts)
    if summary.check is not None and not any(
        isinstance(leaf, Tracer) for leaf in jax.tree.leaves(result)
    ):
        summary.check(result)
    return result


@functools.partial(
    jax.jit,
    static_argnames=("static", "num_samples", "chunk_size", "memory_budget", "axis"),
    inline=False,
)
def _predict(key, arrays, *, static, num_samples, chunk_size, memory_budget, axis):
    fn, args, kwargs, functions = _trace.join(arrays, static)
    summary = Summary(*functions)
    key = _keys.typed(key)
    report = audit(fn, key, *args, **kwargs)
    if not report.depends_on_key:
        raise ValueError(
            "fn: expected a function whose output depends on the key, got one that gives the same "
            "output in every pass; make it with jaxdrop.mc.from_linen or from_nnx, or give its "
            f"dropout a rate above 0. Its sites:\n{report}"
        )
    warn(report)

    def one(number):
        return fn(jax.random.fold_in(key, number), *args, **kwargs)

    def several(state, start, size):
        return summary.update(state, _passes(one, key, start, size, axis), start)

    devices = 1 if axis is None else axis.devices
    if chunk_size is None:
        chunk_size = _chunk_size(memory_budget * devices, report.bytes_a_pass, num_samples)
    chunk_size = -(-chunk_size // devices) * devices
    chunks, rest = divmod(num_samples, chunk_size)
    state = summary.init(jax.eval_shape(one, jnp.uint32(0)), num_samples)
    state = jax.lax.fori_loop(
        0, chunks, lambda i, state: several(state, i * chunk_size, chunk_size), state
    )
    if rest:
        state = several(state, jnp.int32(chunks * chunk_size), rest)
    return summary.result(state)


def _passes(one, key, start, size, axis):
    """The samples ``start, ..., start + size - 1``, divided among the devices of an axis if any."""
    if axis is None:
        numbers = start.astype(jnp.uint32) + jnp.arange(size, dtype=jnp.uint32)
        return mapped(one, key)(numbers)
    padded = -(-size // axis.devices) * axis.devices
    numbers = start.astype(jnp.uint32) + jnp.arange(padded, dtype=jnp.uint32)
    names = axis.names if len(axis.names) > 1 else axis.names[0]
    samples = jax.vmap(one, spmd_axis_name=names)(_sample_axis.spread(numbers, axis))
    if size == padded:
        return samples
    return jax.tree.map(lambda leaf: _sample_axis.gather(leaf)[:size], samples)


def _default_budget():
    return 2**25 if jax.default_backend() == "cpu" else 2**30


def _chunk_size(budget, bytes_a_pass, num_samples):
    """As many passes as the budget has room for; rather a little fewer than a ragged rest."""
    most = min(max(budget // max(bytes_a_pass, 1), 1), num_samples)
    return next((n for n in range(most, (most + 1) // 2, -1) if num_samples % n == 0), most)


def mapped(fn, key):
    """``fn`` over the first axis of its argument, where it folds numbers into ``key``."""
    # Under vmap the other implementations draw for the whole batch from its first key, which
    # would make samples depend on the chunk they fall into.
    if jax.random.key_impl(key) == "threefry2x32":
        return jax.vmap(fn)
    return functools.partial(jax.lax.map, fn)
