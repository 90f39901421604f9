"""Dropout of the hidden-to-hidden weights of a recurrent cell."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdrop.functional import _cells, _weight_drop_cell
from jaxdrop.linen._cell import CellWrapper, innermost_cell


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
