"""Any nnx model as a stochastic function, without touching the model or its BatchNorm."""

from typing import TYPE_CHECKING

from jax.typing import ArrayLike

from jaxdrop.mc import _options

if TYPE_CHECKING:
    from flax import nnx

    from jaxdrop.mc._nnx_fn import NnxFn


def from_nnx(
    model: "nnx.Module",
    *,
    sites: _options.Sites = None,
    rate: ArrayLike | None = None,
    zero_rates: bool = False,
    shared_masks: bool = False,
) -> "NnxFn":
    """A function ``fn(key, *args, **kwargs)`` that runs the model with its dropout on.

    Every ``flax.nnx.Dropout``, every dropout class of jaxdrop (in its recurrent cells with one
    sub-network a sequence) and the dropout inside Flax's attention drops, whether or not ``eval()``
    was called and whatever the model passes down; nothing else changes. BatchNorm uses its running
    averages and leaves them alone. The function holds a snapshot of the model: the model itself is
    never changed, and training it further does not change the function. The same key gives the same
    sub-network. Attention draws a mask for each example and head, unless it has an
    ``attention_fn`` of the user's own.

    A module that is no norm is told to drop by every flag that it has for this, in its calls or
    among its attributes: ``deterministic`` is False; ``train``, ``training``, ``is_training``,
    ``is_train``, ``enable_dropout`` and ``use_dropout`` are True. So it also drops where it does so
    under an ``if``, or by a function and streams of its own (such a site keeps its rate). One
    with ``Norm`` in the name of its class is told to evaluate all the same. PRNG keys among the
    arguments are mixed with the key of the pass. A model of linen inside is run likewise.

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
            what is left out of the shapes (tokens, hidden units), keep theirs, and so does a rate
            that is known to be 0. With a rate that is known to be 0 itself, nothing drops.
        zero_rates: if true, ``rate`` is also for what the model has off by a rate of 0, in
            recurrent cells, too.
        shared_masks: if true, all examples of a call meet the same sub-network. Every array among
            the arguments then has examples on axis 0; the model runs for each of them on its own,
            where a `SubsetResidual`, which picks some examples of a batch, keeps the only one.

    Returns:
        A function of a PRNG key and the arguments of the model, which returns the model's output.

    Raises:
        TypeError: ``model`` is not an nnx.Module, ``sites`` neither pattern nor function, or
            ``rate`` not a number.
        ValueError: ``rate`` lies outside [0, 1] or is not a scalar. The function raises it if a
            pass changes a variable of the model, which would be lost: a cache, a counter, or the
            statistics of what is not a norm by its name.

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
    from jaxdrop.mc._nnx_fn import nnx_fn

    return nnx_fn(model, sites, rate, zero_rates, shared_masks)
