"""Dropout for JAX and Flax.

::

    key ──┐
    rate ─┼─► masks ─► words ─► functional ─► array ─► linen · nnx ─► mc ─► samples ─► uncertainty
    shape ┘   floor 1           floor 2                floor 3        floor 4          pure numbers

A floor imports only from the floors below it. The functions of floor 2 stand here as well.
"""

import importlib
from typing import TYPE_CHECKING

from jaxdrop import functional as functional
from jaxdrop import linen as linen
from jaxdrop import masks as masks
from jaxdrop import mc as mc
from jaxdrop import plots as plots
from jaxdrop import uncertainty as uncertainty
from jaxdrop.functional import *  # noqa: F403

if TYPE_CHECKING:
    from jaxdrop import nnx as nnx

__version__ = "0.1.0"

__all__ = ["functional", "linen", "masks", "mc", "nnx", "plots", "uncertainty"]
__all__ += functional.__all__


def __getattr__(name):
    # flax.nnx takes a third as long to import as JAX and flax.linen together, so jaxdrop.nnx, which
    # needs it, is imported if it is asked for.
    if name == "nnx":
        return importlib.import_module("jaxdrop.nnx")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
