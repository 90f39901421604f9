"""Dropout of the hidden-to-hidden weights of a recurrent cell."""

from typing import Any

from flax import nnx

from jaxdrop.functional import _cells, _weight_drop_cell
from jaxdrop.nnx._cell import CellWrapper, innermost_cell


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
