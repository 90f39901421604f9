"""Recurrent cells with dropout, apart from the framework that a cell is written in.

A wrapper of either framework reads its `Behaviour` from its own fields and asks it what a sequence
draws and what a step changes. How an innermost cell is called with these changes differs between
frameworks, so that stands with the wrappers.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn, Protocol, Self

from jaxdrop.masks import _internal as masks


class CellCarry(NamedTuple):
    """The carry of a cell that drops: the state of the wrapped cell, and the masks of a sequence.

    Attributes:
        state: carry of the wrapped cell.
        masks: packed bits of the masks, or what else lasts for a sequence.
    """

    state: Any
    masks: Any

    def resume(self, last: Any) -> "CellCarry":
        """Continues from the state of ``last`` with the masks of this carry.

        For a long sequence in stretches, each of which has masks of its own:
        ``cell.initialize_carry(key, shape).resume(last)``.

        Args:
            last: carry of the same cell, with masks or without.

        Returns:
            A carry with the structure of this one.
        """
        inner = self.state.resume(last) if isinstance(self.state, CellCarry) else innermost(last)
        return self._replace(state=inner)


def innermost(carry: Any) -> Any:
    """The carry of the innermost cell, which is not a wrapper."""
    while isinstance(carry, CellCarry):
        carry = carry.state
    return carry


def hidden(state: Any) -> Any:
    """The part of a cell's state that enters the products: the last, or all of it."""
    return state[-1] if isinstance(state, tuple | list) else state


def with_hidden(state: Any, h: Any) -> Any:
    """The state with another hidden part."""
    return type(state)((*state[:-1], h)) if isinstance(state, tuple | list) else h


class Effects(NamedTuple):
    """What a wrapper does inside one step of the innermost cell.

    Attributes:
        operand: ``operand(part, gate, x)``: what enters the products of a gate instead of x, for
            the part ``"input"`` or ``"state"`` and the number of the gate.
        tied: whether all gates of a part get the same operand.
        kernels: ``kernels(params)``: parameters instead of those of the cell.
        update: ``update(old, new)``: state instead of the new one.
        output: ``output(y)``: what the step gives instead of y.
    """

    operand: Callable[[str, int, Any], Any] | None = None
    tied: bool = True
    kernels: Callable[[Any], Any] | None = None
    update: Callable[[Any, Any], Any] | None = None
    output: Callable[[Any], Any] | None = None


class Operands:
    """Inputs and state as they enter the products of each gate, computed once if tied."""

    def __init__(self, effects: Sequence[Effects], **parts: Any) -> None:
        self.parts = parts
        self.effects = [effect for effect in effects if effect.operand is not None]
        self.tied = all(effect.tied for effect in self.effects)
        self.known: dict[tuple[str, int], Any] = {}

    def __call__(self, part: str, gate: int) -> Any:
        gate = 0 if self.tied else gate
        if (part, gate) not in self.known:
            x = self.parts[part]
            for effect in self.effects:
                x = effect.operand(part, gate, x)  # pyright: ignore[reportOptionalCall]
            self.known[part, gate] = x
        return self.known[part, gate]


def changed_kernels(effects: Sequence[Effects], params: Any) -> Any:
    """Parameters after the effects."""
    for effect in effects:
        params = effect.kernels(params) if effect.kernels else params
    return params


def finish(effects: Sequence[Effects], old: Any, new: Any, output: Any) -> tuple[Any, Any]:
    """New state and output of a step after the effects; an output that is the state follows it."""
    is_hidden = output is hidden(new)
    for effect in effects:
        new = effect.update(old, new) if effect.update else new
    output = hidden(new) if is_hidden else output
    for effect in effects:
        output = effect.output(output) if effect.output else output
    return new, output


class Wrapper(Protocol):
    """What a `Behaviour` asks of the wrapper that it belongs to."""

    @property
    def innermost(self) -> Any:
        """The innermost cell, which is not a wrapper."""

    def gate_count(self) -> int:
        """Number of gates of the innermost cell, refused if they are not layers of their own."""
        ...

    def parameters(self, state: Any, input_shape: Sequence[int]) -> Any:
        """Parameters of the innermost cell, or their shapes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Behaviour:
    """What a kind of dropout does in a recurrent cell; its fields are fields of the wrapper."""

    carried: ClassVar[type]  # class of what stands in the carry

    @classmethod
    def of(cls, wrapper: Any) -> Self:
        """The behaviour that the fields of a wrapper describe."""
        return cls(*(getattr(wrapper, field.name) for field in dataclasses.fields(cls)))

    @property
    def rates(self) -> tuple[Any, ...]:
        """All rates of dropping."""
        raise NotImplementedError

    def draws(self, flag: Any) -> bool:
        """Whether a sequence needs random bits; all rates are checked."""
        return not all(rate.settled for rate in self._checked(flag))

    def is_off(self, flag: Any) -> bool:
        """Whether a step is known to be that of the wrapped cell."""
        return all(rate.known == 0 for rate in self._checked(flag))

    def _checked(self, flag: Any) -> list[masks.Rate]:
        return [masks.check_rate(rate, deterministic=flag) for rate in self.rates]

    def draw(
        self, key: Any, flag: Any, state: Any, input_shape: Sequence[int], wrapper: Wrapper
    ) -> Any:
        """What stands in the carry of a sequence.

        Args:
            key: PRNG key, consumed.
            flag: if true, nothing is dropped; may be traced.
            state: first carry of the wrapped cell.
            input_shape: of the inputs of one step.
            wrapper: that this belongs to.
        """
        raise NotImplementedError

    def effects(self, drawn: Any, flag: Any) -> Effects:
        """What is changed inside a step; ``drawn`` is None if the carry has nothing drawn."""
        raise NotImplementedError

    def advance(self, drawn: Any) -> Any:
        """What the next step is given: the very same, which makes it a constant of the loop."""
        return drawn

    def step(self, run: Callable[..., Any], carry: Any, flag: Any, effects: Any, name: str) -> Any:
        """One step: ``run(carry, effects)`` with the effects of this and of the wrappers around.

        Args:
            run: a step of the wrapped cell under effects, to its new carry and output.
            carry: of the wrapper.
            flag: if true, nothing is dropped; may be traced.
            effects: of the wrappers around, a tuple.
            name: of the class of the wrapper.
        """
        drawn = None
        if isinstance(carry, CellCarry) and isinstance(carry.masks, self.carried):
            carry, drawn = carry
        elif self.draws(flag):
            raise TypeError(
                f"carry: expected a CellCarry with the masks of a {name}, got "
                f"{type(carry).__name__}; make it with initialize_carry of the {name}, which "
                "draws the masks of a sequence"
            )
        if not self.is_off(flag):
            effects = (self.effects(drawn, flag), *effects)
        carry, output = run(carry, effects)
        return (carry if drawn is None else CellCarry(carry, self.advance(drawn))), output


def refuse_untied(cell: Any) -> NoReturn:
    """Raises for a cell whose gates cannot have masks of their own."""
    raise ValueError(
        f"tied: expected True for a cell whose gates are not layers of their own, got False for "
        f"{type(cell).__name__}; write tied=True"
    )
