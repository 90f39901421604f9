"""jaxdrop's kernel in models whose code uses Flax's Dropout."""

from flax import nnx

from jaxdrop.nnx._dropout import Dropout


def replace_dropout(model):
    """A copy of the model in which every ``flax.nnx.Dropout`` is a `Dropout`.

    The model passed in is not changed. The copy holds the same parameter buffers and the same
    state of its random streams; make it before the optimizer, which keeps the model it is given.

    Args:
        model: any ``nnx.Module``.

    Returns:
        The copy, of the model's own class.

    Raises:
        TypeError: ``model`` is no ``nnx.Module``.

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
    copy = nnx.clone(model)
    for _, node in nnx.iter_graph(copy):
        if type(node) is nnx.Dropout:
            node.__class__ = Dropout
    return copy
