"""Zoneout inside a recurrent cell."""

from typing import Any

from flax import nnx

from jaxdrop.functional import _cells, _zoneout_cell
from jaxdrop.nnx._cell import CellWrapper


class ZoneoutCell(CellWrapper):
    """Runs a recurrent cell that keeps the old value of entries of its state at random.

    At every step each entry of the memory and of the hidden state stays what it was with
    probability ``rate``; decided anew at every step, or an entry would never move. The output of
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
