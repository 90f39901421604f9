"""What a pass notes in its program for the audit: its sites, and whose keys are whose.

A note is a name of an array or the scope in which a key is made. It survives jit, its cache and
every transform, and compiles to nothing.
"""

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxdrop.masks import _internal as masks

SITE_NOTE = "jaxdrop.site:"
CHANGES_NOTE = "jaxdrop.changes:"
UNREACHED_NOTE = "jaxdrop.unreached:"
CHOICE_NOTE = "jaxdrop.choice:"
# The scope in which the key of a site is made, by its path.
SITE = "jaxdrop.key_of_site:"
_SITE = re.compile(rf"{re.escape(SITE)}([0-9a-f]*)")
# The scope in which a module gets keys, by its path and its class.
_GIVEN = re.compile(r"jaxdrop\.key_given_to:([0-9a-f]*):(\w*)")
_NAME = re.compile(r"(^|_)(key|rng|prng)s?(_|$)")

Args = tuple[tuple[Any, ...], dict[str, Any]]

# Whether an audit is under way: what a model changes is then noted and not refused. jit finds a
# function by it, because one that was compiled before has not noted anything.
auditing = jax.make_user_context(default_value=False)
# Whether a linen model may write to its collections, so that all that it writes can be noted.
writing = jax.make_user_context(default_value=False)


class Site(NamedTuple):
    """A place in a model where dropout sits.

    Attributes:
        path: names of the modules that lead to it, joined by slashes.
        kind: class of the module.
        rate: probability of dropping; None if it is an array or does not exist.
        shape: shape of what is dropped from.
        live: whether a pass drops anything there.
    """

    path: str
    kind: str
    rate: float | None
    shape: tuple[int, ...]
    live: bool


class Choice(NamedTuple):
    """What an adapter was told about sites and rates.

    Attributes:
        sites: all sites that there are if all drop, live if they are chosen.
        unmatched: the choice in words, if no site matches it; else None.
        rated: patterns of the sites that have another rate than their own.
    """

    sites: list[Site]
    unmatched: str | None
    rated: list[str]


def mark_site(
    x: Any, path: Sequence[str], kind: type, rate: float | None, live: bool | None
) -> Any:
    """``x``, with a site noted in its first array.

    If ``live`` is None, it is a site only if the module has drawn by a key that was noted as its
    own.
    """
    return _noted(x, SITE_NOTE, ("/".join(map(str, path)), kind.__name__, rate, live))


def mark_changes(x: Any, collections: Iterable[str]) -> Any:
    """``x``, with the names of the collections noted that a pass has written."""
    return _noted(x, CHANGES_NOTE, sorted(collections)) if collections else x


def mark_unreached(x: Any, sentence: str) -> Any:
    """``x``, with a sentence noted about dropout that an adapter does not decide."""
    return _noted(x, UNREACHED_NOTE, sentence)


def mark_choice(x: Any, choice: Choice) -> Any:
    """``x``, with the `Choice` noted by which a pass was made."""
    return _noted(x, CHOICE_NOTE, choice)


def _noted(x: Any, prefix: str, content: Any) -> Any:
    leaves, structure = jax.tree.flatten(x)
    for number, leaf in enumerate(leaves):
        if _is_array(leaf) and not _is_key(leaf):
            leaves[number] = checkpoint_name(leaf, prefix + json.dumps(content))
            break
    return jax.tree.unflatten(structure, leaves)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def site_key(key: jax.Array, path: Sequence[str]) -> jax.Array:
    """A key for the site at ``path``: paths that differ in any name give different keys."""
    with jax.named_scope(SITE + _hex(path)):
        return masks.fold_in_names(key, path)


def mixed(key: jax.Array, call: Callable[..., Any], args: Any, kwargs: Any) -> Args:
    """The arguments of ``call`` with the key of the pass mixed into the keys among them.

    Keys that are equal stay so, and so does what the model ties by them. A legacy key is known by
    the name of its parameter, for example ``rng`` or ``dropout_key``.
    """

    def mix(others: jax.Array) -> jax.Array:
        words = jax.random.key_data(others)
        flat = words.reshape(-1, words.shape[-1])
        fold = functools.partial(functools.reduce, jax.random.fold_in)
        return jax.vmap(lambda words: fold(words, masks.typed(key)))(flat).reshape(others.shape)

    return _mapped(mix, call, args, kwargs)


def handed(
    path: Sequence[str], kind: type, call: Callable[..., Any], args: Any, kwargs: Any
) -> Args:
    """The arguments of ``call``, a method of a module, with the keys among them `noted`."""
    return _mapped(functools.partial(noted, path, kind), call, args, kwargs)


def noted(path: Sequence[str], kind: type, keys: jax.Array) -> jax.Array:
    """Keys as they are, with the module noted that has got them."""
    scope = f"jaxdrop.key_given_to:{_hex(path)}:{kind.__name__}"
    with jax.named_scope(scope):
        words = jax.random.key_data(keys)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(keys))  # pyright: ignore


def read_site(scopes: str) -> str | None:
    """Path of the site that the innermost scope of `site_key` names, or None."""
    sites = _SITE.findall(scopes)
    return bytes.fromhex(sites[-1]).decode() if sites else None


def read_owner(scopes: str) -> tuple[str, str] | None:
    """Path and class of the module that the innermost scope of `noted` names, or None."""
    modules = _GIVEN.findall(scopes)
    return (bytes.fromhex(modules[-1][0]).decode(), modules[-1][1]) if modules else None


def _hex(path: Sequence[str]) -> str:
    return "/".join(map(str, path)).encode().hex()


def takes_keys(call: Callable[..., Any]) -> bool:
    """Whether a function has a parameter that is named as keys are."""
    return any(map(_NAME.search, inspect.signature(call).parameters))


def _mapped(
    function: Callable[[jax.Array], jax.Array], call: Callable[..., Any], args: Any, kwargs: Any
) -> Args:
    """The arguments of ``call`` with a function applied to the arrays of keys among them."""
    legacy = {id(x) for x in jax.tree.leaves(_named_as_keys(call, args, kwargs))}

    def change(leaf: Any) -> Any:
        if not _is_array(leaf):
            return leaf
        if _is_key(leaf):
            return function(leaf)
        if id(leaf) in legacy and masks.is_legacy(leaf):
            changed = function(jax.random.wrap_key_data(jnp.asarray(leaf)))
            return jax.random.key_data(masks.independent(changed))
        return leaf

    leaves, structure = jax.tree.flatten((args, kwargs))
    changed = [change(leaf) for leaf in leaves]
    if all(a is b for a, b in zip(leaves, changed)):
        return args, kwargs
    return jax.tree.unflatten(structure, changed)


def _named_as_keys(call: Callable[..., Any], args: Any, kwargs: Any) -> list[Any]:
    try:
        bound = inspect.signature(call).bind_partial(*args, **kwargs).arguments
    except TypeError:  # the model itself explains it better
        bound = {}
    return [value for name, value in {**bound, **kwargs}.items() if _NAME.search(name)]
