"""Dropout beside layers of a model whose code has none: which layers, and what is dropped there."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdrop.masks import _internal as masks

# What names layers: a pattern for their paths, a class, or a function of the path.
Layers = str | type | Callable[[str], bool]
Insertions = tuple[tuple[Layers, "Insert"], ...]
_SHOWN = 40  # paths in a message


class Insert(NamedTuple):
    """Dropout that ``insert=`` of `from_linen` and `from_nnx` puts beside a layer.

    Attributes:
        rate: probability of dropping, in [0, 1]; a number that is known now. A traced one is for
            ``rate=``, which takes its place.
        before: whether to drop from the first argument of the layer instead of its output.
        spatial: whether a convolution of Flax drops whole feature maps, with one decision per
            example and channel. All other layers drop single elements.

    Example:
        >>> Insert(0.1, spatial=True)
        Insert(rate=0.1, before=False, spatial=True)
    """

    rate: float
    before: bool = False
    spatial: bool = False


class Called:
    """What a pass has called: all layers, and for which of the insertions one was found."""

    def __init__(self) -> None:
        self.paths: dict[str, str] = {}  # and classes
        self.used: set[int] = set()

    def check(self, insertions: Insertions) -> None:
        """Refuses an insertion that no layer got."""
        unused = [layers for n, (layers, _) in enumerate(insertions) if n not in self.used]
        if unused:
            named = [f"{path!r} ({kind})" for path, kind in self.paths.items()]
            example = max(self.paths, key=len, default="*Dense_*")
            more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
            raise ValueError(
                "insert: expected names of layers that the model calls, got "
                f"{', '.join(map(_shown, unused))}, which names none, or only those that a name "
                f"before it has; the layers are {', '.join(named[:_SHOWN])}{more}; write for "
                f"example {example!r}, or their class; * matches anything, slashes too"
            )


class Place(NamedTuple):
    """Where dropout is inserted.

    Attributes:
        path: of the site, as the audit prints it.
        layer: path and class of the layer, for messages.
        insert: what is inserted.
        number: of the insertion.
        called: where it is noted that a pass has come here.
    """

    path: tuple[str, ...]
    layer: str
    insert: Insert
    number: int
    called: Called

    def shared(self, kernel_size: Any) -> tuple[int, ...]:
        """The axes that share one decision: those of space, of a convolution with this kernel."""
        if kernel_size is None or not self.insert.spatial:
            return ()
        return tuple(range(-1 - np.size(kernel_size), -1))

    def come(self, x: Any) -> None:
        """Notes that a pass drops from ``x`` here, and refuses what nothing can be dropped from."""
        self.called.used.add(self.number)
        is_array = isinstance(x, jax.Array | np.ndarray)
        if is_array and jnp.issubdtype(x.dtype, jnp.inexact):
            return
        got = f"dtype {x.dtype}" if is_array else type(x).__name__
        what = "takes" if self.insert.before else "returns"
        raise TypeError(
            f"insert: expected a layer that {what} one array of floating numbers, got "
            f"{self.layer}, which {what} {got}; name layers inside it, or those beside it"
        )

    def replaced(self, call: Any, args: Any, kwargs: Any, drop: Callable[[Any], Any]) -> Any:
        """The arguments of a call with something dropped from the first."""
        if args:
            return (drop(args[0]), *args[1:]), kwargs
        first = next(iter(inspect.signature(call).parameters), None)
        if first not in kwargs:
            self.come(None)
        return args, {**kwargs, first: drop(kwargs[first])}


def checked(insert: Any) -> Insertions:
    """The checked insertions of an adapter, in the order in which they are asked."""
    if insert is None:
        return ()
    example = "write for example insert={'*Dense_*': 0.1}"
    if not isinstance(insert, Mapping):
        raise TypeError(
            f"insert: expected a dict from layers to rates or mc.Insert, got {insert!r}; {example}"
        )
    insertions: list[Any] = []
    for layers, given in insert.items():
        if not (isinstance(layers, str) or callable(layers)):
            raise TypeError(
                "insert: expected a pattern, a class or a function of the path for each key, got "
                f"{layers!r}; {example}"
            )
        given = given if isinstance(given, Insert) else Insert(given)
        for name in ("before", "spatial"):
            if not isinstance(value := getattr(given, name), bool):
                raise TypeError(
                    f"insert: expected True or False for {name}, got {value!r}; write for "
                    f"example mc.Insert(0.1, {name}=True)"
                )
        rate = masks.check_rate(given.rate).value
        if isinstance(rate, Tracer) or np.ndim(rate):
            raise ValueError(
                f"insert: expected one number that is known now for {_shown(layers)}, got {rate}; "
                "write insert={...: 0.1} and pass what varies as rate=, which takes its place"
            )
        insertions.append((layers, given._replace(rate=float(rate))))
    return tuple(insertions)


def _shown(layers: Any) -> str:
    return repr(layers) if isinstance(layers, str) else getattr(layers, "__name__", repr(layers))
