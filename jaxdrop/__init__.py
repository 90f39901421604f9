"""Dropout for JAX and Flax.

::

    key ──┐
    rate ─┼─► masks ─► words ─► functional ─► array ─► linen · nnx ─► mc ─► samples ─► uncertainty
    shape ┘   floor 1           floor 2                floor 3        floor 4          pure numbers

A floor imports only from the floors below it. The functions of floor 2 stand here as well.
"""

from jaxdrop import functional as functional
from jaxdrop import linen as linen
from jaxdrop import masks as masks
from jaxdrop import mc as mc
from jaxdrop import nnx as nnx
from jaxdrop import plots as plots
from jaxdrop import uncertainty as uncertainty
from jaxdrop.functional import drop_connect as drop_connect
from jaxdrop.functional import drop_key as drop_key
from jaxdrop.functional import dropout as dropout
from jaxdrop.functional import mc_dropout as mc_dropout
from jaxdrop.functional import multi_sample_loss as multi_sample_loss
from jaxdrop.functional import r_drop_loss as r_drop_loss
from jaxdrop.functional import spatial_dropout as spatial_dropout
from jaxdrop.functional import token_dropout as token_dropout
from jaxdrop.functional import variational_dropout as variational_dropout
from jaxdrop.functional import word_dropout as word_dropout
from jaxdrop.functional import zoneout as zoneout

__all__ = [
    "drop_connect",
    "drop_key",
    "dropout",
    "functional",
    "linen",
    "masks",
    "mc",
    "mc_dropout",
    "multi_sample_loss",
    "nnx",
    "plots",
    "r_drop_loss",
    "spatial_dropout",
    "token_dropout",
    "uncertainty",
    "variational_dropout",
    "word_dropout",
    "zoneout",
]
