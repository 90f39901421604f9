"""What may be dropped in a recurrent cell: a `Behaviour` for each wrapper.

A loop over time hands its carry on. Masks that stand in it and are handed on as they are become
constants of the loop: nothing is drawn, moved or stacked inside. A mask of a carry is drawn like
any other and then packed along its last axis, since Flax picks from stacked carries by
``carry[step, example]``: the batch has to be the first axis of every leaf.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.functional._cells import Behaviour, Effects, Wrapper, hidden, innermost
from jaxdrop.functional._drop_connect import names_of
from jaxdrop.functional._zoneout import zoneout
from jaxdrop.masks import _internal as masks

_PARTS = ("input", "state", "output")
Words = jax.Array | None


class VariationalMasks(NamedTuple):
    """Packed bits, for each part one mask, or one for each gate; None if nothing is drawn.

    Attributes:
        input: masks of what enters the cell.
        state: masks of the hidden state where it enters the gates.
        output: mask of what leaves the cell, a tuple of one.
    """

    input: tuple[Any, ...]
    state: tuple[Any, ...]
    output: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Variational(Behaviour):
    """Gal & Ghahramani's recurrent dropout: the masks are the same at every step."""

    input_rate: Any
    state_rate: Any
    output_rate: Any
    tied: bool

    carried = VariationalMasks

    @property
    def rates(self) -> tuple[Any, ...]:
        return self.input_rate, self.state_rate, self.output_rate

    def draw(
        self, key: Any, flag: Any, state: Any, input_shape: Sequence[int], wrapper: Wrapper
    ) -> VariationalMasks:
        h = hidden(innermost(state)).shape
        gates = 1 if self.tied else wrapper.gate_count()
        parts = zip(split(key, 3), self.rates, (tuple(input_shape), h, h), (gates, gates, 1))
        return VariationalMasks(
            *(
                tuple(draw_words(one, rate, flag, shape) for one in split(key, number))
                for key, rate, shape, number in parts
            )
        )

    def effects(self, drawn: VariationalMasks | None, flag: Any) -> Effects:
        def operand(part: str, gate: int, x: Any) -> Any:
            number = _PARTS.index(part)
            words: tuple[Words, ...] = (None,) if drawn is None else drawn[number]
            word = words[gate if len(words) > 1 else 0]
            return apply_words(word, self.rates[number], flag, x, part)

        return Effects(operand, self.tied, output=lambda y: operand("output", 0, y))


class WeightMasks(NamedTuple):
    """Packed bits of the masks of the chosen kernels, in the order of the parameters.

    Attributes:
        kernels: a tuple of words, each with a leading axis of size 1, since every leaf of a
            carry begins with the axis of the examples, which share these.
    """

    kernels: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class WeightDrop(Behaviour):
    """Masks of the hidden-to-hidden weights of a cell: the same at every step."""

    rate: Any

    carried = WeightMasks

    @property
    def rates(self) -> tuple[Any, ...]:
        return (self.rate,)

    def draw(
        self, key: Any, flag: Any, state: Any, input_shape: Sequence[int], wrapper: Wrapper
    ) -> WeightMasks:
        """Those of `drop_connect` with this key for the chosen kernels."""
        leaves = jax.tree_util.tree_leaves_with_path(wrapper.parameters(state, input_shape))
        masks.check_key(key)
        keys = jax.random.split(masks.typed(key), len(leaves))
        chosen = [number for number, (path, _) in enumerate(leaves) if _is_hidden_kernel(path)]
        if not chosen:
            raise ValueError(
                "cell: expected hidden-to-hidden kernels, in layers named h... or recurrent..., "
                f"got the parameters {[names_of(path) for path, _ in leaves]} of "
                f"{type(wrapper.innermost).__name__}; rename the layers, or use DropConnect"
            )
        words: list[Any] = [
            draw_words(keys[n], self.rate, flag, leaves[n][1].shape) for n in chosen
        ]
        return WeightMasks(tuple(one[None] for one in words))

    def effects(self, drawn: WeightMasks | None, flag: Any) -> Effects:
        def kernels(params: Any) -> Any:
            left = iter(() if drawn is None else drawn.kernels)

            def dropped(path: Any, leaf: Any) -> Any:
                if not _is_hidden_kernel(path):
                    return leaf
                words = next(left, None)  # None if a known rate of 1 needs no mask
                words = None if words is None else words[0]
                return apply_words(words, self.rate, flag, leaf, "kernel")

            return jax.tree_util.tree_map_with_path(dropped, params)

        return Effects(kernels=kernels)


def _is_hidden_kernel(path: Any) -> bool:
    """Whether the path of a parameter is that of a hidden-to-hidden kernel."""
    names = [str(name) for name in names_of(path)]
    hidden = any(n.startswith("h") or n == "dense_h" or "recurrent" in n for n in names)
    return hidden and any("kernel" in name for name in names)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ZoneoutClock:
    """What the decisions of a step come from.

    The key travels as words, since every step uses it again, and with a leading axis of size 1,
    since every leaf of a carry begins with the axis of the examples, which share it.

    Attributes:
        words: of the key of the sequence, shape (1, words).
        step: number of the step, shape (1,).
        implementation: of the key.
    """

    words: jax.Array
    step: jax.Array
    implementation: Any = dataclasses.field(metadata={"static": True})

    def key(self) -> jax.Array:
        """The key of this step."""
        key = jax.random.wrap_key_data(self.words[0], impl=self.implementation)
        return jax.random.fold_in(key, self.step[0])


