"""Any nnx model as a stochastic function, without touching the model or its BatchNorm."""

import dataclasses
import functools
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike

from jaxdrop.mc import _options
from jaxdrop.mc._nnx_live import Live, enliven
from jaxdrop.mc._site import auditing, mark_changes
from jaxdrop.nnx._replace import replaced


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NnxFn:
    """``fn(key, *args, **kwargs)`` of an nnx model with its dropout on; made by `from_nnx`."""

    state: Any
    rate: Any
    graph: Any = dataclasses.field(metadata={"static": True})
    shared_masks: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, key, *args, **kwargs):
        run = functools.partial(self._run, key)
        if self.shared_masks:
            return _options.by_example(run, args, kwargs)
        return run(*args, **kwargs)

    def _run(self, key, *args, **kwargs):
        model = nnx.merge(self.graph, self.state, copy=True)
        for _, node in nnx.iter_graph(model):
            if isinstance(node, Live):
                node.prepare(key, self.rate)
        if not auditing.get():
            return model(*args, **kwargs)
        before = _variables(model)
        output = model(*args, **kwargs)
        after = _variables(model)
        written = {kind for path, (kind, value) in before.items() if after[path][1] is not value}
        return mark_changes(output, written)


def from_nnx(
    model: nnx.Module,
    *,
    sites: _options.Sites = None,
    rate: ArrayLike | None = None,
    shared_masks: bool = False,
) -> NnxFn:
    """A function ``fn(key, *args, **kwargs)`` that runs the model with its dropout on.

    Every ``flax.nnx.Dropout``, every dropout class of jaxdrop (in its recurrent cells with one
    sub-network a sequence) and the dropout inside Flax's attention drops, whether or not ``eval()``
    was called and whatever the model passes down; nothing else changes. BatchNorm uses its running
    averages and leaves them alone. The function holds a snapshot of the model: the model itself is
    never changed, and training it further does not change the function. The same key gives the same
    sub-network. Attention draws a mask for each example and head, unless it has an
    ``attention_fn`` of the user's own.

    A module with an attribute or an argument ``deterministic`` is given False, so that it also
    drops where it does so by a function and an ``nnx.Rngs`` of its own (such a site keeps its
    rate); one with ``Norm`` in the name of its class is told to evaluate all the same.

    The function mutates nothing that is seen from outside, so it runs inside every transform of
    JAX. It is a pytree whose leaves are the state of the model, so it may be an argument of a
    jitted function, and a new snapshot needs no new compilation.

    Args:
        model: any ``nnx.Module``.
        sites: which dropout sites drop: a pattern for their paths as `audit` prints them, such as
            ``"encoder/*"`` (``*`` matches slashes too), or a function of the path; None for all.
            The others stay off.
        rate: probability of dropping at every site in place of its own, in [0, 1]; may be traced.
            An array to the program: a sweep over rates compiles once. Noise that has no rate, and
            what is left out of the shapes (tokens, hidden units), keep theirs; in a recurrent cell,
            rates of 0 stay 0.
        shared_masks: if true, all examples of a call meet the same sub-network. Every array among
            the arguments then has examples on axis 0; the model runs for each of them on its own,
            where a `SubsetResidual`, which picks some examples of a batch, keeps the only one.

    Returns:
        A function of a PRNG key and the arguments of the model, which returns the model's output.

    Raises:
        TypeError: ``model`` is no nnx.Module, ``sites`` neither pattern nor function, or ``rate``
            no number.
        ValueError: ``rate`` lies outside [0, 1] or is no scalar.

    Example:
        >>> rngs = nnx.Rngs(0)
        >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs))
        >>> fn = from_nnx(model)
        >>> x = jnp.ones((3, 4))
        >>> bool((fn(jax.random.key(1), x) == fn(jax.random.key(2), x)).all())
        False

    References:
        Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in
        deep learning", 2016, section 4.
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"model: expected a flax.nnx.Module, got {type(model).__name__}; "
            "for a linen model write jaxdrop.mc.from_linen(model, variables)"
        )
    sites, rate = _options.check_sites(sites), _options.check_override(rate)
    copy = replaced(model, zero_rates=rate is not None)
    copy.eval()
    for path, node in nnx.iter_graph(copy):
        path = tuple(map(str, path))
        enliven(node, path, _options.is_chosen(sites, path))
    graph, state = nnx.split(copy)
    return NnxFn(state, rate, graph, bool(shared_masks))


def _variables(model):
    """Kind and value of every variable of a model, but for the counts of its random streams."""
    return {
        path: (type(variable).__name__, variable.get_raw_value())
        for path, variable in nnx.to_flat_state(nnx.state(model))
        if isinstance(variable, nnx.Variable) and not isinstance(variable, nnx.RngState)
    }
