"""Dropout for JAX and Flax.

::

    key ──┐
    rate ─┼─► masks ─► words ─► functional ─► array ─► linen · nnx ─► mc ─► samples ─► uncertainty
    shape ┘   floor 1           floor 2                floor 3        floor 4          pure numbers

A floor imports only from the floors below it. The functions of floor 2 stand here as well.
"""

from jaxdrop import functional as functional
from jaxdrop import masks as masks
from jaxdrop.functional import dropout as dropout
from jaxdrop.functional import mc_dropout as mc_dropout
from jaxdrop.functional import spatial_dropout as spatial_dropout
from jaxdrop.functional import variational_dropout as variational_dropout
