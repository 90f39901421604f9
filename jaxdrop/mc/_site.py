"""Dropout sites: how an adapter marks one, and keys that no two sites share."""

import contextvars
import json
import numbers
from typing import NamedTuple

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxdrop.masks import _keys

_MARK = "jaxdrop.site:"
_CHANGES = "jaxdrop.changes:"
_UNREACHED = "jaxdrop.unreached:"
_CHOICE = "jaxdrop.choice:"
# Scopes in which keys are made: of a site, and from the keys among the arguments of a pass.
SITE, ARGUMENT = "jaxdrop.key_of_site", "jaxdrop.key_of_argument"

# Whether an audit is under way: a model may then write to its collections, which is noted.
auditing = contextvars.ContextVar("auditing", default=False)


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
    return deterministic is not True and not is_known_zero(rate)


def is_known_zero(rate):
    """Whether a rate is 0, as is known while a program is traced."""
    return isinstance(rate, numbers.Real) and rate == 0


def mark(x, path, kind, rate, live):
    """``x``, with the site noted in the traced program, where the audit reads it.

    The note survives jit, its cache and every transform, and compiles to nothing. In a pytree, the
    first array carries it.
    """
    rate = float(rate) if isinstance(rate, numbers.Real) else None
    return _noted(x, _MARK, ("/".join(map(str, path)), kind.__name__, rate, live))


def mark_changes(x, collections):
    """``x``, with the names of the collections that a pass has written noted in the program."""
    return _noted(x, _CHANGES, sorted(collections)) if collections else x


def mark_unreached(x, text):
    """``x``, with a sentence noted about dropout that an adapter does not decide."""
    return _noted(x, _UNREACHED, text)


def mark_choice(x, sites, unmatched):
    """``x``, with a note that an adapter was told which sites drop, or at what rate.

    Args:
        x: the output of a pass.
        sites: all that there are where all drop, live where they are chosen.
        unmatched: the choice in words, if no site matches it; else None.
    """
    return _noted(x, _CHOICE, (unmatched, sites))


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


def read_unreached(equation):
    """The sentence that an equation of a jaxpr notes, or None."""
    return _read(equation, _UNREACHED)


def read_choice(equation):
    """What `mark_choice` has noted in an equation of a jaxpr: the choice and the sites, or None."""
    note = _read(equation, _CHOICE)
    if note is None:
        return None
    unmatched, sites = note
    return unmatched, [Site(path, kind, r, tuple(shape), live) for path, kind, r, shape, live in sites]


def _noted(x, prefix, note):
    leaves, structure = jax.tree.flatten(x)
    for number, leaf in enumerate(leaves):
        if _carries_notes(leaf):
            leaves[number] = checkpoint_name(leaf, prefix + json.dumps(note))
            break
    return jax.tree.unflatten(structure, leaves)


def _carries_notes(leaf):
    array = isinstance(leaf, jax.Array | np.ndarray)
    return array and not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _read(equation, prefix):
    name = str(equation.params.get("name"))
    if equation.primitive.name != "name" or not name.startswith(prefix):
        return None
    return json.loads(name[len(prefix) :])


def site_key(key, path):
    """A key for the site at ``path``: paths that differ in any name give different keys."""
    with jax.named_scope(SITE):
        return _keys.fold_in_names(key, path)
