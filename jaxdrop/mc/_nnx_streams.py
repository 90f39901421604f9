"""The random streams that the modules of an nnx model get for a pass."""

import contextlib
import math
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdrop.mc._decide import Path
from jaxdrop.mc._marks import site_key


def of_site(key: jax.Array, path: Path, had: Any, like: Any) -> Any:
    """The stream of a site: stacked as the one that the module had there.

    Args:
        key: of the pass.
        path: of the site.
        had: stream of the module, or what else it keeps there.
        like: a variable that is stacked if the module is, or None.
    """
    if isinstance(had, nnx.RngStream) or like is None:
        return _stream(key, path, had)
    return _Stacked(site_key(key, path), like)


def _stream(key: jax.Array, path: Path, had: Any) -> nnx.RngStream:
    key = site_key(key, path)
    if isinstance(had, nnx.RngStream) and had.key.shape:  # layers stacked for a scan
        key = jax.random.split(key, had.key.shape)
    return nnx.RngStream(key, tag=getattr(had, "tag", "dropout"))


@contextlib.contextmanager
def opened(stream: Any) -> Generator[Any]:
    """A stream of `of_site` for the length of a call."""
    if not isinstance(stream, _Stacked):
        yield stream
        return
    counts = stream.count.get_value()
    single = nnx.RngStream(stream.first_key(), tag="dropout")
    start = single.count[...] = first(counts)
    yield single
    # One for each call, unless layers would then meet in one another's counts.
    step = 1 if counts.shape == stream.shape else math.prod(stream.shape)
    calls = (single.count[...] - start) * jnp.uint32(step)
    stream.count.set_value(counts + jnp.broadcast_to(calls, counts.shape))


class _Stacked(nnx.Pytree):
    """A stream for a module that had none, whether or not it is stacked: for a scan, say.

    Its arrays are variables of the kind of one that is stacked with the module, with the first of
    its axes, so that a transform takes them apart likewise. Of what it leaves, the first element
    counts.
    """

    def __init__(self, key: jax.Array, like: Any) -> None:
        self.shape = like.shape[: max(1, min(2, like.ndim - 1))]
        words, self.kind = jax.random.key_data(key), jax.random.key_impl(key)
        self.words = type(like)(jnp.broadcast_to(words, (*self.shape, *words.shape)))
        numbers = jnp.arange(math.prod(self.shape), dtype=jnp.uint32)
        self.count = type(like)(numbers.reshape(self.shape))

    def first_key(self) -> jax.Array:
        """The key: all elements are the same."""
        words = self.words.get_value()
        words = words.reshape(-1, words.shape[-1])[0]
        return jax.random.wrap_key_data(words, impl=self.kind)  # pyright: ignore


def shape_of(stream: Any) -> tuple[int, ...]:
    """How many layers a stream of `of_site` is for, as the shape of what each of them gets."""
    return stream.shape if isinstance(stream, _Stacked) else stream.key.shape


def stacks(model: nnx.Module) -> Callable[[tuple[Any, ...]], Any]:
    """A function from the path of a module to a variable that is stacked if the module is.

    It is the smallest variable in the smallest module around it, or None if that is a scalar,
    which cannot be stacked.
    """
    smallest: dict[tuple[Any, ...], Any] = {}
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState))):
        if not isinstance(variable, nnx.Variable) or not hasattr(variable.get_value(), "shape"):
            continue
        for length in range(len(path)):
            other = smallest.setdefault(path[:length], variable)
            if math.prod(variable.shape) < math.prod(other.shape):
                smallest[path[:length]] = variable

    def like(path: tuple[Any, ...]) -> Any:
        around = (path[:length] for length in range(len(path) - 1, -1, -1))
        variable = next((smallest[each] for each in around if each in smallest), None)
        return variable if variable is not None and math.prod(variable.shape) > 1 else None

    return like


def rekeyed(had: Any, key: jax.Array, path: Path, noted: Callable[[jax.Array], jax.Array]) -> Any:
    """Streams of a pass instead of those of the model, in the container that holds them.

    Args:
        had: stream or container of the model.
        key: of the pass.
        path: of ``had``.
        noted: what is done to the key of each stream.
    """

    def stream(name: str, had: nnx.RngStream) -> nnx.RngStream:
        made = _stream(key, (*path, name), had)
        return nnx.RngStream(noted(made.key[...]), tag=made.tag)

    def inside(name: Any, had: Any) -> Any:
        return rekeyed(had, key, (*path, str(name)), noted)

    if isinstance(had, nnx.RngStream):
        return stream("", had)
    if isinstance(had, nnx.Rngs):
        return nnx.Rngs({tag: stream(tag, each) for tag, each in had.items()})
    if isinstance(had, nnx.Dict | dict):
        return type(had)({name: inside(name, each) for name, each in had.items()})
    if isinstance(had, nnx.List | list | tuple):
        return type(had)([inside(number, each) for number, each in enumerate(had)])
    return had


def held(node: nnx.Module) -> dict[str, Any]:
    """The attributes of a module that are streams, or hold some, by name."""
    return {name: value for name, value in vars(node).items() if any(True for _ in _all(value))}


def counts(node: nnx.Module) -> list[Any]:
    """How often each of the streams that a module holds has been asked."""
    return [s.count.get_raw_value() for value in held(node).values() for s in _all(value)]


def first(x: Any) -> Any:
    """The first element of an array; any other value as it is."""
    return x.ravel()[0] if getattr(x, "ndim", 0) else x


def _all(value: Any) -> Iterator[nnx.RngStream]:
    if isinstance(value, nnx.RngStream):
        yield value
    elif isinstance(value, nnx.Rngs | nnx.Dict | dict):
        for part in dict(value.items()).values():  # "values" is a stream to nnx.Rngs
            yield from _all(part)
    elif isinstance(value, nnx.List | list | tuple):
        for part in value:
            yield from _all(part)
