"""Predictions for more data than fit at once."""

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _adaptive, _checks, _jaxpr, _program, _pytrees
from jaxdrop.mc._adaptive import Adaptive
from jaxdrop.mc._passes import find_axis, key_alike, mapped
from jaxdrop.mc._predict import planned, summarised
from jaxdrop.mc._summary import Summary

_KEYS = ("batch", "example", "call")
_STOPS = ("batch", "example")


def predict_batches(
    fn: Any,
    key: Any,
    batches: Iterable[Any],
    *,
    num_samples: int = 100,
    summary: Summary | None = None,
    chunk_size: int | Literal["auto"] = 10,
    memory_budget: int | None = None,
    sample_axis: str | tuple[str, ...] | None = None,
    output: Callable[[Any], Any] | None = None,
    inputs: Callable[[Any], Any] | None = None,
    keys: str = "batch",
    progress: bool = True,
    balanced: bool | None = None,
    tolerance: float | None = None,
    max_samples: int = 4096,
    stop: str = "batch",
) -> Any:
    """`predict` for each of many batches, and their results put together.

    A batch that is smaller than the first one, as the last often is, is filled up with copies of
    its last example, whose results are cut off again: all batches run the same program. It is
    placed on the devices as the first one is. The mask of an example does not depend on the number
    of examples beside it, so the results are those of the smaller batch, to the rounding of the
    products. This does not hold for a function whose examples interact or whose batch is not axis 0
    of what it draws, nor for keys other than threefry, whose bits depend on the whole shape.

    Args:
        fn: as for `predict`.
        key: PRNG key.
        batches: list, generator or data loader of arrays, of tuples of the arguments of ``fn``
            after the key, or of what ``inputs`` picks from. Examples are axis 0 of every array that
            ``fn`` gets. Tensors that NumPy can read will do.
        num_samples: as for `predict`.
        summary: as for `predict`; each of its results has to have an axis of examples.
        chunk_size: as for `predict`.
        memory_budget: as for `predict`.
        sample_axis: as for `predict`.
        output: as for `predict`.
        inputs: function that picks from a batch what ``fn`` gets after the key, an array or a
            tuple of arguments, such as ``lambda batch: batch[0]`` for pairs of inputs and targets.
        keys: what gets a key of its own. ``"batch"``: batch b is
            ``predict(fn, jax.random.fold_in(key, b), ...)``. ``"example"``: sample i of example n
            is ``fn(jax.random.fold_in(jax.random.fold_in(key, i), n), example)``, a batch of one,
            so that results do not depend on how the data are cut into batches; it takes longer.
            ``"call"``: every batch is ``predict(fn, key, ...)``, so that a function whose masks
            are shared by its batch asks the same sub-networks about all data.
        progress: whether to show a bar on stderr, if tqdm is installed.
        balanced: as for `predict`.
        tolerance: as for `predict`, for each batch or example.
        max_samples: as for `predict`, for each batch or example.
        stop: what stops when its standard errors are within the tolerance: ``"batch"``, or
            ``"example"``, whose passes are then only those that it needs. The examples that are
            left are gathered when they are half of the batch, so a batch of B compiles about
            log2(B) programs. Gathered examples meet other masks than they would have met in their
            old places, unless keys are per example. Not with ``sample_axis``.

    Returns:
        The result of the summary for all examples, with NumPy arrays; with a tolerance an
        `Adaptive` one, which says for each example how many passes it or its batch has taken.

    Raises:
        TypeError: as `predict`; a batch is a list, or ``fn`` does not take it as it is: the
            message names ``inputs``.
        ValueError: as `predict`; there is no batch, one is empty or larger than the first, its
            arrays differ in their number of examples, ``keys`` is unknown, or a result has no
            axis of examples.

    Example:
        >>> model = nn.Sequential([nn.Dense(8), nn.Dropout(0.5, deterministic=True), nn.Dense(2)])
        >>> fn = from_linen(model, model.init(jax.random.key(0), jnp.ones((1, 4))))
        >>> batches = [jnp.ones((8, 4)), jnp.ones((8, 4)), jnp.ones((3, 4))]
        >>> predict_batches(fn, jax.random.key(1), batches, progress=False).mean.shape
        (19, 2)
    """
    masks.check_key(key)
    if keys not in _KEYS:
        raise ValueError(
            f"keys: expected one of {', '.join(map(repr, _KEYS))}, got {keys!r}; "
            "write 'batch' for a key per batch"
        )
    if stop not in _STOPS:
        raise ValueError(
            f"stop: expected one of {', '.join(map(repr, _STOPS))}, got {stop!r}; write 'example' "
            "to stop each example by itself"
        )
    if stop == "example" and (tolerance is None or sample_axis is not None):
        raise ValueError(
            "stop: expected a tolerance and no sample_axis beside 'example', got "
            f"tolerance={tolerance} and sample_axis={sample_axis!r}; write tolerance=0.01"
        )
    if inputs is not None and not callable(inputs):
        raise TypeError(
            f"inputs: expected a function that picks the inputs of a batch, got {inputs!r}; write "
            "for example inputs=lambda batch: batch[0]"
        )
    fn, key = _checks.outputs(fn, output), masks.typed(key)
    numbers = num_samples, chunk_size, memory_budget, tolerance, max_samples
    summary, counts, within = planned(summary, balanced, *numbers)
    results, first, axes, done, settled, fits = [], None, None, 0, None, None
    axes_of_state = None
    for number, batch in enumerate(with_bar(batches, progress, "batch")):
        args = _arguments(batch, inputs)
        size = examples(args)
        first = args if first is None else first
        args = _filled(args, first, size)
        one, args = _keyed(fn, keys, args, done)
        used = jax.random.fold_in(key, number) if keys == "batch" else jax.random.clone(key)
        with _hints(one, used, args, batch if inputs is None else None):
            if number == 0 and tolerance is not None:
                now = _program.settle(one, used, *args)
                summary, counts = _adaptive.suited(now, used, args, {}, summary, counts)
            if stop == "example":
                options = summary, counts, None
                if axes is None:
                    axes = _example_axes(_summarised(one, options), used, args)
                    axes_of_state = _example_axes(_state(one, options), used, args, least=0)
                settle = functools.partial(_settled, one, key_alike(used, counts, divided=False))
                stopped = _adaptive.each_example(
                    settle, used, args, summary, counts, within, (axes, axes_of_state)
                )
            else:
                if settled is None or fits is None or fits != _program.signature(args):
                    alike = key_alike(used, counts, sample_axis is not None)
                    settled, fits = _program.settle(one, alike, *args), _program.signature(args)
                axis = find_axis(sample_axis, key, (settled, args))
                result = summarised(settled, used, args, {}, summary, counts, axis, within)
                stopped = Adaptive(result, None, None) if tolerance is None else result
                if axes is None:
                    call = _summarised(one, (summary, counts, axis))
                    axes = _example_axes(call, used, args, stopped.result)
        results.append(_cut(stopped, size, axes))
        done += size
    if axes is None:
        raise ValueError("batches: expected one or more, got none; a generator is used up once")
    cuts, taken, reached = zip(*results)
    joined = jax.tree.map(lambda axis, *parts: np.concatenate(parts, axis), axes, *cuts)
    if tolerance is None:
        return joined
    if stop == "example" and summary.check is not None:
        summary.check(joined)
    return Adaptive(joined, np.concatenate(taken), np.concatenate(reached))


