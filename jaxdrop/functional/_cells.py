"""What the recurrent cells of linen and nnx share: masks that travel in the carry.

A loop over time hands its carry on. Masks that stand in it and are handed on as they are become
constants of the loop: nothing is drawn, moved or stacked inside. A mask of a carry is drawn like
any other and then packed along its last axis, since Flax picks from stacked carries by
``carry[step, example]``: the batch has to be the first axis of every leaf.
"""

import functools
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from jaxdrop.masks import _internal as masks


class CellCarry(NamedTuple):
    """The carry of a cell that drops: the state of the wrapped cell, and the masks of a sequence.

    Attributes:
        state: carry of the wrapped cell.
        masks: packed bits of the masks, or what else lasts for a sequence.
    """

    state: Any
    masks: Any

    def resume(self, last):
        """These masks, and the state that another carry has come to.

        For a long sequence in stretches, each of which has masks of its own:
        ``cell.initialize_carry(key, shape).resume(last)``.

        Args:
            last: carry of the same cell, with masks or without.

        Returns:
            A carry with the structure of this one.
        """
        inner = self.state.resume(last) if isinstance(self.state, CellCarry) else innermost(last)
        return self._replace(state=inner)


class Effects(NamedTuple):
    """What a wrapper does inside one step of the innermost cell.

    Attributes:
        operand: ``operand(part, gate, x)``: what enters the products of a gate in place of x, for
            the part ``"input"`` or ``"state"`` and the number of the gate.
        tied: whether all gates of a part get the same operand.
        kernels: ``kernels(params)``: parameters in place of those of the cell.
        update: ``update(old, new)``: state in place of the new one.
        output: ``output(y)``: what the step gives in place of y.
    """

    operand: Callable | None = None
    tied: bool = True
    kernels: Callable | None = None
    update: Callable | None = None
    output: Callable | None = None


class Operands:
    """Inputs and state as they enter the products of each gate, computed once where tied."""

    def __init__(self, effects, **parts):
        self.parts = parts
        self.effects = [effect for effect in effects if effect.operand is not None]
        self.tied = all(effect.tied for effect in self.effects)
        self.known = {}

    def __call__(self, part, gate):
        gate = 0 if self.tied else gate
        if (part, gate) not in self.known:
            x = self.parts[part]
            for effect in self.effects:
                x = effect.operand(part, gate, x)
            self.known[part, gate] = x
        return self.known[part, gate]


def innermost(carry):
    """The carry of the cell that no wrapper of ours is."""
    while isinstance(carry, CellCarry):
        carry = carry.state
    return carry


def hidden(state):
    """The part of a cell's own state that enters the products: the last, or all of it."""
    return state[-1] if isinstance(state, tuple | list) else state


def with_hidden(state, h):
    """The state with another hidden part."""
    return type(state)((*state[:-1], h)) if isinstance(state, tuple | list) else h


def finish(effects, old, new, output):
    """New state and output of a step after the effects; an output that is the state follows it."""
    is_hidden = output is hidden(new)
    for effect in effects:
        new = effect.update(old, new) if effect.update else new
    output = hidden(new) if is_hidden else output
    for effect in effects:
        output = effect.output(output) if effect.output else output
    return new, output


def draws_any(rates, deterministic):
    """Whether any of the rates needs random bits; all of them are checked."""
    checked = [masks.check_rate(rate, deterministic=deterministic) for rate in rates]
    return not all(rate.settled for rate in checked)


def common_rate(rates):
    """The one rate of all that drop, 0 if none does; None if they differ or are not known."""
    found = {masks.check_rate(rate).known for rate in rates} - {0.0}
    return 0.0 if not found else found.pop() if len(found) == 1 else None


def rate_names(cell):
    """Names of the rates that a cell has."""
    names = ("rate", "input_rate", "state_rate", "output_rate")
    return [name for name in names if hasattr(cell, name)]


def is_off(rates, deterministic):
    """Whether nothing is dropped, as is known now."""
    off = all(isinstance(rate, numbers.Real) and rate == 0 for rate in rates)
    return off or masks.check_flag(deterministic) is True


def fold_words(words, shape):
    """Packed words of floor 1 as words along the last axis, the other axes as they are."""
    drawn, wanted = masks.layout_of(shape), along_last(shape)
    return words if drawn == wanted else masks.pack(masks.unpack(words, drawn), wanted)


def along_last(shape):
    """The layout of a mask that travels in a carry."""
    return masks.Layout(shape, max(len(shape) - 1, 0), len(shape))


def draw_words(key, rate, deterministic, shape):
    """Words of the mask that `dropout` draws for an array of ``shape``; None if nothing is drawn.

    Args:
        key: PRNG key, consumed; not used where nothing is drawn.
        rate: probability of dropping; may be traced.
        deterministic: if true, nothing is dropped; may be traced.
        shape: of the mask.
    """
    rate = masks.check_rate(rate, shape, deterministic=deterministic)
    return None if rate.settled else _draw(key, rate, shape=shape)


@functools.partial(jax.jit, static_argnames="shape")
def _draw(key, rate, *, shape):
    return fold_words(masks.draw(key, rate, shape).words, shape)


def apply_words(words, rate, deterministic, x, name="inputs"):
    """`dropout` of ``x`` by a mask of `draw_words`, at the same rate and flag."""
    rate = masks.check_rate(rate, deterministic=deterministic)
    if rate.settled:
        return jnp.zeros_like(x) if rate.known else x
    layout = along_last(x.shape)
    if words is None or words.shape != layout.words_shape:
        found = "no mask" if words is None else f"a mask of shape {words.shape} in words"
        raise ValueError(
            f"{name}: expected the shape that the masks of the carry were drawn for, got shape "
            f"{x.shape} and {found}; make the carry with initialize_carry for inputs of this shape"
        )
    return masks.remember_words_only(_select)(words, masks.odds(rate.effective).keep_prob, x)


def _select(words, keep_prob, x):
    keep = masks.unpack_like(words, along_last(x.shape), x)
    return masks.scale_kept_bools(keep, keep_prob, x)


def refuse_carry(carry, name) -> NoReturn:
    """Raises for a carry without the masks that a cell needs."""
    raise TypeError(
        f"carry: expected a CellCarry with the masks of a {name}, got {type(carry).__name__}; "
        f"make it with initialize_carry of the {name}, which draws the masks of a sequence"
    )


def refuse_untied(cell) -> NoReturn:
    """Raises for a cell whose gates cannot have masks of their own."""
    raise ValueError(
        f"tied: expected True for a cell whose gates are no layers of their own, got False for "
        f"{type(cell).__name__}; write tied=True"
    )


def split(key, number):
    """Keys of the parts of a mask; the key itself where there is one part."""
    masks.check_key(key)
    return [key] if number == 1 else list(jax.random.split(masks.typed(key), number))
