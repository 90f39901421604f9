"""What the recurrent cells share: draw for a sequence, step, run the innermost cell."""

from typing import Any, ClassVar

import jax
from flax import linen as nn

from jaxdrop.functional import _cells
from jaxdrop.functional._modules import Role

# The gates of Flax's cells, each with a layer "i" + gate for the inputs and one "h" + gate for the
# state; None where all of them are one layer.
_GATES = {
    nn.LSTMCell: "ifgo",
    nn.OptimizedLSTMCell: "ifgo",
    nn.GRUCell: "rzn",
    nn.MGUCell: "fn",
    nn.SimpleCell: ("",),
    nn.ConvLSTMCell: None,
}
# Those whose state goes elsewhere than into the gates, too.
_STATE_ELSEWHERE = (nn.GRUCell, nn.MGUCell, nn.SimpleCell)
# Domain of the keys of a sequence that are derived from the key of an unbound cell.
_SEQUENCE = 0x6A64_7270


class CellWrapper(nn.RNNCellBase):
    """A cell that runs another one, whose parameters keep their names and places."""

    cell: nn.RNNCellBase

    mc_role: ClassVar[Role] = "cell"

    def setup(self):
        inside = _chain(self.cell)
        # From the innermost outwards: a scope that moves takes those below it along.
        for wrapper in (self, *inside[-2::-1]):
            nn.share_scope(wrapper, inside[-1])

    def __call__(self, carry: Any, inputs: jax.Array):
        """One step.

        Args:
            carry: what ``initialize_carry`` or the step before returned.
            inputs: array of shape ``(*batch, features)``.

        Returns:
            The carry of the next step, of the same structure, and the output.
        """
        return self.step(carry, inputs, ())

    def initialize_carry(  # seen by interceptors, unlike that of Flax's cells
        self, rng: Any, input_shape: tuple[int, ...]
    ):
        """Carry of the first step, with the masks of a sequence in it if the cell drops.

        Args:
            rng: key for the state of the wrapped cell. Inside a model the key of the masks comes
                from ``rng_collection``; for a cell on its own it is derived from this one.
            input_shape: shape of the inputs of one step.

        Returns:
            A `CellCarry` of ``state`` and ``masks``, or the carry of the wrapped cell if nothing
            is drawn. Given back as ``initial_carry`` it goes on with the same masks;
            ``fresh.resume(last)`` goes on from the state of ``last`` with those of ``fresh``.
        """
        state = self.cell.initialize_carry(rng, input_shape)
        flag = self.resolve()
        if not self.draws(flag):
            return state
        return _cells.CellCarry(state, self.draw(self.sequence_key(rng), flag, state, input_shape))

    @property
    def num_feature_axes(self) -> int:
        """As that of the wrapped cell."""
        return self.cell.num_feature_axes

    def resolve(self):
        """The flag of the field; true while parameters are made."""
        flag = nn.merge_param("deterministic", self.deterministic, None)  # pyright: ignore
        return True if self.scope is not None and self.is_initializing() else flag

    def sequence_key(self, rng):
        """The key of the masks of a sequence."""
        if self.scope is not None:
            return self.make_rng(self.rng_collection)  # pyright: ignore
        key = jax.random.fold_in(rng, _SEQUENCE)
        return jax.random.fold_in(key, len(_chain(self.cell)))

    def step(self, carry, inputs, effects):
        """One step, with the effects of the wrappers around this one."""
        flag = self.resolve()
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

    def masked(variables):
        params = variables["params"]
        for change in kernels:
            params = change(params)
        return {"params": params}

    def call(cell):
        return _call(cell, carry, inputs, effects)

    if kernels:
        call = nn.map_variables(call, "params", trans_in_fn=masked)
    return _cells.finish(effects, carry, *call(cell))


def _call(cell, carry, inputs, effects):
    """The call of an innermost cell whose gates get the operands that the effects ask for."""
    operands = _cells.Operands(effects, input=inputs, state=_cells.hidden(carry))
    if not operands.effects:
        return cell(carry, inputs)
    kind = _kind(cell)
    if operands.tied and kind not in _STATE_ELSEWHERE:
        return cell(_cells.with_hidden(carry, operands("state", 0)), operands("input", 0))
    with nn.intercept_methods(_give_operands(cell, _GATES[kind], operands)):
        if kind is nn.OptimizedLSTMCell:  # one product for all gates; this has the same parameters
            return nn.LSTMCell.__call__(cell, carry, inputs)
        return cell(carry, inputs)


def _give_operands(cell, gates, operands):
    """An interceptor that gives the layers of a cell their operands."""
    layers = {"i" + gate: ("input", number) for number, gate in enumerate(gates)}
    layers |= {"h" + gate: ("state", number) for number, gate in enumerate(gates)}

    def give(next_method, args, kwargs, context):
        module = context.module
        inside = module.path[:-1] == cell.path and module.name in layers
        if inside and context.method_name == "__call__":
            return next_method(operands(*layers[module.name]))
        return next_method(*args, **kwargs)

    return give


def gate_count(cell, tied):
    """Number of masks of each part of the innermost cell, refused if it has no gates to part."""
    if tied:
        return 1
    cell = innermost_cell(cell)
    gates = _GATES.get(_kind(cell))
    if gates is None:
        _cells.refuse_untied(cell)
    return len(gates)


def innermost_cell(cell):
    """The cell that is no wrapper of ours."""
    return _chain(cell)[-1]


def _kind(cell):
    """Which of Flax's cells this is, or a subclass that does not change the call; else None."""
    return next((kind for kind in _GATES if type(cell).__call__ is kind.__call__), None)


def _chain(cell):
    """The cell and those inside it, the innermost last."""
    return [cell, *_chain(cell.cell)] if isinstance(cell, CellWrapper) else [cell]
