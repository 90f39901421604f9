"""jaxdrop's kernel in models whose code uses Flax's Dropout."""

import contextlib
import numbers
from collections.abc import Generator
from typing import Any

import jax
from flax import linen as nn

from jaxdrop.linen._attention import attention_fn
from jaxdrop.linen._base import adapted
from jaxdrop.linen._elements import call_dropout

__all__ = ["replace_dropout"]

_replacing = jax.make_user_context(default_value=False)  # jit finds a function by it, too


@contextlib.contextmanager
def replace_dropout() -> Generator[None, None, None]:
    """Inside, Flax's ``Dropout`` and attention run jaxdrop's; the model's code is not touched.

    Fields, keys and errors stay Flax's: a replaced layer gives the values that `Dropout` of the
    same name would give. ``MultiHeadDotProductAttention`` with dropout computes by `attention_fn`,
    with a mask for each example and head, unless it has an ``attention_fn`` or products of the
    user's own. A function that ``jax.jit`` has compiled outside is compiled again inside.

    Yields:
        None.

    Example:
        >>> model = nn.Sequential([nn.Dense(8), nn.Dropout(0.5, deterministic=False)])
        >>> x = jnp.ones((2, 4))
        >>> variables = model.init(jax.random.key(0), x)
        >>> with replace_dropout():
        ...     y = model.apply(variables, x, rngs={"dropout": jax.random.key(1)})
        >>> y.shape
        (2, 8)
    """

    def interceptor(next_method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__" or adapted.value is not None:
            return next_method(*args, **kwargs)
        if type(context.module) is nn.Dropout:
            return call_dropout(context.module, *args, **kwargs)
        with replaced_attention(context.module):
            return next_method(*args, **kwargs)

    with _replacing(True), nn.intercept_methods(interceptor):
        yield


@contextlib.contextmanager
def replaced_attention(module: nn.Module) -> Generator[None, None, None]:
    """Inside, a module of Flax's attention computes by `attention_fn`, unless told otherwise."""
    if not _computes_as_flax(module):
        yield
        return
    object.__setattr__(module, "attention_fn", attention_fn)
    try:
        yield
    finally:
        object.__setattr__(module, "attention_fn", nn.dot_product_attention)


def _computes_as_flax(module: Any) -> bool:
    """Whether it is attention with dropout, and by Flax's own function and products."""
    if not isinstance(module, nn.MultiHeadDotProductAttention):
        return False
    products = module.qk_attn_weights_einsum_cls, module.attn_weights_value_einsum_cls
    of_flax = module.attention_fn is nn.dot_product_attention and not any(products)
    known_zero = isinstance(module.dropout_rate, numbers.Real) and not module.dropout_rate
    return of_flax and not known_zero