def _cut(stopped: Adaptive, size: int, axes: Any) -> Adaptive:
    """The results of the first ``size`` examples; a number for all of them is one for each."""
    cut = jax.tree.map(lambda x, axis: np.asarray(x).take(range(size), axis), stopped.result, axes)
    each = (None if x is None else np.resize(x, size) for x in stopped[1:])
    return Adaptive(cut, *each)


def _settled(fn: Any, key: jax.Array, args: Any) -> Any:
    return _program.settle(fn, key, *args)


def _summarised(fn: Any, options: Any) -> Callable[..., Any]:
    return lambda key, args: summarised(fn, key, args, {}, *options)


def _state(fn: Any, options: Any) -> Callable[..., Any]:
    """A function of key and arguments that gives the state of the summary."""
    summary, counts, axis = options

    def state(key: jax.Array, args: Any) -> Any:
        arrays, static = _pytrees.split((fn, args, {}, tuple(summary[:3])))
        return _adaptive.prepared((static, counts, axis), key, arrays, stored=False).state

    return state


def with_bar(batches: Iterable[Any], progress: bool, unit: str) -> Iterable[Any]:
    """What is iterated over, with a bar if it is asked for and tqdm is there."""
    if not progress:
        return batches
    try:
        from tqdm import tqdm
    except ImportError:
        return batches
    return tqdm(batches, unit=unit, ncols=78)


def examples(args: Any, name: str = "batches") -> int:
    """Number of examples of a batch."""
    leaves = [leaf for leaf in jax.tree.leaves(args) if _pytrees.is_array(leaf)]
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        raise ValueError(
            f"{name}: expected arrays with the same number of examples on axis 0, at least one, "
            f"got shapes {[leaf.shape for leaf in leaves]}; bind what is the same for all batches "
            "in a lambda"
        )
    return sizes.pop()  # pyright: ignore[reportReturnType]


