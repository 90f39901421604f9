"""What the recurrent cells share: draw for a sequence, step, run the innermost cell."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdrop.functional import _cells
from jaxdrop.nnx._base import Switchable, update_changed

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


class CellWrapper(Switchable, nnx.RNNCellBase):
    """A cell that runs another one."""

    mc_role = "cell"

    def __init__(self, cell, deterministic, rng_collection, rngs):
        super().__init__(None, deterministic, rng_collection, rngs)
        self.cell = cell

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, carry: Any, inputs: jax.Array
    ):
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
    ):
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
        flag = self.resolve(None)
        if not self.draws(flag):
            return state
        return _cells.CellCarry(state, self.draw(self.sequence_key(), flag, state, input_shape))

    @property
    def num_feature_axes(self) -> int:
        """As that of the wrapped cell."""
        return self.cell.num_feature_axes

    def sequence_key(self):
        """The key of the masks of a sequence."""
        if self.rngs is None:
            name = type(self).__name__
            raise ValueError(
                f"rngs: expected nnx.Rngs or a stream, since {name} is to drop, got None; write "
                f"{name}(..., rngs=nnx.Rngs(0)), or switch dropout off with model.eval()"
            )
        return self.rngs()

    def step(self, carry, inputs, effects):
        """One step, with the effects of the wrappers around this one."""
        flag = self.resolve(None)
        masks = None
        if isinstance(carry, _cells.CellCarry) and isinstance(carry.masks, self.kind):
            carry, masks = carry
        elif self.draws(flag):
            _cells.refuse_carry(carry, type(self).__name__)
        own = self.effects(masks, flag)
        carry, output = run(self.cell, carry, inputs, effects if own is None else (own, *effects))
        return (carry if masks is None else _cells.CellCarry(carry, self.advance(masks))), output

    def draws(self, flag):
        """Whether a sequence needs random bits."""
        return _cells.draws_any(self.rates, flag)

    # What a class adds.
    kind = type(None)  # class of the masks

    @property
    def rates(self) -> tuple:
        """All rates of dropping."""
        raise NotImplementedError

    def draw(self, key, flag, state, input_shape):
        """The masks of a sequence."""
        raise NotImplementedError

    def effects(self, masks, flag):
        """The `Effects` of a step, or None."""
        raise NotImplementedError

    def advance(self, masks):
        """The masks of the next step: the very same, which makes them a constant of the loop."""
        return masks


def run(cell, carry, inputs, effects):
    """A step of ``cell`` under the effects of the wrappers around it."""
    if isinstance(cell, CellWrapper):
        return cell.step(carry, inputs, effects)
    if not effects:
        return cell(carry, inputs)
    kernels = [effect.kernels for effect in effects if effect.kernels is not None]
    if not kernels:
        return _cells.finish(effects, carry, *_call(cell, carry, inputs, effects))
    graph, params, others = nnx.split(cell, nnx.Param, ...)
    values = nnx.to_pure_dict(params)
    for change in kernels:
        values = change(values)
    nnx.replace_by_pure_dict(params, values)
    copy = nnx.merge(graph, params, others, copy=True)
    result = _call(copy, carry, inputs, effects)
    update_changed(cell, others, nnx.state(copy, nnx.Not(nnx.Param)))
    return _cells.finish(effects, carry, *result)


def _call(cell, carry, inputs, effects):
    """The call of an innermost cell whose gates get the operands that the effects ask for."""
    operands = _cells.Operands(effects, input=inputs, state=_cells.hidden(carry))
    if not operands.effects:
        return cell(carry, inputs)
    kind = _kind(cell)
    if kind is None or (operands.tied and kind not in _STATE_ELSEWHERE):
        return cell(_cells.with_hidden(carry, operands("state", 0)), operands("input", 0))
    gates, *parts = _LAYERS[kind]
    layers = {}
    for part, names in zip(("input", "state"), parts):
        for number, name in enumerate(names):
            own = range(gates) if len(names) == 1 else (number,)
            layers[name] = _layer(getattr(cell, name), operands, part, own)
    return kind.__call__(_StandIn(cell, **layers), carry, inputs)  # pyright: ignore


class _StandIn:
    """A module some of whose attributes are others; the module itself stays as it is."""

    def __init__(self, module, **attributes):
        vars(self).update(attributes, _module=module)

    def __getattr__(self, name):
        return getattr(self._module, name)


def _layer(linear, operands, part, gates):
    """A linear layer of one or more gates that takes its operands in place of its argument."""
    if operands.tied or len(gates) == 1:
        return lambda _: linear(operands(part, gates[0]))
    kernels = jnp.split(linear.kernel[...], len(gates), axis=-1)
    biases = [None] * len(gates)
    if linear.bias is not None:
        biases = jnp.split(linear.bias[...], len(gates))

    def products(_):
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


def gate_count(cell, tied):
    """Number of masks of each part of the innermost cell, refused if it has no gates to part."""
    if tied:
        return 1
    cell = innermost_cell(cell)
    kind = _kind(cell)
    if kind is None:
        _cells.refuse_untied(cell)
    return _LAYERS[kind][0]


def innermost_cell(cell):
    """The cell that is no wrapper of ours."""
    return innermost_cell(cell.cell) if isinstance(cell, CellWrapper) else cell


def _kind(cell):
    """Which of Flax's cells this is, or a subclass that does not change the call; else None."""
    return next((kind for kind in _LAYERS if type(cell).__call__ is kind.__call__), None)
