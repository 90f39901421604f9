"""Modules for ``flax.linen``: each function as one, with Flax's fields and call."""

# ruff: noqa: F403  (each file says what it exports)

from jaxdrop.linen import (
    _attention,
    _cells,
    _cheaper,
    _elements,
    _learned,
    _noise,
    _replace,
    _sequences,
    _structured,
    _weights,
)
from jaxdrop.linen._attention import *
from jaxdrop.linen._cells import *
from jaxdrop.linen._cheaper import *
from jaxdrop.linen._elements import *
from jaxdrop.linen._learned import *
from jaxdrop.linen._noise import *
from jaxdrop.linen._replace import *
from jaxdrop.linen._sequences import *
from jaxdrop.linen._structured import *
from jaxdrop.linen._weights import *

__all__: list[str] = []
__all__ += _attention.__all__
__all__ += _cells.__all__
__all__ += _cheaper.__all__
__all__ += _elements.__all__
__all__ += _learned.__all__
__all__ += _noise.__all__
__all__ += _replace.__all__
__all__ += _sequences.__all__
__all__ += _structured.__all__
__all__ += _weights.__all__
