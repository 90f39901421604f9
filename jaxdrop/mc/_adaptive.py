"""Passes that are added until standard errors are small enough, for all examples or for each."""

import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.mc import _program, _pytrees
from jaxdrop.mc._audit import audit, audit_live
from jaxdrop.mc._passes import LEAST_BLOCKS, Counts, Passes, laid_out
from jaxdrop.mc._summary import Summary
from jaxdrop.uncertainty import _internal as uncertainty


class Adaptive(NamedTuple):
    """What `predict` returns if it was given a tolerance.

    From `predict_batches`, ``num_samples`` and ``reached`` have an element per example: its own, or
    those of its batch.

    Attributes:
        result: of the summary.
        num_samples: number of passes that were taken, int32.
        reached: whether every standard error of the result is at most the tolerance.
    """

    result: Any
    num_samples: Any
    reached: Any

    def __repr__(self) -> str:
        taken, reached = self.num_samples, self.reached
        head = "Adaptive"
        if uncertainty.readable(taken) and uncertainty.readable(reached) and np.size(taken):
            each = np.ndim(taken) > 0
            number = f"{np.min(taken)} to {np.max(taken)}" if each else taken
            share = f"{np.sum(reached)} of {np.size(reached)}" if each else bool(reached)
            head += f", {number} samples, reached: {share}"
        return f"{head}\n{textwrap.indent(repr(self.result), '  ')}"


def errors_of(result: Any) -> list[Any]:
    """The standard errors in the result of a summary, or of each of several."""
    if isinstance(result, dict):
        return [error for one in result.values() for error in errors_of(one)]
    return jax.tree.leaves(getattr(result, "standard_error", ()))


