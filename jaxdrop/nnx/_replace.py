"""jaxdrop's kernel in models whose code uses Flax's Dropout."""

import numbers
from typing import Any, TypeVar

from flax import nnx

from jaxdrop.nnx._attention import attention_fn
from jaxdrop.nnx._elements import Dropout

__all__ = ["replace_dropout"]

_Model = TypeVar("_Model", bound=nnx.Module)


def replace_dropout(model: _Model) -> _Model:
    """A copy of the model in which every ``flax.nnx.Dropout`` is a `Dropout`.

    ``flax.nnx.MultiHeadAttention`` with dropout computes by `attention_fn`, with a mask for each
    example and head, unless it has an ``attention_fn`` of the user's own.

    The model passed in is not changed. The copy holds the same parameter buffers and the same
    state of its random streams; make it before the optimizer, which keeps the model it is given.

    Args:
        model: any ``nnx.Module``.

    Returns:
        The copy, of the model's own class.

    Raises:
        TypeError: ``model`` is not an ``nnx.Module``.

    Example:
        >>> rngs = nnx.Rngs(0)
        >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs))
        >>> type(replace_dropout(model).layers[1]).__module__.split(".")[0]
        'jaxdrop'
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"model: expected an nnx.Module, got {type(model).__name__}; for a linen model write "
            "with jaxdrop.linen.replace_dropout(): ..."
        )
    return replaced(model, zero_rates=False)


def replaced(model: _Model, *, zero_rates: bool) -> _Model:
    """`replace_dropout`, which leaves attention with a known rate of 0 alone or not."""
    copy = nnx.clone(model)
    for _, node in nnx.iter_graph(copy):
        if type(node) is nnx.Dropout:
            node.__class__ = Dropout
        elif _computes_as_flax(node, zero_rates):
            node.attention_fn = attention_fn
    return copy


def _computes_as_flax(node: Any, zero_rates: bool) -> bool:
    """Whether it is attention with dropout, by Flax's own function."""
    if not isinstance(node, nnx.MultiHeadAttention):
        return False
    known_zero = isinstance(node.dropout_rate, numbers.Real) and not node.dropout_rate
    return node.attention_fn is nnx.dot_product_attention and (zero_rates or not known_zero)
