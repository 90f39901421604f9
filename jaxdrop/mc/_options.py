"""What the adapters may be told: which sites drop, at what rate, with one mask for all examples."""

import fnmatch
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdrop.masks import _rate
from jaxdrop.mc import _trace

Sites = str | Callable[[str], bool] | None


def check_sites(sites: Any) -> Any:
    """The choice as it is, refused if it is neither a pattern nor a predicate."""
    if sites is None or isinstance(sites, str) or callable(sites):
        return sites
    raise TypeError(
        f"sites: expected a pattern or a function of the path, got {sites!r}; write for example "
        "sites='encoder/*', or sites=lambda path: path.endswith('Dropout_0')"
    )


def is_chosen(sites, path):
    """Whether the site at ``path``, names in a tuple, is one of those that drop."""
    if sites is None:
        return True
    joined = "/".join(map(str, path))
    return fnmatch.fnmatchcase(joined, sites) if isinstance(sites, str) else bool(sites(joined))


def check_override(rate):
    """One rate for all sites, as an array, so that another value is no other program; or None."""
    if rate is None:
        return None
    rate = jnp.asarray(_rate.check_rate(rate), jnp.float32)
    if rate.ndim:
        raise ValueError(
            f"rate: expected a scalar, one for all sites, got shape {rate.shape}; "
            "write for example rate=0.2"
        )
    return rate


class ModelFn:
    """A model as a function of a key: one pass, `_run`, or one for each example of a call."""

    shared_masks: bool

    def __call__(self, key, *args, **kwargs):
        run = functools.partial(self._run, key)
        if self.shared_masks:
            return _by_example(run, args, kwargs)
        return run(*args, **kwargs)

    def _run(self, key, *args, **kwargs):
        """One pass; what it is, each adapter says."""
        raise NotImplementedError


def _by_example(call, args, kwargs):
    """``call(*args, **kwargs)`` for each example on its own, all with what ``call`` closes over.

    What is drawn does not depend on the example, so it is drawn once, for all of them.
    """
    arrays, static = _trace.split((args, kwargs))
    sizes = {x.shape[0] for x in jax.tree.leaves(arrays) if x.ndim}
    if len(sizes) != 1:
        raise ValueError(
            "shared_masks: expected arrays whose first axis counts the same examples, got shapes "
            f"{[x.shape for x in jax.tree.leaves(arrays)]}; bind what has no examples in a lambda"
        )

    def one(rows):
        rows = jax.tree.map(lambda x, y: x[None] if y.ndim else x, rows, arrays)
        args, kwargs = _trace.join(rows, static)
        return jax.tree.map(lambda x: jnp.squeeze(x, 0), call(*args, **kwargs))

    return jax.vmap(one, in_axes=(_axes(arrays),))(arrays)


def _axes(arrays):
    return jax.tree.map(lambda x: 0 if x.ndim else None, arrays)


# What a norm is told that keeps averages, by the names that its flag may have.
EVALUATED = {"use_running_average": True, "deterministic": True, "train": False, "training": False}


# What Flax's attention is told where an override decides: it compares its rate with 0 in Python.
SOME_RATE = 0.5


def at_rate(attention_fn, rate):
    """Flax's attention function, or one like it, at another rate than it is told."""

    @functools.wraps(attention_fn)  # Flax hands on what the signature has
    def attention(*args, **kwargs):
        if "dropout_rate" in kwargs:
            kwargs["dropout_rate"] = rate
        return attention_fn(*args, **kwargs)

    return attention
