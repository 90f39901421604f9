"""Dropout of the weights of a network."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.functional._dropout import dropout
from jaxdrop.functional._masked import Flag, Key, Rule, apply_masked
from jaxdrop.masks import Mask
from jaxdrop.masks import _internal as masks

Where = Callable[[tuple[Any, ...], Any], bool] | None
Leaves = list[tuple[tuple[Any, ...], Any]]  # paths and what stands there


def drop_connect(
    key: Key,
    params: Any,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    where: Where = None,
    other: Any = None,
) -> Any:
    """Zeros weights at random and rescales the rest, in any pytree of parameters.

    Each chosen leaf goes through `dropout` with a key of its own, which depends on the key and on
    the number of the leaf among all leaves: choosing fewer leaves changes no mask of the others.
    The mean over keys is ``params``. One set of weights serves a whole batch; under ``jax.vmap``
    over keys and examples, each example has its own.

    With ``other`` a dropped weight becomes the one of ``other`` instead of 0, as in Mixout, where
    these are the weights before fine-tuning. A weight w that stays becomes ``u + (w - u) /
    (1 - rate)``, if u is the one of ``other``, so the mean is ``params`` here too. Which weights
    are dropped does not depend on ``other``.

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
        other: None, or a pytree that has an array at the path of each chosen leaf, of its shape;
            further ones are not read.

    Returns:
        Pytree with the structure, shapes and dtypes of ``params``; leaves that are not chosen are
        the same objects.

    Raises:
        TypeError: a chosen leaf is not a floating or complex array, ``key`` is not a PRNG key, or
            another argument is of the wrong type.
        ValueError: ``where`` chooses nothing, ``rate`` lies outside [0, 1] or does not broadcast,
            ``key`` is a batch of keys, or ``other`` lacks a chosen leaf or has another shape there.

    Example:
        >>> params = {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}
        >>> kernels = lambda path, leaf: path[-1] == "kernel"
        >>> dropped = drop_connect(jax.random.key(0), params, 0.5, where=kernels)
        >>> sorted({float(v) for v in dropped["kernel"].ravel()})
        [0.0, 2.0]
        >>> dropped["bias"] is params["bias"]
        True
        >>> before = {"kernel": jnp.zeros((4, 8)), "bias": jnp.full(8, 0.5)}
        >>> mixed = drop_connect(jax.random.key(0), params, 0.5, other=before)
        >>> sorted({float(v) for v in mixed["bias"]})
        [0.5, 1.5]

    References:
        Wan et al., "Regularization of neural networks using DropConnect", 2013, eq. 4; rescaled in
        training, as dropout. Lee, Cho & Kang, "Mixout: effective regularization to finetune
        large-scale pretrained language models", 2020, section 3, for ``other``.
    """
    masks.refuse_keys(params=params, rate=rate)
    checked = masks.check_rate(rate, deterministic=deterministic)
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    named = [(names_of(path), leaf) for path, leaf in leaves]
    chosen = _chosen(named, where)
    others = [None] * len(leaves) if other is None else _others(named, chosen, other)
    keys: Any = [None] * len(leaves)
    if not checked.settled:
        masks.check_key(key)
        keys = jax.random.split(masks.typed(key), len(leaves))  # pyright: ignore[reportArgumentType]
    dropped = [
        _dropped(keys[i], leaf, others[i], rate, deterministic) if chosen[i] else leaf
        for i, (_, leaf) in enumerate(leaves)
    ]
    same = all(new is leaf for new, (_, leaf) in zip(dropped, leaves))
    return params if same else structure.unflatten(dropped)


def _dropped(key: Key, leaf: Any, other: Any, rate: ArrayLike, deterministic: Flag) -> jax.Array:
    """One leaf, of which dropped elements become 0, or those of ``other``."""
    if other is None:
        return dropout(key, leaf, rate, deterministic=deterministic)
    pair = masks.check_array(leaf), other
    return apply_masked(
        key, pair, rate, pair[0].shape, deterministic=deterministic, rule=_TO_OTHERS
    )


def _mix(mask: Mask, pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Elements of the second array, and what keeps the mean of the first; rounded once."""
    x, other = pair
    wide = masks.wide_dtype(x)
    start = other.astype(wide)
    mixed = start + masks.scale_kept(mask, x.astype(wide) - start)
    # At a rate of 0 the result is x, which the sum is to rounding only.
    return jnp.where(masks.align(mask.keep_prob, x) == 1, x, mixed.astype(x.dtype))


_TO_OTHERS = Rule(
    apply=masks.remember_words_only(_mix),
    kept=lambda pair: pair[0],
    dropped=lambda pair: pair[1].astype(pair[0].dtype),
)


def _others(named: Leaves, chosen: list[bool], other: Any) -> list[Any]:
    """For each chosen leaf the array of ``other`` at its path, refused if it does not fit."""
    masks.refuse_key(other, "other", "a pytree like params", legacy=False)
    leaves = jax.tree_util.tree_flatten_with_path(other)[0]
    found = {names_of(path): leaf for path, leaf in leaves}
    wanted = [path for (path, _), is_chosen in zip(named, chosen) if is_chosen]
    missing = [path for path in wanted if path not in found]
    if missing:
        raise ValueError(
            f"other: expected an array for each chosen leaf of params, got none at {missing}; its "
            f"paths are {list(found)}, so give it the structure of params, or leave these out "
            "with where"
        )
    others: list[Any] = [None] * len(named)
    for i, (path, leaf) in enumerate(named):
        if chosen[i]:
            others[i] = array = masks.as_array(found[path], f"other at {path}")
            if array.shape != leaf.shape:
                raise ValueError(
                    f"other: expected the shape {leaf.shape} of params at {path}, got "
                    f"{array.shape}; give it the weights of the same model"
                )
            masks.refuse_complex(array, leaf.dtype, f"other at {path}", "real weights")
    return others


def _chosen(leaves: Leaves, where: Where) -> list[bool]:
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
