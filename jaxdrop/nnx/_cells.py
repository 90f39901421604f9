"""Recurrent cells with dropout: one class per kind."""

from typing import Any

from flax import nnx

from jaxdrop.functional import _cells, _variational_cell, _weight_drop_cell, _zoneout_cell
from jaxdrop.nnx._cell import CellWrapper, gate_count, innermost_cell


class VariationalCell(CellWrapper):
    """Runs a recurrent cell with dropout whose masks are drawn once a sequence.

    The input and the hidden state are dropped from where they enter the gates, and only there: the
    memory of an LSTM, the interpolation of a GRU and the state that is handed on stay whole. The
    output is dropped from on its way out. Each example has masks of its own. The masks stand in
    the carry that ``initialize_carry`` returns, outside the loop: ``nnx.RNN`` and
    ``nnx.Bidirectional`` need no arguments, and a loop written by hand works the same.

    A cell that none of Flax's is (nor a subclass with the same call) is dropped from as a whole:
    from its inputs, and from the last element of its carry or the carry itself, wherever that goes.

    Args:
        cell: any Flax cell, or another cell of jaxdrop.
        input_rate: probability of dropping an entry of the inputs, in [0, 1].
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

    kind = _variational_cell.VariationalMasks

    def __init__(
        self,
        cell: nnx.RNNCellBase,
        input_rate: Any = 0.0,
        state_rate: Any = 0.0,
        output_rate: Any = 0.0,
        tied: bool = True,
        *,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(cell, deterministic, rng_collection, rngs)
        self.input_rate = input_rate
        self.state_rate = state_rate
        self.output_rate = output_rate
        self.tied = tied

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


class WeightDropCell(CellWrapper):
    """Runs a recurrent cell with hidden-to-hidden weights dropped at random, once a sequence.

    The kernels that multiply the hidden state lose entries, and the rest is rescaled; biases and
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

    kind = _weight_drop_cell.WeightMasks

    def __init__(
        self,
        cell: nnx.RNNCellBase,
        rate: Any,
        *,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(cell, deterministic, rng_collection, rngs)
        self.rate = rate

    @property
    def rates(self):
        return (self.rate,)

    def draw(self, key, flag, state, input_shape):
        cell = innermost_cell(self.cell)
        params = nnx.to_pure_dict(nnx.state(cell, nnx.Param))
        return _weight_drop_cell.draw(key, self.rate, flag, params, cell)

    def effects(self, masks, flag):
        if _cells.is_off(self.rates, flag):
            return None
        masks = _weight_drop_cell.NO_MASKS if masks is None else masks
        return _weight_drop_cell.effects(masks, self.rate, flag)


class ZoneoutCell(CellWrapper):
    """Runs a recurrent cell that keeps the old value of entries of its state at random.

    At every step each entry of the memory and of the hidden state stays what it was with
    probability ``rate``; a new decision at every step, or it would never move. The output of
    Flax's cells is the hidden state, so it shows the same. When switched off, every step takes the
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

    kind = _zoneout_cell.ZoneoutClock

    def __init__(
        self,
        cell: nnx.RNNCellBase,
        rate: Any,
        *,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(cell, deterministic, rng_collection, rngs)
        self.rate = rate

    @property
    def rates(self):
        return _zoneout_cell.rates_of(self.rate)

    def draw(self, key, flag, state, input_shape):
        return _zoneout_cell.start(key)

    def effects(self, masks, flag):
        if _cells.is_off(self.rates, False):
            return None
        return _zoneout_cell.effects(masks, self.rate, flag)

    def advance(self, masks):
        return _zoneout_cell.tick(masks)
