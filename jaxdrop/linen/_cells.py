"""Recurrent cells with dropout: one class per kind."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdrop.functional import _cells, _variational_cell, _weight_drop_cell, _zoneout_cell
from jaxdrop.linen._cell import CellWrapper, gate_count, innermost_cell


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


class WeightDropCell(CellWrapper):
    """Runs a recurrent cell with hidden-to-hidden weights dropped at random, once a sequence.

    The kernels that multiply the hidden state lose entries, and the rest is rescaled; biases and
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

    kind = _weight_drop_cell.WeightMasks

    @property
    def rates(self):
        return (self.rate,)

    def draw(self, key, flag, state, input_shape):
        cell = innermost_cell(self.cell).clone(parent=None, name=None)
        inputs = jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)

        def parameters(carry, inputs):
            return cell.init(jax.random.key(0), carry, inputs)["params"]

        with jax.numpy_dtype_promotion("standard"):  # only shapes are asked for
            params = jax.eval_shape(parameters, _cells.innermost(state), inputs)
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

    kind = _zoneout_cell.ZoneoutClock

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
