"""Dropout for JAX and Flax.

::

    key ──┐
    rate ─┼─► masks ─► functional ─► linen · nnx ─► mc ───► uncertainty
    shape ┘   bits     arrays        layers         passes  numbers

The functions of ``functional`` are also names of this package.
"""

import importlib
from types import ModuleType
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


def __getattr__(name: str) -> ModuleType:
    # flax.nnx takes a third as long to import as JAX and flax.linen together, so jaxdrop.nnx, which
    # needs it, is imported if it is asked for.
    if name == "nnx":
        return importlib.import_module("jaxdrop.nnx")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
