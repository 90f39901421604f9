"""What the modules of linen and nnx share."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

# What Monte Carlo adapters may do with a module: turn its dropout on, at another rate if one is
# asked for; or only that, since the rate fixes an output shape; or obey its own flag, since it is
# never switched off by the model's; or treat it as a recurrent cell, which draws for a sequence.
Role = Literal["drops", "drops shapes", "always on", "cell"]


def forward(
    function: Callable[..., Any], module: Any, key: Any, *inputs: Any, deterministic: Any
) -> Any:
    """Calls a function with the attributes of a module that its arguments name.

    Args:
        function: ``function(key, *inputs, rate, *, deterministic, ...)``; the rate may have another
            name, such as ``stddev``.
        module: of linen or nnx.
        key: PRNG key, or None if nothing is drawn.
        *inputs: arrays that the call of the module was given.
        deterministic: flag of that call.
    """
    level, *options = _arguments(function)
    keywords = {name: getattr(module, name) for name in options}
    level = getattr(module, level)
    return function(key, *inputs, level, deterministic=deterministic, **keywords)


@functools.cache
def _arguments(function: Callable[..., Any]) -> list[str]:
    """Names of the last argument by place, and of those by keyword."""
    parameters = inspect.signature(function).parameters.values()
    *_, level = (p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
    options = (p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
    return [level, *(name for name in options if name != "deterministic")]
