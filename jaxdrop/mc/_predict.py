"""Many stochastic passes as one jitted program, reduced while they run."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _checks, _program, _pytrees, _summary
from jaxdrop.mc._audit import audit, warn
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
    **kwargs: Any,
) -> Any:
    """Runs ``fn`` with many keys and summarises its outputs.

    Sample ``i`` is ``fn(jax.random.fold_in(key, i), *args, **kwargs)``: it depends on the key and
    on ``i`` alone, so the masks are the same bits for every ``chunk_size``, and the outputs agree
    to the rounding of the matrix products. All passes are one program; what does not depend on the
    key runs once.

    A function predicts with what it holds at the time of the call: weights that were trained in
    place, attributes, globals. It is traced at every call to see them (some milliseconds for a
    small network) and is not kept alive; the same program is compiled once, for all weights.
    A function of `from_linen` or `from_nnx` is not traced again, unless a field of the model, an
    argument or ``sites`` holds a function of your own. It then does not see changes to what the
    methods of a model's class read from outside, nor, as anywhere in JAX, to what a function that
    is jitted inside has closed over. Under ``jax.grad`` or ``jax.vmap`` wrap the call in
    ``jax.jit``, because a function of your own is otherwise compiled at each call, as is one that
    calls back to a Python function without a module-level name. Under ``jax.disable_jit`` the
    passes run step by step.

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
        **kwargs: keyword arguments of ``fn``.

    Returns:
        The result of the summary.

    Raises:
        TypeError: a number is not an integer, ``key`` not a PRNG key, ``sample_axis`` not a name,
            ``summary`` not a `Summary`; ``fn`` is a model, returns other than arrays of numbers,
            or does not take a keyword argument.
        ValueError: a number is below 1; there is no example; the output does not depend on the
            key, in which case the message holds the audit; ``sample_axis`` is not an axis of the
            mesh, or the key of a kind whose samples run one after the other.

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
    masks.check_key(key)
    counts = counted(num_samples, chunk_size, memory_budget)
    summary = moments() if summary is None else _checks.check_summary(summary)
    fn, key = _checks.outputs(fn, output), masks.typed(key)
    with _checks.hints(kwargs, _OPTIONS):
        settled = _program.settle(fn, key, *args, **kwargs)
        axis = find_axis(sample_axis, key, (settled, args, kwargs))
        return summarised(settled, key, args, kwargs, summary, counts, axis)


_OPTIONS = [
    name
    for name, parameter in inspect.signature(predict).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
]


class Counts(NamedTuple):
    """How many passes there are.

    Attributes:
        num_samples: all of them.
        chunk_size: those side by side, or None if the budget decides.
        memory_budget: bytes that passes side by side may take, or None.
    """

    num_samples: int
    chunk_size: int | None
    memory_budget: int | None


def counted(num_samples: Any, chunk_size: Any, memory_budget: Any) -> Counts:
    """The checked numbers of passes."""
    num_samples = masks.check_count(num_samples, "num_samples", 100)
    if isinstance(chunk_size, str) and chunk_size == "auto":
        default = 2**25 if jax.default_backend() == "cpu" else 2**30
        budget = default if memory_budget is None else memory_budget
        return Counts(num_samples, None, masks.check_count(budget, "memory_budget", 2**30))
    example = "10, or chunk_size='auto', or chunk_size=num_samples for all at once"
    chunk_size = min(masks.check_count(chunk_size, "chunk_size", example), num_samples)
    return Counts(num_samples, chunk_size, None)


def summarised(
    fn: Any,
    key: jax.Array,
    args: Any,
    kwargs: Any,
    summary: Summary,
    counts: Counts,
    axis: "SampleAxis | None",
) -> Any:
    """The summary of the samples of a settled function."""
    arrays, static = _pytrees.split((fn, args, kwargs, tuple(summary[:3])))
    result = _program.call(_predict, (static, counts, axis), key, arrays)
    if summary.check is not None and not _pytrees.holds_tracer(result):
        summary.check(result)
    return result


