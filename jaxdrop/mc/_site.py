"""Dropout sites: how an adapter marks one, and keys that no two sites share."""

import json
import numbers
from typing import NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name

from jaxdrop.masks import _keys

_MARK = "jaxdrop.site:"
_CHANGES = "jaxdrop.changes:"

# Whether an audit is under way: a model may then write to its collections, which is noted. Part of
# what jit finds a function by, since one that was compiled before has not noted anything.
auditing = jax.make_user_context(default_value=False)


class Site(NamedTuple):
    """A place in a model where dropout sits.

    Attributes:
        path: names of the modules that lead to it, joined by slashes.
        kind: class of the module.
        rate: probability of dropping; None where it is an array, or where there is none.
        shape: shape of what is dropped from.
        live: whether a pass drops anything there.
    """

    path: str
    kind: str
    rate: float | None
    shape: tuple[int, ...]
    live: bool


def is_live(rate, deterministic):
    """Whether a site with this rate and flag drops anything; traced ones may."""
    return deterministic is not True and not (isinstance(rate, numbers.Real) and rate == 0)


def mark(x, path, kind, rate, live):
    """``x``, with the site noted in the traced program, where the audit reads it.

    The note survives jit, its cache and every transform, and compiles to nothing. In a pytree, the
    first leaf carries it.
    """
    rate = float(rate) if isinstance(rate, numbers.Real) else None
    return _noted(x, _MARK, ("/".join(map(str, path)), kind.__name__, rate, live))


def mark_changes(x, collections):
    """``x``, with the names of the collections that a pass has written noted in the program."""
    return _noted(x, _CHANGES, sorted(collections)) if collections else x


def read_mark(equation):
    """The `Site` that an equation of a jaxpr notes, or None."""
    note = _read(equation, _MARK)
    if note is None:
        return None
    path, kind, rate, live = note
    return Site(path, kind, rate, equation.outvars[0].aval.shape, live)


def read_changes(equation):
    """The names of collections that an equation of a jaxpr notes."""
    return _read(equation, _CHANGES) or []


def _noted(x, prefix, note):
    (first, *rest), structure = jax.tree.flatten(x)
    first = checkpoint_name(first, prefix + json.dumps(note))
    return jax.tree.unflatten(structure, [first, *rest])


def _read(equation, prefix):
    name = str(equation.params.get("name"))
    if equation.primitive.name != "name" or not name.startswith(prefix):
        return None
    return json.loads(name[len(prefix) :])


def site_key(key, path):
    """A key for the site at ``path``: paths that differ in any name give different keys."""
    return _keys.fold_in_names(key, path)
