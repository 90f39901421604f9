"""Masks as values, one bit per element, the same for every device, mesh and transform."""

from jaxdrop.masks._mask import Mask as Mask
from jaxdrop.masks._mask import sample as sample

__all__ = ["Mask", "sample"]
