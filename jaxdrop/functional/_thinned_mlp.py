"""Dropout of hidden units that really leaves them out, so that a training step costs less."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key
from jaxdrop.functional._skipping import Subset, cond, gather, subset_of
from jaxdrop.masks import _internal as masks

Dense = Mapping[str, Any]
_HIDDEN = "the number of hidden units that are computed"
_TRACED = "or let `dropout` multiply by zeros, whose rate may be traced"


def thinned_mlp(
    key: Key,
    x: ArrayLike,
    layers: Sequence[Dense | tuple[Dense, Dense]],
    rate: float,
    *,
    deterministic: Flag = False,
    activation: Callable[[jax.Array], jax.Array] = jax.nn.gelu,
    num_groups: int = 1,
) -> jax.Array:
    """Dense layers of which a random share of the hidden units is computed, and the rest is not.

    Of the H units of each hidden layer exactly ``K = round(H * (1 - rate))`` are drawn without
    replacement, at least one. Their weights are taken out of the kernels, smaller products are
    computed, forward and backward, and what the units give is multiplied by ``H / K``. So where
    the activation is linear, the mean over keys is the full block, and so are the gradients. Units
    that are left out get a gradient of 0, and an inf or NaN in their weights goes nowhere.

    All examples of a group meet the same sub-network, where `dropout` draws one for each: gradients
    are noisier at the same rate. To take weights out costs a few passes over the kernels. On a
    CPU, with three hidden layers at a rate of 0.5, a training step was cheaper than without dropout
    from a batch of 1 on at a width of 1024, of about 64 at 256 and of about 256 at 64; below, and
    with many groups, take `dropout`.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: floating or complex array of shape ``(..., D)``, with examples on axis 0 if there are
            groups.
        layers: two or more layers, as Flax keeps the parameters of Dense: mappings with a
            ``kernel`` of shape ``(in, out)`` and perhaps a ``bias`` ``(out,)``, cast to the dtype
            of ``x``. For a gated block (SwiGLU, GEGLU) a hidden layer is a pair of such, the gate
            first: ``activation(gate) * value``.
        rate: share of the hidden units to leave out, in [0, 1]; a Python number, since it decides a
            shape. At 1 the last bias is what remains.
        deterministic: if true, the full block; may be traced.
        activation: function of the hidden units, element by element.
        num_groups: number of equal parts of the batch, each with a sub-network of its own; any
            batch will do where ``deterministic`` is True.

    Returns:
        Array of shape ``(..., F)`` with the dtype of ``x``, F the width of the last layer.

    Raises:
        TypeError: ``rate`` is traced or an array, ``layers`` are not as above, or another argument
            is of the wrong type.
        ValueError: ``rate`` lies outside [0, 1], shapes do not fit, ``num_groups`` does not divide
            the batch, or ``key`` is a batch of keys.

    Example:
        >>> first = {"kernel": jnp.ones((4, 16)), "bias": jnp.zeros(16)}
        >>> layers = [first, {"kernel": jnp.ones((16, 2))}]
        >>> thinned_mlp(jax.random.key(0), jnp.ones((3, 4)), layers, 0.75).shape
        (3, 2)

    References:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
        2014, section 4: sampling a thinned network; here by choosing its size.
    """
    masks.refuse_keys(x=x, layers=layers, rate=rate)
    share = masks.check_static_rate(rate, _HIDDEN, _TRACED)
    off = masks.check_flag(deterministic)
    x = masks.check_array(x)
    layers = _check_layers(layers, x)
    widths = [_kernels(layer)[0].shape[1] for layer in layers[:-1]]
    kept = tuple(max(1, round(width * (1 - share))) if share < 1 else 0 for width in widths)
    groups = _check_groups(num_groups, x, off)

    def full(layers: Any) -> jax.Array:
        return _mlp(x, layers, activation, [1.0] * len(widths))

    def thin(layers: Any) -> jax.Array:
        fewer = _thinned(key, layers, kept=kept, groups=groups)
        scales = [width / max(1, count) for width, count in zip(widths, kept)]
        run = functools.partial(_in_groups, groups, lambda x, ls: _mlp(x, ls, activation, scales))
        sharding = masks.mask_sharding(x, (*x.shape[:-1], 1))
        if sharding is None or groups == 1:
            return run(x, fewer)
        return jax.sharding.auto_axes(run, out_sharding=sharding)(x, fewer)  # pyright: ignore

    if off is True or list(kept) == widths:
        return full(layers)
    if share < 1:
        masks.check_key(key)
    return cond(off, full, thin, layers)


def _in_groups(
    groups: int, function: Callable[..., jax.Array], x: jax.Array, layers: Any
) -> jax.Array:
    """``function(x, layers)`` for each part of the batch, with the layers of its group."""
    if groups == 1:
        return function(x, jax.tree.map(lambda leaf: leaf[0], layers))
    y = jax.vmap(function)(x.reshape(groups, x.shape[0] // groups, *x.shape[1:]), layers)
    return y.reshape(*x.shape[:1], *y.shape[2:])


def _mlp(
    x: jax.Array,
    layers: Any,
    activation: Callable[[jax.Array], jax.Array],
    scales: list[float],
) -> jax.Array:
    for layer, scale in zip(layers, scales):
        first, *second = [_affine(x, dense) for dense in _branches(layer)]
        hidden = masks.refuse_complex(activation(first), x.dtype, "activation", "a real output")
        hidden = hidden * second[0] if second else hidden
        if scale != 1:  # in float32, rounded once
            hidden = hidden.astype(masks.wide_dtype(hidden)) * scale
        x = hidden.astype(x.dtype)
    return _affine(x, layers[-1])


def _affine(x: jax.Array, dense: Dense) -> jax.Array:
    y = x @ dense["kernel"].astype(x.dtype)
    if dense.get("bias") is None:
        return y
    return y + jnp.broadcast_to(dense["bias"].astype(x.dtype), y.shape)


# Taking units out.


@functools.partial(jax.jit, static_argnames=("kept", "groups"))
def _thinned(key: Key, layers: Any, *, kept: tuple[int, ...], groups: int) -> Any:
    """The layers with ``kept`` units in each hidden one, stacked on a first axis of groups."""
    chosen = _choices(key, layers, kept, groups)

    def one(*chosen: Subset) -> Any:
        places = zip(layers, [None, *chosen], [*chosen, None])
        return [
            _each(functools.partial(_taken, before=b, units=u), layer) for layer, b, u in places
        ]

    return jax.vmap(one)(*chosen)


def _choices(key: Any, layers: Any, kept: tuple[int, ...], groups: int) -> list[Subset]:
    """For each hidden layer, a `Subset` of its units for each group, on a first axis."""
    widths = [_kernels(layer)[0].shape[1] for layer in layers[:-1]]
    if any(kept):
        keys = list(jax.random.split(masks.typed(key), len(kept)))
        orders = [masks.permutations(k, (groups, width)) for k, width in zip(keys, widths)]
    else:
        orders = [jnp.zeros((groups, width), jnp.int32) for width in widths]
    return [
        jax.vmap(lambda order, k=k: subset_of(order[:k], order.size))(order)
        for order, k in zip(orders, kept)
    ]


def _taken(dense: Dense, before: Subset | None, units: Subset | None) -> Dense:
    """A layer with some of its inputs, and some of its units; None stands for all."""
    dense = dict(dense)
    if before is not None:
        dense["kernel"] = gather(dense["kernel"], before, 0)
    if units is not None:
        dense["kernel"] = gather(dense["kernel"], units, 1)
        if dense.get("bias") is not None:
            dense["bias"] = gather(dense["bias"], units, 0)
    return dense


# Checks.


def cast_input(x: ArrayLike, dtype: Any) -> jax.Array:
    """The inputs of a block in the dtype that it computes in, or in their own if that is None."""
    array = masks.check_array(x, "inputs")
    if dtype is None:
        return array
    if jnp.iscomplexobj(array) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"inputs: expected real numbers for a layer that computes in {jnp.dtype(dtype)}, got "
            f"dtype {array.dtype}; give the layer dtype={array.dtype}, or None"
        )
    return array.astype(dtype)


def _branches(layer: Any) -> Sequence[Dense]:
    return (layer,) if isinstance(layer, Mapping) else layer


def _each(function: Callable[[Any], Any], layer: Any) -> Any:
    """The layer with ``function`` of it, or of its gate and its value."""
    return function(layer) if isinstance(layer, Mapping) else tuple(map(function, layer))


def _kernels(layer: Any) -> list[jax.Array]:
    return [dense["kernel"] for dense in _branches(layer)]


def _check_layers(layers: Any, x: jax.Array) -> list[Any]:
    """The layers as a list of dicts of arrays, refused if they are not layers or do not fit."""
    if isinstance(layers, Mapping) or not isinstance(layers, Sequence) or len(layers) < 2:
        raise TypeError(
            f"layers: expected two or more, got {_described(layers)}; write for example "
            '[params["Dense_0"], params["Dense_1"]]'
        )
    checked, width = [], x.shape[-1] if x.ndim else 0
    for number, layer in enumerate(layers):
        pair = isinstance(layer, tuple | list)
        if pair and (len(layer) != 2 or number == len(layers) - 1):
            raise TypeError(
                f"layers[{number}]: expected one layer, or for a gated hidden one a pair of gate "
                f"and value, got {len(layer)}"
            )
        parts = layer if pair else (layer,)
        parts = tuple(_check_dense(dense, number, width, x.dtype) for dense in parts)
        shapes = {part["kernel"].shape for part in parts}
        if len(shapes) > 1:
            raise ValueError(
                f"layers[{number}]: expected a gate and a value of one shape, got kernels "
                f"{sorted(shapes)}"
            )
        checked.append(parts if pair else parts[0])
        width = parts[0]["kernel"].shape[1]
    return checked


def _check_dense(dense: Any, number: int, width: int, dtype: Any) -> dict[str, jax.Array]:
    if not isinstance(dense, Mapping) or dense.get("kernel") is None:
        raise TypeError(
            f'layers[{number}]: expected a mapping with "kernel" and perhaps "bias", as Flax '
            f"keeps the parameters of Dense, got {_described(dense)}"
        )
    arrays = {name: dense[name] for name in ("kernel", "bias") if dense.get(name) is not None}
    for name, array in arrays.items():
        where = f"layers[{number}] {name}"
        array = masks.as_array(array, where)
        arrays[name] = masks.refuse_complex(array, dtype, where, "real weights")
    kernel, bias = arrays["kernel"], arrays.get("bias")
    if kernel.ndim != 2 or kernel.shape[0] != width:
        raise ValueError(
            f"layers[{number}]: expected a kernel of shape ({width}, units), since {width} "
            f"features come in, got {kernel.shape}"
        )
    if bias is not None and bias.shape != kernel.shape[1:]:
        raise ValueError(
            f"layers[{number}]: expected a bias of shape {kernel.shape[1:]} beside a kernel of "
            f"shape {kernel.shape}, got {bias.shape}"
        )
    return arrays


def _described(thing: Any) -> str:
    size = f" of {len(thing)}" if isinstance(thing, Sequence) else ""
    names = f" with {sorted(map(str, thing))}" if isinstance(thing, Mapping) else ""
    return f"{type(thing).__name__}{size}{names}"


def _check_groups(num_groups: int, x: jax.Array, off: Any) -> int:
    groups = masks.check_count(num_groups, "num_groups", 1)
    if off is not True and groups > 1 and (x.ndim < 2 or x.shape[0] % groups):
        raise ValueError(
            f"num_groups: expected a divisor of the batch, got {groups} for x of shape {x.shape}; "
            "take one that divides the first axis, such as 1"
        )
    return groups
