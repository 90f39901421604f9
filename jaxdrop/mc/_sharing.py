"""Decisions that the sites of a pass share along more axes than their own, as along time."""

import fnmatch
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdrop import functional
from jaxdrop.masks import _internal as masks
from jaxdrop.mc._marks import Site

# Patterns of sites, each with axes.
Sharing = tuple[tuple[str, tuple[int, ...]], ...]
_REMEDY = "write for example broadcast_dims={'*': -2}, where -2 is the axis of time"
# Layers without an argument for it whose elements share decisions along all axes but these.
_DECIDING: dict[Any, tuple[str, ...]] = {
    functional.drop_path: ("batch_axis",),
    functional.spatial_dropout: ("batch_axis", "channel_axis"),
    functional.feature_alpha_dropout: ("batch_axis", "channel_axis"),
    functional.drop_head: ("batch_axis", "head_axis"),
    functional.layer_drop: (),
    functional.drop_connect: (),
    functional.embedding_dropout: (),
}


def check(broadcast_dims: Any) -> Sharing:
    """The option ``broadcast_dims`` of an adapter, refused unless it names axes by patterns."""
    if broadcast_dims is None:
        return ()
    if not isinstance(broadcast_dims, Mapping):
        raise TypeError(
            "broadcast_dims: expected a dict from patterns of sites to axes, got "
            f"{broadcast_dims!r}; {_REMEDY}"
        )
    return tuple((_pattern(name), _axes(axes)) for name, axes in broadcast_dims.items())


def _pattern(pattern: Any) -> str:
    if isinstance(pattern, str):
        return pattern
    raise TypeError(f"broadcast_dims: expected patterns of sites, got {pattern!r}; {_REMEDY}")


def _axes(axes: Any) -> tuple[int, ...]:
    is_one = isinstance(axes, str) or not isinstance(axes, Sequence)
    some: tuple[Any, ...] = (axes,) if is_one else tuple(axes)
    if not some or not all(isinstance(a, int) and not isinstance(a, bool) for a in some):
        raise TypeError(
            f"broadcast_dims: expected an axis or a tuple of axes, got {axes!r}; {_REMEDY}"
        )
    return some


def axes_of(sharing: Sharing, path: Iterable[str]) -> tuple[int, ...]:
    """The axes of the first pattern that matches the path of a site; none if none does."""
    joined = "/".join(path)
    return next((axes for name, axes in sharing if fnmatch.fnmatchcase(joined, name)), ())


def check_reach(sharing: Sharing, sites: Iterable[Site], by_themselves: Iterable[str]) -> None:
    """Refuses patterns that match no site, and sites that `refuse_alone` does."""
    paths = [site.path for site in sites]
    for pattern, _ in sharing:
        if not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
            raise ValueError(
                f"broadcast_dims: expected patterns that match sites, got {pattern!r}, which "
                f"matches none of {', '.join(map(repr, paths))}; print jaxdrop.mc.audit(...)"
            )
    for path in sorted(by_themselves):
        refuse_alone(sharing, [path])


def refuse_alone(sharing: Sharing, path: Iterable[str]) -> None:
    """Refuses a site that drops by a function and a key of its own, if a pattern matches it."""
    path = "/".join(path)
    if axes_of(sharing, [path]):
        raise ValueError(
            f"broadcast_dims: expected sites whose decisions it reaches, got {path!r}, which "
            "draws by a function and a key of its own; give that module a layer such as "
            "jaxdrop's Dropout, or name the other sites in the patterns"
        )


def attributes(
    module: Any, path: Sequence[str], axes: tuple[int, ...], inputs: Any
) -> dict[str, tuple[int, ...]]:
    """The attributes that a module of dropout gets, so that it shares its decisions along axes.

    Args:
        module: of linen or nnx.
        path: of the module.
        axes: along which it is to share its decisions, beside its own.
        inputs: of the module, what it drops from first.
    """
    if not axes:
        return {}
    ndim = jnp.ndim(jax.tree.leaves(inputs)[0])
    if set(joined((), axes, ndim, path)) <= _shared_already(module, ndim):
        return {}
    own = getattr(module, "broadcast_dims", None)
    if own is not None:
        return {"broadcast_dims": joined(own, axes, ndim, path)}
    raise ValueError(
        f"broadcast_dims: expected sites that can share their decisions along axis {axes}, got "
        f"{'/'.join(path)} ({type(module).__name__}), which cannot; name the other sites in the "
        "patterns, or use a layer that can, such as Dropout or VariationalDropout"
    )


def _shared_already(module: Any, ndim: int) -> set[int]:
    """The axes along which a module shares its decisions anyway."""
    function = getattr(type(module), "function", None)
    if function is functional.variational_dropout:
        return {module.time_axis % ndim}
    if function not in _DECIDING:
        return set()
    deciding = (getattr(module, name) for name in _DECIDING[function])
    return set(range(ndim)) - {axis % ndim for axis in deciding if axis is not None}


def joined(own: Any, axes: tuple[int, ...], ndim: int, path: Sequence[str]) -> tuple[int, ...]:
    """The axes along which the site at a path shares its decisions, its own ones among them."""
    more = masks.check_axes(axes, ndim, f"broadcast_dims at {'/'.join(path)}")
    return tuple(sorted({*masks.check_axes(own, ndim, "broadcast_dims"), *more}))


def attention(
    attention_fn: Callable[..., Any], axes: tuple[int, ...], path: Sequence[str]
) -> Callable[..., Any]:
    """An attention function whose weights share their decisions along axes, beside its own."""
    if not axes:
        return attention_fn
    own = inspect.signature(attention_fn).parameters.get("broadcast_dims")
    if own is None:
        raise ValueError(
            f"broadcast_dims: expected an attention function with this argument at "
            f"{'/'.join(path)}, got {getattr(attention_fn, '__name__', attention_fn)}; leave "
            "attention_fn to its default, or use attention_fn of jaxdrop.linen or jaxdrop.nnx"
        )
    shared = joined(own.default, axes, 4, path)  # of weights of shape (B, N, T, S)
    return functools.partial(attention_fn, broadcast_dims=shared)
