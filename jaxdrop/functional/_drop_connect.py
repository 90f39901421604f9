"""Dropout of the weights of a network."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
from jax.typing import ArrayLike

from jaxdrop.functional._dropout import dropout
from jaxdrop.functional._masked import Flag, Key
from jaxdrop.masks import _internal as masks

Where = Callable[[tuple[Any, ...], Any], bool] | None


def drop_connect(
    key: Key,
    params: Any,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    where: Where = None,
) -> Any:
    """Zeros weights at random and rescales the rest, in any pytree of parameters.

    Each chosen leaf goes through `dropout` with a key of its own, which depends on the key and on
    the number of the leaf among all leaves: choosing fewer leaves changes no mask of the others.
    The mean over keys is ``params``. One set of weights serves a whole batch; under ``jax.vmap``
    over keys and examples, each example has its own.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        params: pytree of arrays: a dict of Flax parameters, an nnx state, an Equinox module.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to each chosen leaf.
        deterministic: if true, returns ``params``; may be traced.
        where: ``where(path, leaf)`` says whether a leaf is dropped from; a path is a tuple of the
            names and numbers that lead to the leaf, such as ``("Dense_0", "kernel")``; in an nnx
            state it ends in ``"value"``. None chooses every floating or complex leaf, biases among
            them, but not one whose dtype lacks 0 (the scales of float8_e8m0fnu).

    Returns:
        Pytree with the structure, shapes and dtypes of ``params``; leaves that are not chosen are
        the same objects.

    Raises:
        TypeError: a chosen leaf is not a floating or complex array, ``key`` is not a PRNG key, or
            another argument is of the wrong type.
        ValueError: ``where`` chooses nothing, ``rate`` lies outside [0, 1] or does not broadcast,
            or ``key`` is a batch of keys.

    Example:
        >>> params = {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}
        >>> kernels = lambda path, leaf: path[-1] == "kernel"
        >>> dropped = drop_connect(jax.random.key(0), params, 0.5, where=kernels)
        >>> sorted({float(v) for v in dropped["kernel"].ravel()})
        [0.0, 2.0]
        >>> dropped["bias"] is params["bias"]
        True

    References:
        Wan et al., "Regularization of neural networks using DropConnect", 2013, eq. 4; rescaled in
        training, as dropout.
    """
    masks.refuse_keys(params=params, rate=rate)
    checked = masks.check_rate(rate, deterministic=deterministic)
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    chosen = _chosen([(names_of(path), leaf) for path, leaf in leaves], where)
    keys: Any = [None] * len(leaves)
    if not checked.settled:
        masks.check_key(key)
        keys = jax.random.split(masks.typed(key), len(leaves))  # pyright: ignore[reportArgumentType]
    dropped = [
        dropout(keys[i], leaf, rate, deterministic=deterministic) if chosen[i] else leaf
        for i, (_, leaf) in enumerate(leaves)
    ]
    same = all(new is leaf for new, (_, leaf) in zip(dropped, leaves))
    return params if same else structure.unflatten(dropped)


def _chosen(leaves: list[tuple[tuple[Any, ...], Any]], where: Where) -> list[bool]:
    """For each leaf, whether it is dropped from."""
    if where is not None:
        _check_where(where)
    floating = [hasattr(leaf, "dtype") and masks.is_droppable(leaf.dtype) for _, leaf in leaves]
    chosen = floating if where is None else [bool(where(*named)) for named in leaves]
    if not any(chosen):
        raise ValueError(
            "where: expected a choice of one leaf or more, got none of "
            f"{[path for path, _ in leaves]}; compare with these paths"
        )
    wrong = [
        (path, getattr(leaf, "dtype", type(leaf).__name__))
        for (path, leaf), is_chosen, is_floating in zip(leaves, chosen, floating)
        if is_chosen and not is_floating
    ]
    if wrong:
        raise TypeError(
            f"where: expected a choice of floating or complex arrays that hold 0, got {wrong}; "
            "leave these paths out"
        )
    return chosen


def _check_where(where: Any) -> None:
    try:
        inspect.signature(where).bind((), None)
    except ValueError:  # a callable of C that does not say what it takes
        pass
    except TypeError as error:
        raise TypeError(
            f"where: expected a function of a path and a leaf, got {where!r} ({error}); write for "
            'example where=lambda path, leaf: path[-1] == "kernel"'
        ) from None


def names_of(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Names and numbers of a path, for every kind of nodes."""
    return tuple(
        next((getattr(k, a) for a in ("key", "idx", "name") if hasattr(k, a)), str(k)) for k in path
    )
