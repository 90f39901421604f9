"""Recurrent cells with dropout: one class per kind."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdrop.functional import _internal
from jaxdrop.nnx._base import Switchable, layer, update_changed

__all__ = ["VariationalCell", "WeightDropCell", "ZoneoutCell"]

# The number of gates of Flax's cells, and the layers for the inputs and for the state: one for
# each gate, or one for all.
_LAYERS = {
    nnx.LSTMCell: (4, ("ii", "if_", "ig", "io"), ("hi", "hf", "hg", "ho")),
    nnx.OptimizedLSTMCell: (4, ("dense_i",), ("dense_h",)),
    nnx.GRUCell: (3, ("dense_i",), ("dense_h",)),
    nnx.SimpleCell: (1, ("dense_i",), ("dense_h",)),
}
# Those whose state goes elsewhere than into the gates, too.
_STATE_ELSEWHERE = (nnx.GRUCell, nnx.SimpleCell)


@layer
class CellWrapper(Switchable, nnx.RNNCellBase):
    """A cell that runs another one."""

    mc_role = "cell"
    behaviour: ClassVar[type[_internal.Behaviour]]

    cell: nnx.RNNCellBase = dataclasses.field(kw_only=False)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, carry: Any, inputs: jax.Array
    ) -> tuple[Any, Any]:
        """One step.

        Args:
            carry: what ``initialize_carry`` or the step before returned.
            inputs: array of shape ``(*batch, features)``.

        Returns:
            The carry of the next step, of the same structure, and the output.
        """
        return self.step(carry, inputs, ())

    def initialize_carry(
        self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None
    ) -> Any:
        """Carry of the first step, with the masks of a sequence in it if the cell drops.

        Args:
            input_shape: shape of the inputs of one step.
            rngs: stream for the state of the wrapped cell; the key of the masks comes from the
                module's own stream.
            carry_init: initializer of that state.

        Returns:
            A `CellCarry` of ``state`` and ``masks``, or the carry of the wrapped cell if nothing
            is drawn. Given back as ``initial_carry`` it goes on with the same masks;
            ``fresh.resume(last)`` goes on from the state of ``last`` with those of ``fresh``.
        """
        state = self.cell.initialize_carry(input_shape, rngs, carry_init)
        behaviour, flag = self.behaviour.of(self), self.resolve(None)
        if not behaviour.draws(flag):
            return state
        masks = behaviour.draw(self.sequence_key(), flag, state, input_shape, self)
        return _internal.CellCarry(state, masks)

    @property
    def num_feature_axes(self) -> int:
        """As that of the wrapped cell."""
        return self.cell.num_feature_axes

    @property
    def innermost(self) -> nnx.RNNCellBase:
        """The cell inside all wrappers."""
        return self.cell.innermost if isinstance(self.cell, CellWrapper) else self.cell

    @property
    def rates(self) -> tuple[Any, ...]:
        """All rates of dropping."""
        return self.behaviour.of(self).rates

    def sequence_key(self) -> Any:
        """The key of the masks of a sequence."""
        stream = self.rngs  # pyright: ignore[reportAttributeAccessIssue]
        if stream is None:
            name = type(self).__name__
            raise ValueError(
                f"rngs: expected nnx.Rngs or a stream, because {name} drops, got None; write "
                f"{name}(..., rngs=nnx.Rngs(0)), or switch dropout off with model.eval()"
            )
        return stream()

    def step(self, carry: Any, inputs: Any, effects: Any) -> tuple[Any, Any]:
        """One step, with the effects of the wrappers around this one."""

        def inside(carry: Any, effects: Any) -> tuple[Any, Any]:
            return _run(self.cell, carry, inputs, effects)

        name = type(self).__name__
        return self.behaviour.of(self).step(inside, carry, self.resolve(None), effects, name)

    def gate_count(self) -> int:
        """Number of gates of the innermost cell, refused if they are not layers of their own."""
        kind = _kind(self.innermost)
        if kind is None:
            _internal.refuse_untied(self.innermost)
        return _LAYERS[kind][0]

    def parameters(self, state: Any, input_shape: Sequence[int]) -> Any:
        """The parameters of the innermost cell."""
        return nnx.to_pure_dict(nnx.state(self.innermost, nnx.Param))


@layer
class VariationalCell(CellWrapper):
    """Runs a recurrent cell with dropout whose masks are drawn once a sequence.

    The input and the hidden state are dropped from where they enter the gates, and only there: the
    memory of an LSTM, the interpolation of a GRU and the state that is handed on stay whole. The
    output is dropped from on its way out. Each example has masks of its own. The masks stand in
    the carry that ``initialize_carry`` returns, outside the loop: ``nnx.RNN`` and
    ``nnx.Bidirectional`` need no arguments, and a loop written by hand works the same.

    For a cell that is not one of Flax's
    (or a subclass that overrides ``__call__``), the whole inputs are dropped from, and the last
    element of its carry or the carry itself.

    Args:
        cell: any Flax cell, or another cell of jaxdrop.
        input_rate: probability of dropping an element of the inputs, in [0, 1].
        state_rate: the same for the hidden state.
        output_rate: the same for the output.
        tied: whether all gates share the masks of the input and the state; else each gate has its
            own.
        deterministic: if true, the cell runs as it is; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from, one for a sequence.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> rngs = nnx.Rngs(0)
        >>> cell = VariationalCell(nnx.LSTMCell(4, 8, rngs=rngs), 0.2, 0.2, rngs=rngs)
        >>> nnx.RNN(cell)(jnp.ones((2, 5, 4))).shape
        (2, 5, 8)

    References:
        Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
        networks", 2016; untied gates eq. 6, tied gates eq. 7.
    """

    input_rate: Any = dataclasses.field(default=0.0, kw_only=False)
    state_rate: Any = dataclasses.field(default=0.0, kw_only=False)
    output_rate: Any = dataclasses.field(default=0.0, kw_only=False)
    tied: bool = dataclasses.field(default=True, kw_only=False)

    behaviour = _internal.Variational


@layer
class WeightDropCell(CellWrapper):
    """Runs a recurrent cell with hidden-to-hidden weights dropped at random, once a sequence.

    The kernels that multiply the hidden state lose elements, and the rest is rescaled; biases and
    the kernels of the inputs stay. The same weights serve every step and the whole batch. The
    masks stand in the carry that ``initialize_carry`` returns, outside the loop: ``nnx.RNN``
    and ``nnx.Bidirectional`` need no arguments.

    Args:
        cell: any Flax cell, or another cell of jaxdrop; in a cell of your own, layers whose names
            begin with ``h`` or hold ``recurrent`` are taken for hidden-to-hidden.
        rate: probability of dropping a weight, in [0, 1].
        deterministic: if true, the cell runs as it is; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from, one for a sequence.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> rngs = nnx.Rngs(0)
        >>> cell = WeightDropCell(nnx.LSTMCell(4, 8, rngs=rngs), 0.5, rngs=rngs)
        >>> nnx.RNN(cell)(jnp.ones((2, 5, 4))).shape
        (2, 5, 8)

    References:
        Merity et al., "Regularizing and optimizing LSTM language models", 2017, section 2; Wan et
        al., "Regularization of neural networks using DropConnect", 2013.
    """

    rate: Any = dataclasses.field(kw_only=False)

    behaviour = _internal.WeightDrop


@layer
class ZoneoutCell(CellWrapper):
    """Runs a recurrent cell that keeps the old value of elements of its state at random.

    At every step each element of the memory and of the hidden state stays what it was with
    probability ``rate``. A new decision is made at every step; with a single mask an element
    that is kept would be frozen for the whole sequence. The output of Flax's cells is the hidden
    state, so it shows the same. When switched off, every step takes the
    mean of old and new state. The carry holds a key and the number of the step:
    ``nnx.RNN`` and ``nnx.Bidirectional`` need no arguments.

    Args:
        cell: any Flax cell, or another cell of jaxdrop.
        rate: probability of keeping the old value, in [0, 1]; one for all of the state, or a pair
            for the memory and the hidden state of an LSTM.
        deterministic: if true, every step takes the mean; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from, one for a sequence.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> rngs = nnx.Rngs(0)
        >>> cell = ZoneoutCell(nnx.LSTMCell(4, 8, rngs=rngs), 0.5, rngs=rngs)
        >>> nnx.RNN(cell)(jnp.ones((2, 5, 4))).shape
        (2, 5, 8)

    References:
        Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations",
        2017, eq. 2 to 4.
    """

    rate: Any = dataclasses.field(kw_only=False)

    behaviour = _internal.Zoneout


def _run(
    cell: Any, carry: Any, inputs: Any, effects: Sequence[_internal.Effects]
) -> tuple[Any, Any]:
    """A step of ``cell`` under the effects of the wrappers around it."""
    if isinstance(cell, CellWrapper):
        return cell.step(carry, inputs, effects)
    if not effects:
        return cell(carry, inputs)
    if not any(effect.kernels for effect in effects):
        return _internal.finish(effects, carry, *_call(cell, carry, inputs, effects))
    graph, params, others = nnx.split(cell, nnx.Param, ...)
    changed = _internal.changed_kernels(effects, nnx.to_pure_dict(params))
    nnx.replace_by_pure_dict(params, changed)
    copy = nnx.merge(graph, params, others, copy=True)
    result = _call(copy, carry, inputs, effects)
    update_changed(cell, others, nnx.state(copy, nnx.Not(nnx.Param)))
    return _internal.finish(effects, carry, *result)


def _call(
    cell: Any, carry: Any, inputs: Any, effects: Sequence[_internal.Effects]
) -> tuple[Any, Any]:
    """The call of an innermost cell whose gates get the operands that the effects ask for."""
    operands = _internal.Operands(effects, input=inputs, state=_internal.hidden(carry))
    if not operands.effects:
        return cell(carry, inputs)
    kind = _kind(cell)
    if kind is None or (operands.tied and kind not in _STATE_ELSEWHERE):
        return cell(_internal.with_hidden(carry, operands("state", 0)), operands("input", 0))
    gates, *parts = _LAYERS[kind]
    layers = {}
    for part, names in zip(("input", "state"), parts):
        for number, name in enumerate(names):
            numbers = range(gates) if len(names) == 1 else (number,)
            layers[name] = _layer(getattr(cell, name), operands, part, numbers)
    return kind.__call__(_StandIn(cell, **layers), carry, inputs)  # pyright: ignore


class _StandIn:
    """A module some of whose attributes are others; the module itself stays as it is."""

    def __init__(self, module: Any, **attributes: Any) -> None:
        vars(self).update(attributes, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _layer(
    linear: Any, operands: _internal.Operands, part: str, gates: Sequence[int]
) -> Callable[[Any], Any]:
    """A linear layer of one or more gates that takes its operands instead of its argument."""
    if operands.tied or len(gates) == 1:
        return lambda _: linear(operands(part, gates[0]))
    kernels = jnp.split(linear.kernel[...], len(gates), axis=-1)
    biases = [None] * len(gates)
    if linear.bias is not None:
        biases = jnp.split(linear.bias[...], len(gates))

    def products(_: Any) -> jax.Array:
        return jnp.concatenate(
            [
                type(linear).__call__(
                    _StandIn(linear, kernel=kernel, bias=bias),  # pyright: ignore
                    operands(part, gate),
                )
                for gate, kernel, bias in zip(gates, kernels, biases)
            ],
            axis=-1,
        )

    return products


def _kind(cell: Any) -> Any:
    """Which of Flax's cells this is, or a subclass that does not change the call; else None."""
    return next((kind for kind in _LAYERS if type(cell).__call__ is kind.__call__), None)
