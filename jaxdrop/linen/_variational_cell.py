"""Recurrent dropout whose masks are the same at every step."""

from typing import Any

from jaxdrop.functional import _cells, _variational_cell
from jaxdrop.linen._cell import CellWrapper, gate_count


class VariationalCell(CellWrapper):
    """Runs a recurrent cell with dropout whose masks are drawn once a sequence.

    The input and the hidden state are dropped from where they enter the gates, and only there: the
    memory of an LSTM, the interpolation of a GRU and the state that is handed on stay whole. The
    output is dropped from on its way out. Each example has masks of its own. The masks stand in
    the carry that ``initialize_carry`` returns, outside the loop: ``nn.RNN`` and
    ``nn.Bidirectional`` need no arguments, and a loop written by hand works the same.

    The parameters are those of the cell, in the same places. A cell that none of Flax's is (nor
    a subclass with the same call) is dropped from as a whole: from its inputs, and from the last
    element of its carry or the carry itself, wherever that goes.

    Attributes:
        cell: any Flax cell, or another cell of jaxdrop.
        input_rate: probability of dropping an entry of the inputs, in [0, 1].
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

    kind = _variational_cell.VariationalMasks

    @property
    def rates(self):
        return self.input_rate, self.state_rate, self.output_rate

    def draw(self, key, flag, state, input_shape):
        h = _cells.hidden(_cells.innermost(state)).shape
        gates = gate_count(self.cell, self.tied)
        return _variational_cell.draw(key, self.rates, flag, (tuple(input_shape), h, h), gates)

    def effects(self, masks, flag):
        if _cells.is_off(self.rates, flag):
            return None
        masks = _variational_cell.NO_MASKS if masks is None else masks
        return _variational_cell.effects(masks, self.rates, flag, self.tied)
