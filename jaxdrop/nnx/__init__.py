"""Floor 3 for ``flax.nnx``: each function as a module, with Flax's arguments and call.

The names are loaded when one is first asked for: ``flax.nnx`` takes a third as long to import as
JAX and ``flax.linen`` together, and whoever uses neither it nor this floor need not wait for it.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxdrop.nnx._names import *  # noqa: F403
    from jaxdrop.nnx._names import __all__ as __all__


def __getattr__(name):
    if name == "__all__" or not name.startswith("_"):
        names = importlib.import_module("jaxdrop.nnx._names")
        globals().update({each: getattr(names, each) for each in ("__all__", *names.__all__)})
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*globals(), *__getattr__("__all__")]
