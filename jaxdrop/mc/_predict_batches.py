"""Predictions for more data than fit at once."""

from collections.abc import Iterable
from typing import Any, Literal

import jax
import numpy as np
from jax.tree_util import Partial

from jaxdrop.masks import _keys
from jaxdrop.mc import _trace
from jaxdrop.mc._moments import moments
from jaxdrop.mc._predict import mapped, predict
from jaxdrop.mc._summary import Summary

_KEYS = ("batch", "example", "call")


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
    keys: str = "batch",
    progress: bool = True,
) -> Any:
    """`predict` for each of many batches, and their results put together.

    A batch that is smaller than the first one, as the last often is, is filled up with copies of
    its last example, which are cut off again: all batches run the same program.

    Args:
        fn: as for `predict`.
        key: PRNG key.
        batches: arrays, or tuples of the arguments of ``fn`` after the key; examples are axis 0
            of every array. A list, a generator, a data loader.
        num_samples: as for `predict`.
        summary: as for `predict`; each of its results has to have an axis of examples.
        chunk_size: as for `predict`.
        memory_budget: as for `predict`.
        sample_axis: as for `predict`.
        keys: what gets a key of its own. ``"batch"``: batch b is
            ``predict(fn, jax.random.fold_in(key, b), ...)``. ``"example"``: sample i of example n
            is ``fn(jax.random.fold_in(jax.random.fold_in(key, i), n), example)``, a batch of one,
            so that results do not depend on how the data are cut into batches; it takes longer.
            ``"call"``: every batch is ``predict(fn, key, ...)``, so that a function whose masks
            are shared by its batch asks the same sub-networks about all data.
        progress: whether to show a bar on stderr, where tqdm is installed.

    Returns:
        The result of the summary for all examples, with NumPy arrays.

    Raises:
        TypeError: as `predict`.
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
    _keys.check_key(key)
    if keys not in _KEYS:
        raise ValueError(
            f"keys: expected one of {', '.join(map(repr, _KEYS))}, got {keys!r}; "
            "write 'batch' for a key a batch"
        )
    key = _keys.typed(key)
    options = {
        "num_samples": num_samples,
        "summary": moments() if summary is None else summary,
        "chunk_size": chunk_size,
        "memory_budget": memory_budget,
        "sample_axis": sample_axis,
    }
    results, axes, largest, done = [], None, 0, 0
    for number, batch in enumerate(_with_bar(batches, progress)):
        args = batch if isinstance(batch, tuple) else (batch,)
        size = _examples(args)
        largest = largest or size
        if size > largest:
            raise ValueError(
                f"batches: expected at most as many examples as in the first, {largest}, got "
                f"{size}; put the largest batch first"
            )
        args = jax.tree.map(lambda x, extra=largest - size: _fill(x, extra), args)
        one, args = _keyed(fn, keys, args, done)
        used = jax.random.fold_in(key, number) if keys == "batch" else jax.random.clone(key)
        result = predict(one, used, *args, **options)
        if axes is None:
            axes = _example_axes(one, used, args, options, result)
        cut = jax.tree.map(lambda x, a, s=size: np.asarray(x).take(range(s), a), result, axes)
        results.append(cut)
        done += size
    if axes is None:
        raise ValueError("batches: expected one or more, got none; a generator is used up once")
    return jax.tree.map(lambda axis, *parts: np.concatenate(parts, axis), axes, *results)


def _with_bar(batches, progress):
    if not progress:
        return batches
    try:
        from tqdm import tqdm
    except ImportError:
        return batches
    return tqdm(batches, unit="batch", ncols=78)


def _examples(args) -> int:
    """Number of examples of a batch."""
    leaves = [leaf for leaf in jax.tree.leaves(args) if _trace.is_array(leaf)]
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        raise ValueError(
            "batches: expected arrays with the same number of examples on axis 0, at least one, "
            f"got shapes {[leaf.shape for leaf in leaves]}; bind what is the same for all batches "
            "in a lambda"
        )
    return sizes.pop()  # pyright: ignore[reportReturnType]


def _fill(x, extra):
    if not extra or not _trace.is_array(x):
        return x
    return np.concatenate([x, np.repeat(x[-1:], extra, 0)])


def _keyed(fn, keys, args, done):
    """The function to sample and its arguments, by what gets a key of its own."""
    if keys != "example":
        return fn, args
    size = _examples(args)
    numbers = np.arange(done, done + size).astype(np.uint32)
    return Partial(_each_example, fn), (numbers, *args)


def _each_example(fn, key, numbers, *args):
    arrays, static = _trace.split(args)

    def one(pair):
        number, arrays = pair
        arrays = jax.tree.map(lambda x: x[None], arrays)
        output = fn(jax.random.fold_in(key, number), *_trace.join(arrays, static))
        return jax.tree.map(lambda x: x[0], output)

    return mapped(one, key)((numbers, arrays))


def _example_axes(fn, key, args, options, result):
    """The axis of examples of each result: the one that grows with the batch."""
    longer = jax.tree.map(lambda x: _fill(x, 1), args)
    larger = jax.eval_shape(lambda key: predict(fn, key, *longer, **options), key)

    def axis(x, y):
        changed = [a for a, (m, n) in enumerate(zip(x.shape, y.shape)) if m != n]
        if len(changed) != 1:
            raise ValueError(
                f"summary: expected results with an axis of examples, got one of shape {x.shape}; "
                "return an output for each example from fn"
            )
        return changed[0]

    return jax.tree.map(axis, result, larger)