@dataclasses.dataclass(frozen=True, eq=False)
class Zoneout(Behaviour):
    """Zoneout: new decisions at every step, from a key and a clock in the carry."""

    rate: Any

    carried = ZoneoutClock

    @property
    def rates(self) -> tuple[Any, ...]:
        return tuple(self.rate) if isinstance(self.rate, tuple | list) else (self.rate,)

    def is_off(self, flag: Any) -> bool:
        return super().is_off(False)  # when switched off, a step takes the mean of both states

    def draw(
        self, key: Any, flag: Any, state: Any, input_shape: Sequence[int], wrapper: Wrapper
    ) -> ZoneoutClock:
        masks.check_key(key)
        (sequence_key,) = jax.random.split(masks.typed(key), 1)
        words = jax.random.key_data(sequence_key)[None]
        return ZoneoutClock(words, jnp.zeros(1, jnp.uint32), jax.random.key_impl(sequence_key))

    def advance(self, drawn: ZoneoutClock) -> ZoneoutClock:
        return dataclasses.replace(drawn, step=drawn.step + np.uint32(1))

    def effects(self, drawn: ZoneoutClock | None, flag: Any) -> Effects:
        def update(old: Any, new: Any) -> Any:
            rates = self._rates_of(new)
            keys: Any = [None] * len(rates)
            if drawn is not None:
                keys = jax.random.split(drawn.key(), len(rates))
            old, structure = jax.tree.flatten(old)
            return structure.unflatten(
                _zoneout(key, before, after, rate, flag)
                for key, before, after, rate in zip(keys, old, jax.tree.leaves(new), rates)
            )

        return Effects(update=update)

    def _rates_of(self, state: Any) -> tuple[Any, ...]:
        """A rate for each array of a state."""
        number = len(jax.tree.leaves(state))
        if not isinstance(self.rate, tuple | list):
            return self.rates * number
        if len(self.rates) != number:
            raise ValueError(
                "rate: expected one rate, or a pair for the memory and the hidden state of a cell "
                f"that has both, got {len(self.rates)} rates for {number} arrays of state; write "
                "one rate"
            )
        return self.rates


def _zoneout(key: Any, old: Any, new: Any, rate: Any, flag: Any) -> Any:
    if not jnp.issubdtype(new.dtype, jnp.inexact):  # a counter of the user's cell
        return new
    return zoneout(key if masks.draws(rate, flag) else None, old, new, rate, deterministic=flag)


def draw_words(key: Any, rate: Any, deterministic: Any, shape: tuple[int, ...]) -> Words:
    """Words of the mask that `dropout` draws for an array of ``shape``; None if nothing is drawn.

    Args:
        key: PRNG key, consumed; not used if nothing is drawn.
        rate: probability of dropping; may be traced.
        deterministic: if true, nothing is dropped; may be traced.
        shape: of the mask.
    """
    rate = masks.check_rate(rate, shape, deterministic=deterministic)
    return None if rate.settled else _draw(key, rate, shape=shape)


@functools.partial(jax.jit, static_argnames="shape")
def _draw(key: Any, rate: masks.Rate, *, shape: tuple[int, ...]) -> jax.Array:
    mask = masks.draw_or_tap(key, rate, shape)
    if masks.tapped.value:
        return mask.words
    drawn, wanted = masks.layout_of(shape), _along_last(shape)
    return mask.words if drawn == wanted else masks.pack(masks.unpack(mask.words, drawn), wanted)


def _along_last(shape: tuple[int, ...]) -> masks.Layout:
    """The layout of a mask that travels in a carry."""
    return masks.Layout(shape, max(len(shape) - 1, 0), len(shape))


def apply_words(words: Words, rate: Any, deterministic: Any, x: Any, name: str) -> Any:
    """`dropout` of ``x`` by a mask of `draw_words`, at the same rate and flag."""
    rate = masks.check_rate(rate, deterministic=deterministic)
    if rate.settled:
        return jnp.zeros_like(x) if rate.known else x
    wanted = x.shape if masks.tapped.value else _along_last(x.shape).words_shape
    if words is None or words.shape != wanted:
        found = "no mask" if words is None else f"a mask of shape {words.shape} in words"
        raise ValueError(
            f"{name}: expected the shape that the masks of the carry were drawn for, got shape "
            f"{x.shape} and {found}; make the carry with initialize_carry for inputs of this shape"
        )
    return masks.remember_words_only(_select)(words, masks.odds(rate.effective).keep_prob, x)


def _select(words: jax.Array, keep_prob: Any, x: Any) -> jax.Array:
    keep = masks.unpack_like(words, _along_last(x.shape), x)
    return masks.scale_kept_bools(keep, keep_prob, x)


def split(key: Any, number: int) -> list[Any]:
    """Keys of the parts of a mask; the key itself if there is one part."""
    masks.check_key(key)
    return [key] if number == 1 else list(jax.random.split(masks.typed(key), number))
