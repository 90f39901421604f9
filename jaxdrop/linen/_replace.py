"""jaxdrop's kernel in models whose code uses Flax's Dropout."""

import contextlib

from flax import linen as nn

from jaxdrop.linen._base import adapted
from jaxdrop.linen._dropout import call_dropout


@contextlib.contextmanager
def replace_dropout():
    """Inside, every ``flax.linen.Dropout`` runs jaxdrop's kernel; the model's code is not touched.

    Fields, keys and errors stay Flax's: a replaced layer gives the values that `Dropout` of the
    same name would give. The context matters while a function is traced: enter it around the
    call that compiles, or inside the function that is compiled.

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

    def interceptor(next_method, args, kwargs, context):
        plain = type(context.module) is nn.Dropout and context.method_name == "__call__"
        if plain and not adapted.get():
            return call_dropout(context.module, *args, **kwargs)
        return next_method(*args, **kwargs)

    with nn.intercept_methods(interceptor):
        yield
