"""A prediction as one program that is served elsewhere: for any batch, without the model's code."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.export

from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _checks, _pytrees
from jaxdrop.mc._predict import predict

_PLATFORMS = ("cpu", "cuda", "tpu")
_SHAPE = "jax.ShapeDtypeStruct(jax.export.symbolic_shape('b, 784'), jnp.float32)"


def export(
    fn: Any,
    *shapes: Any,
    key: Any = None,
    platforms: Sequence[str] = _PLATFORMS,
    **options: Any,
) -> jax.export.Exported:
    """`predict` as one program to be saved, loaded and run where there is only JAX.

    The program is ``predict(fn, key, *args, **options)`` as a function of the key and the
    arguments. It holds the weights, the passes and the summary. Neither the model's code nor
    jaxdrop is needed to run it. With a symbolic size it runs for every batch, and an example has
    the masks that it has in a call of `predict` with that batch. The sizes of other axes may be
    symbolic too; see `jaxdrop.masks.sample`.

    Its results are those of the summary as dicts of arrays, by the names of the fields:
    ``out["mutual_information"]``. With a tolerance they are ``out["result"]``, beside
    ``out["num_samples"]`` and ``out["reached"]``. What a summary checks in known results, such as
    probabilities that do not sum to 1, an exported program does not check.

    Args:
        fn: as for `predict`.
        *shapes: arguments of ``fn`` after the key, by shape and dtype: ``jax.ShapeDtypeStruct`` or
            pytrees of them; an array stands for its own. Symbolic sizes come from one call of
            ``jax.export.symbolic_shape``, or share its scope.
        key: a key of the kind that the program takes. None for ``jax.random.key(0)``; with
            ``jax.random.PRNGKey(0)`` the program takes the words of a key, uint32 of shape (2,),
            as what is not JAX may give them.
        platforms: on which it runs, of ``"cpu"``, ``"cuda"``, ``"rocm"`` and ``"tpu"``.
        **options: keyword arguments of `predict`, such as ``summary``, ``num_samples``,
            ``balanced`` and ``tolerance``, and of ``fn``. They are part of the program.

    Returns:
        A ``jax.export.Exported``: ``serialize()`` gives the bytes to save, from which
        ``jax.export.deserialize`` makes the same elsewhere; ``call(key, *args)`` runs it.

    Raises:
        TypeError: as `predict`; a shape is not one, or stands among the options; ``key`` is not a
            PRNG key.
        ValueError: as `predict`.

    Example:
        >>> model = nn.Sequential([nn.Dense(8), nn.Dropout(0.5, deterministic=True), nn.Dense(2)])
        >>> fn = from_linen(model, model.init(jax.random.key(0), jnp.ones((1, 4))))
        >>> x = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 4"), jnp.float32)
        >>> saved = export(fn, x, summary=classification(), platforms=["cpu"]).serialize()
        >>> served = jax.export.deserialize(saved)
        >>> out = served.call(jax.random.key(1), jnp.ones((3, 4)))
        >>> out["probabilities"].shape, out["mutual_information"].shape
        ((3, 2), (3,))
    """
    _checks.check_fn(fn)
    key = jax.random.key(0) if key is None else key
    masks.check_key(key)
    _check_shapes(shapes, options)

    def predicted(key: Any, *args: Any) -> Any:
        return _plain(predict(fn, key, *args, **options))

    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (key, *shapes))
    return jax.export.export(jax.jit(predicted), platforms=tuple(platforms))(*like)


def _check_shapes(shapes: Any, options: dict[str, Any]) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        if not _pytrees.is_array(leaf):
            raise TypeError(
                f"shapes: expected a shape with a dtype, got {leaf!r} of type "
                f"{type(leaf).__name__}{_pytrees.at(path)}; write for example {_SHAPE}, and give "
                "what is not an array by its name, as in train=False"
            )
    for name, option in options.items():
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(option)):
            raise TypeError(
                f"{name}: expected a value, because options are part of the program, got a shape; "
                "give the shapes of arguments by place, as in export(fn, x, mask)"
            )


def _plain(tree: Any) -> Any:
    """A pytree in dicts, lists and tuples alone, which can be read without the classes of it."""
    children = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: node is not tree)
    if not children or not children[0][0]:  # None or empty, or a leaf
        return tree
    if type(tree) in (list, tuple):
        return type(tree)(_plain(child) for _, child in children)
    return {_name(path[0]): _plain(child) for path, child in children}


def _name(key: Any) -> str:
    """The name of a child of a node: of a field, an item or a place."""
    return str(next(getattr(key, kind) for kind in ("name", "key", "idx") if hasattr(key, kind)))