def _filled(args: Any, first: Any, size: int) -> Any:
    """The arguments with as many examples as the first ones, which they are then placed like."""
    largest = examples(first)
    if size > largest:
        raise ValueError(
            f"batches: expected at most as many examples as in the first, {largest}, got {size}; "
            "put the largest batch first"
        )
    return args if size == largest else jax.tree.map(_fill, args, first)


def _fill(x: Any, like: Any) -> Any:
    if not _pytrees.is_array(x):
        return x
    rows = np.minimum(np.arange(like.shape[0]), x.shape[0] - 1)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _fill(jax.random.key_data(x), jax.random.key_data(like))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    x = np.asarray(x)[rows]
    if isinstance(like, jax.Array) and like.committed:
        return jax.device_put(x, like.sharding)
    return x


def _arguments(batch: Any, inputs: Callable[[Any], Any] | None) -> Any:
    """The arguments of the function in a batch, a tuple; tensors of others as NumPy arrays."""
    picked = batch if inputs is None else inputs(batch)
    if inputs is None and isinstance(picked, list):
        raise TypeError(
            f"batches: expected arrays, or tuples of the arguments of fn, got a list of "
            f"{len(picked)}; write inputs=lambda batch: batch[0] if a batch is [inputs, "
            "targets], or inputs=tuple if all of it are arguments"
        )
    return jax.tree.map(_pytrees.as_array, picked if isinstance(picked, tuple) else (picked,))


@contextlib.contextmanager
def _hints(fn: Any, key: jax.Array, args: Any, batch: Any) -> Generator[None]:
    """Inside, an error of a function that does not take a batch as it is names ``inputs``."""
    kinds = (TypeError, ValueError, AttributeError, LookupError)
    try:
        yield
    except kinds as error:
        if isinstance(batch, tuple | Mapping):
            try:
                _jaxpr.trace(fn, key, args, {})
            except kinds:
                is_tuple = isinstance(batch, tuple)
                kind = "a tuple, whose parts are its arguments" if is_tuple else "a dict"
                pick = "batch[0]" if is_tuple else f"batch[{next(iter(batch))!r}]"
                raise TypeError(
                    f"batches: expected what fn takes, got {kind}: {error}; pick the inputs, as "
                    f"in inputs=lambda batch: {pick}"
                ) from error
        raise


def _keyed(fn: Any, keys: str, args: Any, done: int) -> tuple[Any, Any]:
    """The function to sample and its arguments, by what gets a key of its own."""
    if keys != "example":
        return fn, args
    size = examples(args)
    numbers = np.arange(done, done + size).astype(np.uint32)
    return Partial(_each_example, fn), (numbers, *args)


def _each_example(fn: Any, key: jax.Array, numbers: Any, *args: Any) -> Any:
    arrays, static = _pytrees.split(args)

    def one(pair: Any) -> Any:
        number, arrays = pair
        arrays = jax.tree.map(lambda x: x[None], arrays)
        output = fn(jax.random.fold_in(key, number), *_pytrees.join(arrays, static))
        return jax.tree.map(lambda x: x[0], output)

    return mapped(one, key)((numbers, arrays))


def _example_axes(
    call: Callable[..., Any], key: jax.Array, args: Any, result: Any = None, least: int = 1
) -> Any:
    """The axis of examples of each leaf of a result: the one that grows with the batch.

    Args:
        call: function of key and arguments, which is traced.
        key: its first argument.
        args: its second one, examples on axis 0.
        result: what it gives, or None.
        least: of such axes of a leaf, of which there is at most one; the axis of none is -1.
    """
    arrays, static = _pytrees.split(args)

    def longer(x: jax.Array) -> jax.ShapeDtypeStruct:
        # Twice as many, which the devices of a mesh divide as well.
        kind, shape = jax.typeof(x), (2 * x.shape[0], *x.shape[1:])
        # The sharding is part of the type only on a mesh with Explicit axes.
        explicit = None if kind.sharding is None or kind.sharding.mesh.empty else kind.sharding
        return jax.ShapeDtypeStruct(shape, kind.dtype, sharding=explicit)

    def joined(key: jax.Array, arrays: list[Any]) -> Any:
        return call(key, _pytrees.join(arrays, static))

    with jax.disable_jit(False):
        larger = jax.eval_shape(joined, key, jax.tree.map(longer, arrays))
        result = jax.eval_shape(joined, key, arrays) if result is None else result

    def axis(x: Any, y: Any) -> int:
        changed = [a for a, (m, n) in enumerate(zip(x.shape, y.shape)) if m != n]
        if not least <= len(changed) <= 1:
            raise ValueError(
                f"summary: expected results with an axis of examples, got one of shape {x.shape}; "
                "return an output for each example from fn"
            )
        return changed[0] if changed else -1

    return jax.tree.map(axis, result, larger)
