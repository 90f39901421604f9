"""What `predict` and `predict_batches` are given, refused early where it cannot be meant."""

import contextlib
import dataclasses
import difflib
import inspect
import sys
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdrop.mc import _trace
from jaxdrop.mc._summary import Summary

_PICK = "output=lambda out: out['logits']"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
    """``pick`` of what ``fn`` returns, or all of it; arrays of numbers."""

    fn: Any
    pick: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, *args, **kwargs):
        output = self.fn(*args, **kwargs)
        output = output if self.pick is None else self.pick(output)
        leaves = jax.tree_util.tree_leaves_with_path(output)
        if not leaves:
            raise TypeError(
                f"fn: expected arrays of numbers as outputs, got {output!r}; end it with a return "
                "of what is to be summarised"
            )
        for path, leaf in leaves:
            if not _trace.is_array(leaf) and not isinstance(leaf, bool | int | float | complex):
                found = f"{leaf!r} of type {type(leaf).__name__}"
            elif jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
                found = "a PRNG key"
            else:
                continue
            raise TypeError(
                f"fn: expected arrays of numbers as outputs, got {found}{_where(path)}; return "
                f"only what is to be summarised, or pick it, as in {_PICK}"
            )
        return output


def outputs(fn, pick):
    """``fn`` with its outputs picked and looked at."""
    check_fn(fn)
    if pick is not None and not callable(pick):
        raise TypeError(
            f"output: expected a function that picks from the output of fn, got {pick!r}; write "
            f"for example {_PICK}"
        )
    return Outputs(fn, pick)


def check_fn(fn):
    """Refuses a model in place of a function of a key, and what cannot be called."""
    nnx = sys.modules.get("flax.nnx")  # loaded, if the model is of it
    adapter = None
    if isinstance(fn, nn.Module):
        adapter = "from_linen(model, variables)"
    elif nnx is not None and isinstance(fn, nnx.Module) and not _takes_key(fn):
        adapter = "from_nnx(model)"
    if adapter:
        raise TypeError(
            f"fn: expected a function of a PRNG key and more arguments, got the model "
            f"{type(fn).__name__}; write jaxdrop.mc.{adapter}"
        )
    if not callable(fn):
        raise TypeError(
            f"fn: expected a function of a PRNG key and more arguments, got {fn!r} of type "
            f"{type(fn).__name__}; write for example lambda key, x: jaxdrop.dropout(key, x, 0.5)"
        )


def check_summary(summary):
    """Refuses what is not a `Summary`."""
    if isinstance(summary, Summary):
        return summary
    name = getattr(summary, "__name__", summary)
    remedy = f"call it: summary={name}()" if callable(summary) else "write summary=moments()"
    raise TypeError(f"summary: expected a Summary, got {summary!r}; {remedy}")


@contextlib.contextmanager
def hints(kwargs, options):
    """Inside, a keyword that ``fn`` does not take is told from an option that is misspelt."""
    try:
        yield
    except TypeError as error:
        for name in kwargs:
            if f"unexpected keyword argument '{name}'" in str(error):
                near = [option for option in options if name in option.split("_")]
                near += difflib.get_close_matches(name, options, 1)
                hint = f"did you mean {near[0]}?" if near else f"the options are {options}"
                raise TypeError(
                    f"{name}: expected a keyword argument of fn, got one that it does not take; "
                    f"{hint}"
                ) from error
        raise


def _takes_key(model):
    names = list(inspect.signature(type(model).__call__).parameters)[1:2]
    return any(word in name for name in names for word in ("key", "rng"))


def _where(path):
    return f" at {jax.tree_util.keystr(path)}" if path else ""