class Run(NamedTuple):
    """The passes of a call and what is made of them.

    Attributes:
        passes: of the call.
        counts: of them.
        state: of the summary before the first pass.
        update: of the summary.
        finish: of the summary.
    """

    passes: Passes
    counts: Counts
    state: Any
    update: Callable[..., Any]
    finish: Callable[[Any], Any]

    def more(self, state: Any, start: Any, number: int) -> Any:
        """The state after ``number`` passes more, of which the first has the number ``start``."""
        size = self.passes.chunk_size
        chunks, rest = divmod(number, size)

        def several(state: Any, offset: Any, size: int) -> Any:
            begin = jnp.int32(start + offset)
            return self.update(state, self.passes.run(begin, size), begin)

        state = jax.lax.fori_loop(0, chunks, lambda i, state: several(state, i * size, size), state)
        whole, done = self.counts.block_size, chunks * size
        for part in (rest // whole * whole, rest % whole):  # whole blocks, or a part of one
            state = several(state, done, part) if part else state
            done += part
        return state

    def until(
        self, is_open: Callable[[Any], jax.Array], state: Any, taken: jax.Array
    ) -> tuple[Any, jax.Array]:
        """Adds passes until the state is not open or all are taken: the state and their number."""
        if not errors_of(jax.eval_shape(self.finish, state)):
            raise ValueError(
                "tolerance: expected a summary with a standard_error, such as moments(), got one "
                "without; write num_samples=100 instead of a tolerance"
            )
        step = self.counts.least // LEAST_BLOCKS

        def goes_on(carry: tuple[Any, Any]) -> jax.Array:
            state, taken = carry
            return (taken < self.counts.num_samples) & is_open(state)

        def add(carry: tuple[Any, Any]) -> tuple[Any, Any]:
            state, taken = carry
            return self.more(state, taken, step), taken + step

        return jax.lax.while_loop(goes_on, add, (state, taken))


def suited(
    fn: Any, key: jax.Array, args: Any, kwargs: Any, summary: Summary, counts: Counts
) -> tuple[Summary, Counts]:
    """The summary and the counts of passes for a tolerance, in blocks by the rates of a function.

    A summary has to know the size of a block before the passes are traced, so the function is
    audited here, on its own, and once for each program, because it is settled.
    """
    if summary.in_blocks is None or not counts.block_bits:
        return summary, counts
    arrays, static = _pytrees.split((fn, args, kwargs))
    counts = counts.suited(_program.known(_rates, static, key, arrays))
    return summary.in_blocks(counts.block_size), counts


def _rates(static: Any, key: jax.Array, arrays: list[Any]) -> _program.Known:
    """The rates of all decisions of a pass; None for one that is not known."""
    fn, args, kwargs = _pytrees.join(arrays, static)
    report = audit(_program.original(fn), key, *args, **kwargs)
    sites = [site for site in report.sites if site.live and site.path not in report.independent]
    return _program.Known(tuple(site.rate for site in sites))


def prepared(static: Any, key: jax.Array, arrays: list[Any], stored: bool) -> Run:
    """The run of a call that `_pytrees.split` took apart; audits it.

    Args:
        static: what is not traced of function, arguments and summary; counts; axis of devices.
        key: of all passes.
        arrays: the rest of function, arguments and summary.
        stored: whether the summary may store as many samples as there are.
    """
    static, counts, axis = static
    fn, args, kwargs, (init, update, finish) = _pytrees.join(arrays, static)
    report = audit_live(_program.original(fn), key, args, kwargs)
    call = lambda key: fn(key, *args, **kwargs)  # noqa: E731
    passes = laid_out(call, key, counts, report.bytes_a_pass, axis)
    state = init(passes.shapes(), counts.num_samples if stored else None)
    return Run(passes, counts, state, update, finish)


class Progress(NamedTuple):
    """Where the examples of a batch are.

    Attributes:
        state: of the summary.
        taken: number of passes so far.
        result: of the summary.
        errors: largest standard error of each example; NaN if one is.
    """

    state: Any
    taken: jax.Array
    result: Any
    errors: jax.Array


def advance(
    static: Any, key: jax.Array, tolerance: Any, arrays: list[Any], state: Any, taken: Any
) -> Progress:
    """Adds passes until few enough examples are above the tolerance.

    Args:
        static: as for `prepared`; the axes of examples of the standard errors; how many examples
            may be left.
        key: as for `prepared`.
        tolerance: of the standard errors.
        arrays: as for `prepared`.
        state: of the summary, or None before the first pass.
        taken: number of passes so far.
    """
    static, axes, most_open = static
    run = prepared(static, key, arrays, stored=False)
    if state is None:
        state, taken = run.more(run.state, 0, run.counts.least), jnp.int32(run.counts.least)

    def errors(state: Any) -> jax.Array:
        flat = [
            jnp.moveaxis(error, axis, 0).reshape(error.shape[axis], -1).max(1)
            for error, axis in zip(errors_of(run.finish(state)), axes)
        ]
        return jnp.stack([error.astype(jnp.float32) for error in flat]).max(0)

    is_open = lambda state: (errors(state) > tolerance).sum() > most_open  # noqa: E731
    state, taken = run.until(is_open, state, taken)
    return Progress(state, taken, run.finish(state), errors(state))


def each_example(
    settle: Callable[[Any], Any],
    key: jax.Array,
    args: Any,
    summary: Any,
    counts: Counts,
    tolerance: jax.Array,
    axes: tuple[Any, Any],
) -> Adaptive:
    """Each example of a batch until its own standard errors suffice.

    The others are gathered when half of a batch is left, so there is a program for each half.

    Args:
        settle: gives the function for arguments like these.
        key: of all passes.
        args: of the function, examples on axis 0.
        summary: of the passes.
        counts: of them.
        tolerance: of the standard errors.
        axes: of examples, of each leaf of the result and of the state; -1 if it has none.
    """
    of_result, of_state = axes
    rows, state, taken = np.arange(jax.tree.leaves(args)[0].shape[0]), None, np.int32(0)
    whole, numbers, worst = None, np.zeros(len(rows), np.int32), np.zeros(len(rows), np.float32)
    while len(rows):
        half = len(rows) // 2
        arrays, static = _pytrees.split((settle(args), args, {}, tuple(summary[:3])))
        static = ((static, counts, None), tuple(errors_of(of_result)), half)
        progress = _program.call(advance, static, key, tolerance, arrays, state, taken)
        state, taken, errors = progress.state, progress.taken, np.asarray(progress.errors)
        left = np.flatnonzero((errors > tolerance) & (taken < counts.num_samples))
        # Those that are left are written too, and again later.
        if whole is None:
            whole = jax.tree.map(np.array, progress.result)
        else:
            jax.tree.map(
                lambda old, new, axis, rows=rows: _write(old, np.asarray(new), axis, rows),
                whole,
                progress.result,
                of_result,
            )
        numbers[rows], worst[rows] = taken, errors
        chosen = np.resize(left, half) if len(left) else left
        args = jax.tree.map(lambda x, chosen=chosen: jnp.asarray(x)[chosen], args)
        state = jax.tree.map(
            lambda x, axis, chosen=chosen: x if axis < 0 else x.take(chosen, axis), state, of_state
        )
        rows = rows[chosen]
    return Adaptive(whole, numbers, worst <= np.asarray(tolerance))


def _write(old: Any, new: Any, axis: int, rows: Any) -> None:
    """Writes rows of examples into a result; a row that occurs twice gets the same twice."""
    np.moveaxis(old, axis, 0)[rows] = np.moveaxis(new, axis, 0)
