"""The variance of a stochastic function to first order, from one pass and its derivatives."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _checks, _examples, _program, _pytrees, _summary, _taps
from jaxdrop.mc._audit import audit_live
from jaxdrop.uncertainty import _internal as uncertainty


class Delta(NamedTuple):
    """Mean and variance without passes, each shaped like the output of one pass.

    Attributes:
        mean: the output where every decision has its mean; the output without dropout, if all of
            it keeps the mean.
        variance: variance over the decisions, to first order in them.
    """

    mean: Any
    variance: Any

    def __repr__(self) -> str:
        return uncertainty.short(self)


def delta(
    fn: Any,
    key: Any,
    *args: Any,
    chunk_size: int = 10,
    output: Callable[[Any], Any] | None = None,
    **kwargs: Any,
) -> Delta:
    """The mean and the variance of what `predict` samples, to first order and without passes.

    Dropout multiplies elements by ``m``, which is 0 or ``1 / (1 - rate)``, of mean 1 and variance
    ``rate / (1 - rate)``. With every ``m`` at its mean, one pass gives the mean of the output.
    Derivatives give the variance of each output: the sum over all decisions of
    ``rate / (1 - rate) * (d output / d m)**2``. This is exact if the output is linear in the
    decisions, as it is behind the last dropout. Otherwise it is good for low rates and for outputs
    before a softmax; it leaves out what dropout does to the mean.

    Each element of the output takes a backward pass, from the output to the first dropout. If
    examples on axis 0 do not meet, which the program tells, that is one for each output of one
    example, and the function runs for each example as a batch of one. Else it is one for each
    element of the whole output: where examples meet, where arrays among the arguments have
    another size on axis 0, and where the axis of examples is merged with another.

    It applies to every function and class of jaxdrop whose result is smooth in the decisions,
    their means being those that the bits have: dropout of elements, maps, heads, examples, rows of
    tables, weights and attention weights (in blocks, too, at the memory of all weights), alpha
    dropout, Gaussian and NEFTune noise, and the cells. All else that is random is refused by name:
    blocks, tokens, words, edges that share a decision, keys before the softmax, layers and hidden
    units that are skipped, soft decisions, draws of the user's own, and decisions that are drawn
    again by the same key.

    Args:
        fn: as for `predict`; its outputs are floating.
        key: PRNG key; the result does not depend on it.
        *args: arguments of ``fn`` after the key.
        chunk_size: number of backward passes side by side, at least 1. Memory grows with it.
        output: as for `predict`.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        A `Delta`, in float32 or better.

    Raises:
        TypeError: as `predict`, or an output is not floating.
        ValueError: as `predict`, or ``fn`` is random in a way that has no such derivative.

    Example:
        >>> model = nn.Sequential([nn.Dense(8), nn.Dropout(0.5, deterministic=True), nn.Dense(2)])
        >>> x = jnp.ones((3, 4))
        >>> fn = from_linen(model, model.init(jax.random.key(0), x))
        >>> out = delta(fn, jax.random.key(1), x)
        >>> passes = predict(fn, jax.random.key(1), x, num_samples=4000)
        >>> bool(jnp.allclose(out.variance, passes.variance, rtol=0.2))
        True

    References:
        Wang & Manning, "Fast dropout training", 2013; Postels et al., "Sampling-free epistemic
        uncertainty estimation using approximated variance propagation", 2019, section 3.
    """
    masks.check_key(key)
    chunk_size = masks.check_count(chunk_size, "chunk_size", 10)
    fn, key = _checks.outputs(fn, output), masks.typed(key)
    with _checks.hints(kwargs, _OPTIONS):
        arrays, static = _pytrees.split((fn, args, kwargs))
        return Delta(*_program.call(_delta, (static, chunk_size), key, arrays))


_OPTIONS = [
    name
    for name, parameter in inspect.signature(delta).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
]


def _delta(static: Any, key: jax.Array, arrays: list[Any]) -> tuple[Any, Any]:
    static, chunk_size = static
    fn, args, kwargs = _pytrees.join(arrays, static)
    audit_live(fn, key, args, kwargs)
    held, static = _pytrees.split(fn)
    rows, rest = _pytrees.split((args, kwargs))

    def program(rows: list[Any]) -> _taps.Tapped:
        args, kwargs = _pytrees.join(rows, rest)
        return _taps.tapped(_pytrees.join(held, static), key, args, kwargs)

    whole = program(rows)
    for path, leaf in jax.tree_util.tree_leaves_with_path(whole.shapes):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"fn: expected floating outputs, got dtype {leaf.dtype}{_pytrees.at(path)}; pick "
                f"others as in {_pytrees.PICK}, or cast them in a lambda"
            )
    alone = _alone(whole, program, held, rows)
    if alone is None:
        leaves = _spread(whole, key, [held, rows], chunk_size)
    else:

        def one(row: list[Any]) -> list[Any]:
            row = jax.tree.map(lambda x, y: x[None] if y.ndim else x, row, rows)
            leaves = _spread(alone, key, [held, row], chunk_size)
            return jax.tree.map(lambda x: jnp.squeeze(x, 0), leaves)

        axes = jax.tree.map(lambda x: 0 if x.ndim else None, rows)
        leaves = jax.vmap(one, in_axes=(axes,))(rows)
    structure = jax.tree.structure(whole.shapes)
    means, variances = zip(*leaves)
    return structure.unflatten(means), structure.unflatten(variances)


def _alone(
    whole: _taps.Tapped, program: Callable[[list[Any]], _taps.Tapped], held: Any, rows: Any
) -> _taps.Tapped | None:
    """The program of a batch of one, or None if examples meet or are not told from other axes."""
    arrays = [x for x in jax.tree.leaves(rows) if x.ndim]
    sizes = {x.shape[0] for x in arrays}
    if len(sizes) != 1:
        return None
    (size,) = sizes
    axes = [None, *(None for _ in jax.tree.leaves(held))]
    axes += [0 if x.ndim else None for x in jax.tree.leaves(rows)]
    try:
        outputs = _examples.output_axes(whole.program.jaxpr, axes)
    except _examples.MixedError:
        return None
    shapes = jax.tree.leaves(whole.shapes)
    if any(axis != 0 for axis in outputs) or size == 1:
        return None
    first = [x if x is None or not x.ndim else x[:1] for x in rows]
    try:
        alone = program(first)
    except (TypeError, ValueError):  # it takes no other number of examples
        return None
    same = [(1, *leaf.shape[1:]) for leaf in shapes]
    fits = [leaf.shape for leaf in jax.tree.leaves(alone.shapes)] == same
    # Else it looks at the number of examples, for example to divide by it.
    does_the_same = _examples.steps(whole.program) == _examples.steps(alone.program)
    return alone if fits and does_the_same else None


def _spread(tapped: _taps.Tapped, key: jax.Array, arrays: Any, chunk_size: int) -> list[Any]:
    """``(mean, variance)`` of each array of the output of a program."""

    means, pullback = jax.vjp(lambda total: tapped.run(total, key, arrays), jnp.zeros((), float))
    ends, total = [], 0
    for mean in means:
        ends.append((total, mean))
        total += mean.size

    def variance(number: jax.Array) -> jax.Array:
        """Of one element of the output."""
        cotangents = [
            (jnp.arange(mean.size) == number - start).astype(mean.dtype).reshape(mean.shape)
            for start, mean in ends
        ]
        return pullback(cotangents)[0]

    # Noise is drawn again for each, on purpose; without jit the checker of keys would see it.
    with jax.debug_key_reuse(False):
        variances = jax.lax.map(variance, jnp.arange(total), batch_size=min(chunk_size, total))
    return [
        (mean.astype(dtype), variances[start : start + mean.size].astype(dtype).reshape(mean.shape))
        for start, mean in ends
        for dtype in [_summary.wide(mean.dtype)]
    ]
