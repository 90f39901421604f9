"""Modules for ``flax.nnx``: each function as one, with Flax's arguments and call."""

# ruff: noqa: F403  (each file says what it exports)

from jaxdrop.nnx import (
    _attention,
    _cells,
    _cheaper,
    _elements,
    _learned,
    _lora,
    _noise,
    _replace,
    _sequences,
    _structured,
    _weights,
)
from jaxdrop.nnx._attention import *
from jaxdrop.nnx._cells import *
from jaxdrop.nnx._cheaper import *
from jaxdrop.nnx._elements import *
from jaxdrop.nnx._learned import *
from jaxdrop.nnx._lora import *
from jaxdrop.nnx._noise import *
from jaxdrop.nnx._replace import *
from jaxdrop.nnx._sequences import *
from jaxdrop.nnx._structured import *
from jaxdrop.nnx._weights import *

__all__: list[str] = []
__all__ += _attention.__all__
__all__ += _cells.__all__
__all__ += _cheaper.__all__
__all__ += _elements.__all__
__all__ += _learned.__all__
__all__ += _lora.__all__
__all__ += _noise.__all__
__all__ += _replace.__all__
__all__ += _sequences.__all__
__all__ += _structured.__all__
__all__ += _weights.__all__
