"""Dropout of tokens that really leaves them out, so that what follows costs less."""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key
from jaxdrop.functional._skipping import kept_of
from jaxdrop.masks import _internal as masks


class Tokens(NamedTuple):
    """Tokens that were kept, and where they stood.

    Attributes:
        kept: array of shape ``(B, K, D)``.
        indices: int32 array of shape ``(B, K)``: the place of each in the sequence.
    """

    kept: jax.Array
    indices: jax.Array


def token_dropout(
    key: Key,
    x: ArrayLike,
    rate: float,
    *,
    deterministic: Flag = False,
    num_prefix_tokens: int = 0,
    ordered: bool = True,
) -> Tokens:
    """Leaves out a share of the tokens of each example: the sequence gets shorter.

    Of the L tokens, P of them in the prefix, ``K = P + round((L - P) * (1 - rate))`` are kept: the
    prefix, and of the others a subset drawn without replacement, each subset of its size as
    likely as any other, for each example on its own. Values are not rescaled. The gradient of a
    token that is left out is 0. On a mesh whose devices hold whole sequences, none needs another.
    A symbolic L needs a rate that is a fraction with a denominator up to 1000, and keeps at least
    one token.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: floating or complex array of shape ``(B, L, D)``.
        rate: share of the tokens behind the prefix to leave out, in [0, 1]; a Python number, since
            it decides a shape. At 1, the prefix alone is kept.
        deterministic: if true, keeps all; a Python bool, since it decides a shape.
        num_prefix_tokens: number of tokens at the start that are always kept, such as a class
            token.
        ordered: whether the kept tokens stand in the order that they had; else the drawn ones
            stand in random order, at every rate that leaves some out.

    Returns:
        The pair ``(kept, indices)``: an array of shape ``(B, K, D)`` with the dtype of ``x``, and
        an int32 array of shape ``(B, K)``, the place of each kept token in ``x``. All of ``x``
        itself at rate 0.

    Raises:
        TypeError: ``rate`` or ``deterministic`` is traced or an array, or another argument is of
            the wrong type.
        ValueError: ``rate`` lies outside [0, 1], ``x`` is not of rank 3, the prefix is longer than
            the sequence, no token would be left, or ``key`` is a batch of keys.

    Example:
        >>> x = jnp.ones((2, 9, 4))
        >>> kept, indices = token_dropout(jax.random.key(0), x, 0.5, num_prefix_tokens=1)
        >>> kept.shape
        (2, 5, 4)
        >>> bool((indices[:, 0] == 0).all())
        True

    References:
        Liu et al., "PatchDropout: economizing vision transformers using patch dropout", 2022.
    """
    x = masks.check_array(x)
    if x.ndim != 3:
        raise ValueError(
            f"x: expected an array of shape (B, L, D), got {x.shape}; "
            f"merge axes, or add one of size 1, with x.reshape{masks.order_hint(x.ndim)}"
        )
    share, flag = _check_static(rate, deterministic)
    prefix = _check_prefix(num_prefix_tokens, x.shape[1])
    if flag or share == 0.0:
        return Tokens(x, _places(x, x.shape[1]))
    least = 0 if prefix or masks.is_known(x.shape[1]) else 1
    num_drawn = kept_of(x.shape[1] - prefix, share, least) if share < 1 else 0
    if prefix + num_drawn == 0:
        raise ValueError(
            f"rate: expected one that leaves a token, got {rate} for {x.shape[1]} tokens without a "
            "prefix; lower the rate, or keep a prefix with num_prefix_tokens=1"
        )
    if share < 1:
        masks.check_key(key)
    return _thin(key, x, num_drawn=num_drawn, prefix=prefix, ordered=bool(ordered))


@functools.partial(jax.jit, static_argnames=("num_drawn", "prefix", "ordered"))
def _thin(key: Any, x: jax.Array, *, num_drawn: int, prefix: int, ordered: bool) -> Tokens:
    indices = _places(x, prefix)
    if num_drawn:
        drawn = _subset(key, x, num_drawn, prefix, ordered)
        indices = jnp.concatenate([indices, drawn], axis=1)
    return Tokens(_gather(x, indices), indices)


def _gather(x: jax.Array, indices: jax.Array) -> jax.Array:
    """The tokens at ``indices``, sharded like ``x`` in all but the sequence."""

    def gather(x: jax.Array, indices: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, indices[..., None], axis=1, mode="promise_in_bounds")

    sharding = masks.mask_sharding(x, (x.shape[0], 1, x.shape[2]))
    if sharding is None:
        return gather(x, indices)
    # By XLA: on the newest jax, an explicit gather loses the sharding in its transpose.
    return jax.sharding.auto_axes(gather, out_sharding=sharding)(x, indices)  # pyright: ignore


def _subset(key: jax.Array, x: jax.Array, num_drawn: int, prefix: int, ordered: bool) -> jax.Array:
    """Places of the first few tokens in a random order of those behind the prefix."""
    shape = (x.shape[0], x.shape[1] - prefix)
    permutations = masks.permutations(key, shape, _examples_sharding(x))
    drawn = lax.slice_in_dim(permutations, 0, num_drawn, axis=1) + jnp.int32(prefix)
    return jnp.sort(drawn, axis=1) if ordered else drawn


@functools.partial(jax.jit, static_argnames="length", keep_unused=True)  # x brings the mesh
def _places(x: jax.Array, length: int) -> jax.Array:
    """The numbers of the first tokens, for each example."""
    shape = (x.shape[0], length)
    return lax.broadcasted_iota(jnp.int32, shape, 1, out_sharding=_examples_sharding(x))


def _examples_sharding(x: jax.Array) -> Any:
    """Sharding of an array ``(B, ...)`` of rank 2 whose rows lie where the examples of ``x`` do."""
    sharding = masks.mask_sharding(x, (x.shape[0], 1, 1))
    return sharding and sharding.update(spec=jax.P(*sharding.spec[:2]))


def _check_static(rate: float, deterministic: Flag) -> tuple[float, bool]:
    """Rate and flag as Python values: the number of tokens that are kept is a shape."""
    off = masks.check_flag(deterministic)
    if off is not True and off is not None:
        raise TypeError(
            "deterministic: expected True or False, since the number of tokens that are kept is a "
            f"shape, got {off}; mark it static for jax.jit, with static_argnames"
        )
    return masks.check_static_rate(rate, "the number of tokens that are kept"), off is True


def _check_prefix(num_prefix_tokens: int, length: int) -> int:
    try:
        prefix = None if masks.is_bool(num_prefix_tokens) else operator.index(num_prefix_tokens)
    except TypeError:
        prefix = None
    if prefix is None:
        raise TypeError(
            f"num_prefix_tokens: expected an integer, got {num_prefix_tokens!r}; "
            "write for example num_prefix_tokens=1"
        )
    if prefix < 0 or not masks.at_least(length, prefix):
        bound = "" if masks.is_known(length) else f", and give the symbol a bound of {prefix}"
        raise ValueError(
            f"num_prefix_tokens: expected an integer in [0, {length}], the tokens of x, got "
            f"{prefix}; count the tokens at the start that are always kept{bound}"
        )
    return prefix
