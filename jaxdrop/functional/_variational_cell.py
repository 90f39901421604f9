"""Masks of Gal & Ghahramani's recurrent dropout: the same at every step."""

from typing import Any, NamedTuple

from jaxdrop.functional._cells import Effects, apply_words, draw_words, split

_PARTS = ("input", "state", "output")


class VariationalMasks(NamedTuple):
    """Packed bits, for each part one mask, or one for each gate; None where nothing is drawn.

    Attributes:
        input: masks of what enters the cell.
        state: masks of the hidden state where it enters the gates.
        output: mask of what leaves the cell, a tuple of one.
    """

    input: tuple[Any, ...]
    state: tuple[Any, ...]
    output: tuple[Any, ...]


NO_MASKS = VariationalMasks((None,), (None,), (None,))


def draw(key, rates, deterministic, shapes, gates) -> VariationalMasks:
    """Masks of a sequence.

    Args:
        key: PRNG key, consumed.
        rates: of the input, the state and the output.
        deterministic: if true, nothing is dropped; may be traced.
        shapes: of the three.
        gates: number of masks of the input and of the state.
    """
    return VariationalMasks(
        *(
            tuple(draw_words(k, rate, deterministic, shape) for k in split(key, number))
            for key, rate, shape, number in zip(split(key, 3), rates, shapes, (gates, gates, 1))
        )
    )


def effects(masks: VariationalMasks, rates, deterministic, tied) -> Effects:
    """What the masks do inside a step."""

    def operand(part, gate, x):
        number = _PARTS.index(part)
        words = masks[number]
        own = words[gate if len(words) > 1 else 0]
        return apply_words(own, rates[number], deterministic, x, part)

    return Effects(operand=operand, tied=tied, output=lambda y: operand("output", 0, y))
