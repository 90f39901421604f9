"""The random streams that the modules of an nnx model get for a pass."""

import contextlib
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdrop.mc._site import site_key


def of_site(key, path, had, like):
    """The stream of a site: stacked as the one that the module had there.

    Args:
        key: of the pass.
        path: of the site.
        had: stream of the module, or what else it keeps there.
        like: a variable that is stacked if the module is; None where none is.
    """
    if isinstance(had, nnx.RngStream) or like is None:
        return _stream(key, path, had)
    return _Stacked(site_key(key, path), like)


def _stream(key, path, had):
    key = site_key(key, path)
    if isinstance(had, nnx.RngStream) and had.key.shape:  # layers stacked for a scan
        key = jax.random.split(key, had.key.shape)
    return nnx.RngStream(key, tag=getattr(had, "tag", "dropout"))


@contextlib.contextmanager
def opened(stream):
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
    its axes, so that a transform takes them apart likewise; the first entry of what it leaves of
    them counts.
    """

    def __init__(self, key, like):
        self.shape = like.shape[: max(1, min(2, like.ndim - 1))]
        words, self.kind = jax.random.key_data(key), jax.random.key_impl(key)
        self.words = type(like)(jnp.broadcast_to(words, (*self.shape, *words.shape)))
        numbers = jnp.arange(math.prod(self.shape), dtype=jnp.uint32)
        self.count = type(like)(numbers.reshape(self.shape))

    def first_key(self):
        """The key: all entries are the same."""
        words = self.words.get_value()
        words = words.reshape(-1, words.shape[-1])[0]
        return jax.random.wrap_key_data(words, impl=self.kind)  # pyright: ignore


def shape_of(stream):
    """How many layers a stream of `of_site` is for, as the shape of what each of them gets."""
    return stream.shape if isinstance(stream, _Stacked) else stream.key.shape


def stacks(model):
    """A function from the path of a module to a variable that is stacked if the module is.

    The smallest in the smallest module around it; None where that is a scalar, which is in no
    stack.
    """
    found: dict[tuple, Any] = {}
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState))):
        if not isinstance(variable, nnx.Variable) or not hasattr(variable.get_value(), "shape"):
            continue
        for length in range(len(path)):
            smallest = found.setdefault(path[:length], variable)
            if math.prod(variable.shape) < math.prod(smallest.shape):
                found[path[:length]] = variable

    def like(path):
        around = (path[:length] for length in range(len(path) - 1, -1, -1))
        variable = next((found[each] for each in around if each in found), None)
        return variable if variable is not None and math.prod(variable.shape) > 1 else None

    return like


def rekeyed(had, key, path, noted):
    """Streams of a pass in place of those of the model, in whatever holds them.

    Args:
        had: what holds them.
        key: of the pass.
        path: of it.
        noted: what is done to the key of each.
    """
    if isinstance(had, nnx.RngStream):
        stream = _stream(key, (*path, ""), had)
        return nnx.RngStream(noted(stream.key[...]), tag=stream.tag)
    if isinstance(had, nnx.Rngs):
        streams = {tag: _stream(key, (*path, tag), s) for tag, s in had.items()}
        noted_streams = {
            tag: nnx.RngStream(noted(s.key[...]), tag=s.tag) for tag, s in streams.items()
        }
        return nnx.Rngs(noted_streams)
    if isinstance(had, nnx.Dict | dict):
        parts = {name: rekeyed(x, key, (*path, name), noted) for name, x in had.items()}
        return type(had)(parts)
    if isinstance(had, nnx.List | list | tuple):
        return type(had)([rekeyed(x, key, (*path, str(i)), noted) for i, x in enumerate(had)])
    return had


def held(node):
    """The attributes of a module that are streams, or hold some, by name."""
    return {name: value for name, value in vars(node).items() if any(True for _ in _all(value))}


def counts(node):
    """How often each of the streams that a module holds has been asked."""
    return [s.count.get_raw_value() for value in held(node).values() for s in _all(value)]


def first(x):
    """The first entry of an array; all else as it is."""
    return x.ravel()[0] if getattr(x, "ndim", 0) else x


def _all(value):
    if isinstance(value, nnx.RngStream):
        yield value
    elif isinstance(value, nnx.Rngs | nnx.Dict | dict):
        for part in dict(value.items()).values():  # "values" is a stream to nnx.Rngs
            yield from _all(part)
    elif isinstance(value, nnx.List | list | tuple):
        for part in value:
            yield from _all(part)