def _predict(static: Any, key: jax.Array, arrays: list[Any]) -> Any:
    static, (num_samples, chunk_size, memory_budget), axis = static
    fn, args, kwargs, (init, update, finish) = _pytrees.join(arrays, static)
    report = audit(_program.original(fn), key, *args, **kwargs)
    if not report.depends_on_key:
        _refuse_empty((args, kwargs))
        raise ValueError(
            "fn: expected a function whose output depends on the key, got one that gives the same "
            "output in every pass; make it with jaxdrop.mc.from_linen or from_nnx, or give its "
            f"dropout a rate above 0. Its sites:\n{report}"
        )
    warn(report)

    def one(number: jax.Array) -> Any:
        return fn(jax.random.fold_in(key, number), *args, **kwargs)

    def several(state: Any, start: jax.Array, size: int) -> Any:
        return update(state, _passes(one, key, start, size, axis), start)

    devices = 1 if axis is None else axis.devices
    if chunk_size is None:
        chunk_size = _chunk_size(memory_budget * devices, report.bytes_a_pass, num_samples)
    chunk_size = -(-chunk_size // devices) * devices
    chunks, rest = divmod(num_samples, chunk_size)
    state = init(jax.eval_shape(one, jnp.uint32(0)), num_samples)
    state = jax.lax.fori_loop(
        0, chunks, lambda i, state: several(state, jnp.int32(i * chunk_size), chunk_size), state
    )
    if rest:
        state = several(state, jnp.int32(chunks * chunk_size), rest)
    return finish(state)


def _passes(
    one: Callable[[jax.Array], Any],
    key: jax.Array,
    start: jax.Array,
    size: int,
    axis: "SampleAxis | None",
) -> Any:
    """The samples ``start, ..., start + size - 1``, divided among the devices of an axis if any."""
    if axis is None:
        numbers = start.astype(jnp.uint32) + jnp.arange(size, dtype=jnp.uint32)
        return mapped(one, key)(numbers)
    padded = -(-size // axis.devices) * axis.devices
    numbers = start.astype(jnp.uint32) + jnp.arange(padded, dtype=jnp.uint32)
    names = axis.names if axis.names[1:] else axis.names[0]
    samples = jax.vmap(one, spmd_axis_name=names)(_spread(numbers, axis))
    if size == padded:
        return samples
    return jax.tree.map(lambda leaf: _summary.gather(leaf)[:size], samples)


def _refuse_empty(args: Any) -> None:
    for leaf in jax.tree.leaves(args):
        if 0 in getattr(leaf, "shape", ()):
            raise ValueError(
                f"args: expected at least one example, got an array of shape {leaf.shape}; leave "
                "empty batches out"
            )


def _chunk_size(budget: int, bytes_a_pass: int, num_samples: int) -> int:
    """As many passes as the budget has room for, or a few less if they then divide the samples."""
    most = min(max(budget // max(bytes_a_pass, 1), 1), num_samples)
    return next((n for n in range(most, (most + 1) // 2, -1) if num_samples % n == 0), most)


def mapped(fn: Callable[[Any], Any], key: jax.Array) -> Callable[[Any], Any]:
    """``fn`` over the first axis of its argument; it folds numbers into ``key``."""
    # Under vmap the other implementations draw for the whole batch from its first key, so samples
    # would depend on the chunk that they are in.
    if jax.random.key_impl(key) == "threefry2x32":
        return jax.vmap(fn)
    return functools.partial(jax.lax.map, fn)


class SampleAxis(NamedTuple):
    """Mesh axes that the samples are spread over.

    Attributes:
        mesh: the mesh, concrete or abstract.
        names: names of its axes, one or more.
    """

    mesh: Any
    names: tuple[str, ...]

    @property
    def devices(self) -> int:
        """Among how many devices the samples are divided."""
        return math.prod(self.mesh.shape[name] for name in self.names)


def find_axis(sample_axis: Any, key: jax.Array, arrays: Any) -> SampleAxis | None:
    """The named axis of the mesh that is set, else of the mesh that an array lies on; or None."""
    if sample_axis is None:
        return None
    names = (sample_axis,) if isinstance(sample_axis, str) else sample_axis
    if not isinstance(names, tuple) or not names or not all(isinstance(n, str) for n in names):
        raise TypeError(
            f"sample_axis: expected the name of a mesh axis or a tuple of names, got "
            f"{sample_axis!r}; write for example sample_axis='data'"
        )
    mesh = _mesh(arrays)
    known = () if mesh is None else mesh.axis_names
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise ValueError(
            f"sample_axis: expected different axes of the mesh, which has {list(known)}, got "
            f"{sample_axis!r}; set a mesh that has them with jax.set_mesh"
        )
    if jax.random.key_impl(masks.typed(key)) != "threefry2x32":
        raise ValueError(
            f"sample_axis: expected a threefry2x32 key, got {jax.random.key_impl(key)!r}, whose "
            "samples run one after the other; write jax.random.key(seed, impl='threefry2x32')"
        )
    return SampleAxis(mesh, names)


def _spread(numbers: jax.Array, axis: SampleAxis) -> jax.Array:
    """Numbers of samples, divided among the devices."""
    sharding = NamedSharding(axis.mesh, PartitionSpec(axis.names))
    kinds = dict(zip(axis.mesh.axis_names, axis.mesh.axis_types))
    if AxisType.Explicit in {kinds[name] for name in axis.names}:
        return jax.sharding.reshard(numbers, sharding)
    return jax.lax.with_sharding_constraint(numbers, sharding)


def _mesh(arrays: Any) -> Any:
    """The mesh of the context, else the one that an array lies on, else None."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        return mesh
    for array in jax.tree.leaves(arrays):
        sharding = array.sharding if isinstance(array, jax.Array) else None
        if isinstance(sharding, NamedSharding) and not sharding.mesh.empty:
            return sharding.mesh
    return None
