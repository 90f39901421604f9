"""Any linen model as a stochastic function, without touching its code or its BatchNorm."""

import dataclasses
import inspect
from typing import Any

import jax
from flax import linen as nn

from jaxdrop.functional import _cells
from jaxdrop.linen._base import Dropper, adapted
from jaxdrop.linen._cell import CellWrapper
from jaxdrop.linen._dropout import MCDropout, drop_entries
from jaxdrop.linen._replace import replaced_attention
from jaxdrop.mc._site import is_live, mark, site_key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LinenFn:
    """``fn(key, *args, **kwargs)`` of a linen model with its dropout on; made by `from_linen`."""

    variables: Any
    model: nn.Module = dataclasses.field(metadata={"static": True})
    method: Any = dataclasses.field(default=None, metadata={"static": True})

    def __call__(self, key, *args, **kwargs):
        # Both streams: where a lifted transform does not hand "dropout" down, or a module names a
        # collection of its own, Flax falls back to "params".
        rngs = {"params": jax.random.fold_in(key, 0), "dropout": jax.random.fold_in(key, 1)}
        token = adapted.set(True)
        try:
            with nn.intercept_methods(_interceptor()):
                return self.model.apply(
                    self.variables, *args, rngs=rngs, method=self.method, **kwargs
                )
        finally:
            adapted.reset(token)


def from_linen(model: nn.Module, variables: Any, *, method: Any = None) -> LinenFn:
    """A function ``fn(key, *args, **kwargs)`` that runs the model with its dropout on.

    Every ``flax.linen.Dropout``, every dropout class of jaxdrop (in its recurrent cells with one
    sub-network a sequence) and the dropout inside Flax's attention drops, whatever the model's
    ``train`` or ``deterministic`` arguments say; nothing else changes. BatchNorm keeps its running
    averages, no collection is written, the model and its code stay as they are. The same key gives
    the same sub-network. Call it as the model is called for evaluation, for example with
    ``train=False``. Attention draws a mask for each example and head, unless it has an
    ``attention_fn`` of the user's own.

    The function is a pytree whose leaves are the variables, so it may be an argument of a jitted
    function, and new variables of the same shapes need no new compilation.

    Args:
        model: linen module, unbound.
        variables: its variables, as given to ``model.apply``.
        method: method of the model to run in place of ``__call__``.

    Returns:
        A function of a PRNG key and the arguments of the model, which returns the model's output.

    Raises:
        TypeError: ``model`` is no linen module.

    Example:
        >>> model = nn.Sequential([nn.Dense(8), nn.Dropout(0.5, deterministic=True), nn.Dense(2)])
        >>> x = jnp.ones((3, 4))
        >>> fn = from_linen(model, model.init(jax.random.key(0), x))
        >>> bool((fn(jax.random.key(1), x) == fn(jax.random.key(2), x)).all())
        False

    References:
        Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in
        deep learning", 2016, section 4.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model: expected a flax.linen.Module, got {type(model).__name__}; "
            "for an nnx model write jaxdrop.mc.from_nnx(model)"
        )
    return LinenFn(variables, model, method)


def _interceptor():
    inside = []  # attention modules whose call is under way: a subclass calls its parent's

    def turn_dropout_on(next_method, args, kwargs, context):
        module = context.module
        if isinstance(module, CellWrapper):
            return _live_cell(next_method, module, context.method_name, args, kwargs)
        if context.method_name == "__call__":
            if isinstance(module, nn.Dropout | Dropper):
                return _live_call(next_method, module, args, kwargs)
            attention = isinstance(module, nn.MultiHeadDotProductAttention)
            if attention and not any(module is other for other in inside):
                inside.append(module)
                try:
                    return _live_attention(next_method, module, args, kwargs)
                finally:
                    inside.pop()
        return next_method(*args, **kwargs)

    return turn_dropout_on


def _live_call(next_method, module, args, kwargs):
    """The call of a dropout module that only an ``MCDropout`` of its own accord may switch off."""
    call = inspect.signature(next_method).bind(*args, **kwargs)
    call.apply_defaults()
    call.arguments.pop("rng", None)  # the key of the pass decides, not the model
    deterministic = call.arguments.pop("deterministic", None)
    flag = module.resolve(deterministic) if isinstance(module, MCDropout) else False
    live = is_live(module.rate, flag)
    inputs = mark(list(call.arguments.values()), module.path, type(module), module.rate, live)
    key = site_key(module.make_rng(module.rng_collection), module.path) if live else None
    if isinstance(module, Dropper):
        return module.drop(key, *inputs, deterministic=flag)
    return drop_entries(module, key, *inputs, deterministic=flag)


def _live_attention(next_method, module, args, kwargs):
    """The call of an attention module of Flax with the dropout of its weights on."""
    rate = module.dropout_rate
    live = is_live(rate, False)
    call = inspect.signature(next_method).bind(*args, **kwargs)
    switch = module.deterministic
    if live:
        key = site_key(module.make_rng("dropout"), module.path)
        call.arguments.update(deterministic=False, dropout_rng=key)
        object.__setattr__(module, "deterministic", None)  # Flax refuses to be told twice
    try:
        with replaced_attention(module):
            output = next_method(*call.args, **call.kwargs)
    finally:
        object.__setattr__(module, "deterministic", switch)
    return mark(output, module.path, type(module), rate, live) if rate else output


def _live_cell(next_method, module, method_name, args, kwargs):
    """A method of a recurrent cell that drops, with masks from the key of the pass."""
    if method_name == "resolve":
        return False
    result = next_method(*args, **kwargs)
    if method_name == "sequence_key" and module.scope is not None:
        return site_key(result, module.path)
    if method_name == "initialize_carry":
        rate = _cells.common_rate(module.rates)
        return mark(result, module.path, type(module), rate, is_live(rate, False))
    return result
