"""Recurrent cells with dropout: one class per kind."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdrop.functional import _internal

__all__ = ["VariationalCell", "WeightDropCell", "ZoneoutCell"]

# The gates of Flax's cells, each with a layer "i" + gate for the inputs and one "h" + gate for the
# state; None if all of them are one layer.
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

    mc_role: ClassVar[_internal.Role] = "cell"
    behaviour: ClassVar[type[_internal.Behaviour]]

    def setup(self) -> None:
        inside = _chain(self.cell)
        # From the innermost outwards: a scope that moves takes those below it along.
        for wrapper in (self, *inside[-2::-1]):
            nn.share_scope(wrapper, inside[-1])

    def __call__(self, carry: Any, inputs: jax.Array) -> tuple[Any, Any]:
        """One step.

        Args:
            carry: what ``initialize_carry`` or the step before returned.
            inputs: array of shape ``(*batch, features)``.

        Returns:
            The carry of the next step, of the same structure, and the output.
        """
        return self.step(carry, inputs, ())

    # Unlike that of Flax's cells it is not hidden from interceptors, which mc works by.
    def initialize_carry(self, rng: Any, input_shape: tuple[int, ...]) -> Any:
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
        behaviour, flag = self.behaviour.of(self), self.resolve()
        if not behaviour.draws(flag):
            return state
        masks = behaviour.draw(self.sequence_key(rng), flag, state, input_shape, self)
        return _internal.CellCarry(state, masks)

    @property
    def num_feature_axes(self) -> int:
        """As that of the wrapped cell."""
        return self.cell.num_feature_axes

    @property
    def innermost(self) -> nn.RNNCellBase:
        """The cell inside all wrappers."""
        return _chain(self)[-1]

    @property
    def rates(self) -> tuple[Any, ...]:
        """All rates of dropping."""
        return self.behaviour.of(self).rates

    def resolve(self) -> Any:
        """The flag of the field; true while parameters are made."""
        flag = nn.merge_param("deterministic", self.deterministic, None)  # pyright: ignore
        return True if self.scope is not None and self.is_initializing() else flag

    def sequence_key(self, rng: Any) -> Any:
        """The key of the masks of a sequence."""
        if self.scope is not None:
            return self.make_rng(self.rng_collection)  # pyright: ignore
        key = jax.random.fold_in(rng, _SEQUENCE)
        return jax.random.fold_in(key, len(_chain(self.cell)))

    def step(self, carry: Any, inputs: Any, effects: Any) -> tuple[Any, Any]:
        """One step, with the effects of the wrappers around this one."""

        def inside(carry: Any, effects: Any) -> tuple[Any, Any]:
            return _run(self.cell, carry, inputs, effects)

        name = type(self).__name__
        return self.behaviour.of(self).step(inside, carry, self.resolve(), effects, name)

    def gate_count(self) -> int:
        """Number of gates of the innermost cell, refused if they are not layers of their own."""
        gates = _GATES.get(_kind(self.innermost))
        if gates is None:
            _internal.refuse_untied(self.innermost)
        return len(gates)

    def parameters(self, state: Any, input_shape: Sequence[int]) -> Any:
        """Shapes of the parameters of the innermost cell."""
        cell = self.innermost.clone(parent=None, name=None)
        inputs = jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)

        def initial(carry: Any, inputs: Any) -> Any:
            return cell.init(jax.random.key(0), carry, inputs)["params"]

        with jax.numpy_dtype_promotion("standard"):  # only shapes are asked for
            return jax.eval_shape(initial, _internal.innermost(state), inputs)


class VariationalCell(CellWrapper):
    """Runs a recurrent cell with dropout whose masks are drawn once a sequence.

    The input and the hidden state are dropped from where they enter the gates, and only there: the
    memory of an LSTM, the interpolation of a GRU and the state that is handed on stay whole. The
    output is dropped from on its way out. Each example has masks of its own. The masks stand in
    the carry that ``initialize_carry`` returns, outside the loop: ``nn.RNN`` and
    ``nn.Bidirectional`` need no arguments, and a loop written by hand works the same.

    The parameters are those of the cell, in the same places. For a cell that is not one of Flax's
    (or a subclass that overrides ``__call__``), the whole inputs are dropped from, and the last
    element of its carry or the carry itself.

    Attributes:
        cell: any Flax cell, or another cell of jaxdrop.
        input_rate: probability of dropping an element of the inputs, in [0, 1].
        state_rate: the same for the hidden state.
        output_rate: the same for the output.
        tied: whether all gates share the masks of the input and the state; else each gate has its
            own.
        deterministic: if true, the cell runs as it is.
        rng_collection: collection that the key is taken from, one for a sequence.

    Example:
        >>> cell = VariationalCell(nn.LSTMCell(8), 0.2, 0.2, deterministic=False)
        >>> x = jnp.ones((2, 5, 4))
        >>> variables = nn.RNN(cell).init(jax.random.key(0), x)
        >>> nn.RNN(cell).apply(variables, x, rngs={"dropout": jax.random.key(1)}).shape
        (2, 5, 8)

    References:
        Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
        networks", 2016; untied gates eq. 6, tied gates eq. 7.
    """

    input_rate: Any = 0.0
    state_rate: Any = 0.0
    output_rate: Any = 0.0
    tied: bool = True
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    behaviour = _internal.Variational


class WeightDropCell(CellWrapper):
    """Runs a recurrent cell with hidden-to-hidden weights dropped at random, once a sequence.

    The kernels that multiply the hidden state lose elements, and the rest is rescaled; biases and
    the kernels of the inputs stay. The same weights serve every step and the whole batch. The
    masks stand in the carry that ``initialize_carry`` returns, outside the loop: ``nn.RNN``
    and ``nn.Bidirectional`` need no arguments. The parameters are
    those of the cell, in the same places.

    Attributes:
        cell: any Flax cell, or another cell of jaxdrop; in a cell of your own, layers whose names
            begin with ``h`` or hold ``recurrent`` are taken for hidden-to-hidden.
        rate: probability of dropping a weight, in [0, 1].
        deterministic: if true, the cell runs as it is.
        rng_collection: collection that the key is taken from, one for a sequence.

    Example:
        >>> cell = WeightDropCell(nn.LSTMCell(8), 0.5, deterministic=False)
        >>> x = jnp.ones((2, 5, 4))
        >>> variables = nn.RNN(cell).init(jax.random.key(0), x)
        >>> nn.RNN(cell).apply(variables, x, rngs={"dropout": jax.random.key(1)}).shape
        (2, 5, 8)

    References:
        Merity et al., "Regularizing and optimizing LSTM language models", 2017, section 2; Wan et
        al., "Regularization of neural networks using DropConnect", 2013.
    """

    rate: Any
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    behaviour = _internal.WeightDrop


class ZoneoutCell(CellWrapper):
    """Runs a recurrent cell that keeps the old value of elements of its state at random.

    At every step each element of the memory and of the hidden state stays what it was with
    probability ``rate``. A new decision is made at every step; with a single mask an element
    that is kept would be frozen for the whole sequence. The output of Flax's cells is the hidden
    state, so it shows the same. When switched off, every step takes the
    mean of old and new state. The carry holds a key and the number of the step:
    ``nn.RNN`` and ``nn.Bidirectional`` need no arguments. The parameters are
    those of the cell, in the same places.

    Attributes:
        cell: any Flax cell, or another cell of jaxdrop.
        rate: probability of keeping the old value, in [0, 1]; one for all of the state, or a pair
            for the memory and the hidden state of an LSTM.
        deterministic: if true, every step takes the mean.
        rng_collection: collection that the key is taken from, one for a sequence.

    Example:
        >>> cell = ZoneoutCell(nn.LSTMCell(8), 0.5, deterministic=False)
        >>> x = jnp.ones((2, 5, 4))
        >>> variables = nn.RNN(cell).init(jax.random.key(0), x)
        >>> nn.RNN(cell).apply(variables, x, rngs={"dropout": jax.random.key(1)}).shape
        (2, 5, 8)

    References:
        Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations",
        2017, eq. 2 to 4.
    """

    rate: Any
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    behaviour = _internal.Zoneout


def _run(
    cell: Any, carry: Any, inputs: Any, effects: Sequence[_internal.Effects]
) -> tuple[Any, Any]:
    """A step of ``cell`` under the effects of the wrappers around it."""
    if isinstance(cell, CellWrapper):
        return cell.step(carry, inputs, effects)
    if not effects:
        return cell(carry, inputs)

    def masked(variables: Any) -> Any:
        return {"params": _internal.changed_kernels(effects, variables["params"])}

    def call(cell: Any) -> tuple[Any, Any]:
        return _call(cell, carry, inputs, effects)

    if any(effect.kernels for effect in effects):
        call = nn.map_variables(call, "params", trans_in_fn=masked)
    return _internal.finish(effects, carry, *call(cell))


def _call(
    cell: Any, carry: Any, inputs: Any, effects: Sequence[_internal.Effects]
) -> tuple[Any, Any]:
    """The call of an innermost cell whose gates get the operands that the effects ask for."""
    operands = _internal.Operands(effects, input=inputs, state=_internal.hidden(carry))
    if not operands.effects:
        return cell(carry, inputs)
    kind = _kind(cell)
    gates = _GATES.get(kind)
    if gates is None or (operands.tied and kind not in _STATE_ELSEWHERE):
        return cell(_internal.with_hidden(carry, operands("state", 0)), operands("input", 0))
    with nn.intercept_methods(_give_operands(cell, gates, operands)):
        if kind is nn.OptimizedLSTMCell:  # one product for all gates; this has the same parameters
            return nn.LSTMCell.__call__(cell, carry, inputs)
        return cell(carry, inputs)


def _give_operands(
    cell: Any, gates: Sequence[str], operands: _internal.Operands
) -> Callable[..., Any]:
    """An interceptor that gives the layers of a cell their operands."""
    layers = {"i" + gate: ("input", number) for number, gate in enumerate(gates)}
    layers |= {"h" + gate: ("state", number) for number, gate in enumerate(gates)}

    def give(next_method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        inside = module.path[:-1] == cell.path and module.name in layers
        if inside and context.method_name == "__call__":
            return next_method(operands(*layers[module.name]))
        return next_method(*args, **kwargs)

    return give


def _kind(cell: Any) -> Any:
    """Which of Flax's cells this is, or a subclass that does not change the call; else None."""
    return next((kind for kind in _GATES if type(cell).__call__ is kind.__call__), None)


def _chain(cell: Any) -> list[Any]:
    """The cell and those inside it, the innermost last."""
    return [cell, *_chain(cell.cell)] if isinstance(cell, CellWrapper) else [cell]
