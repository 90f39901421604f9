"""Keys inside shard_map: masks differ over the axes that are named and agree over the others."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxdrop
from tests.laws.test_laws_sharding import compiled, mesh_of
from tests.support.cases import assert_same_bits, data, key

each_check = pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])


def masks_of(axis_names, mesh, check_vma=True, rate=0.5, **options):
    """What each device of a (4, 2) mesh draws for an array that all of them hold."""

    def local(key, x):
        if axis_names:
            key = jaxdrop.fold_in_axes(key, axis_names)
        return jaxdrop.dropout(key, x, rate)[None, None]

    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P()),
        out_specs=P("data", "model"),
        check_vma=check_vma,
        **options,
    )
    one, x = key(), jnp.ones((64, 40))
    if mesh.axis_types[0] == AxisType.Explicit:
        x = jax.device_put(x, jax.NamedSharding(mesh, P()))
    return np.asarray(compiled(mapped, one, x)(one, x))


@each_check
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
    ("named", "different"),
    [("data", 4), (("model",), 2), (("data", "model"), 8)],
    ids=["data", "model", "both"],
)
def test_masks_differ_over_named_axes_and_agree_over_others(named, different, axis_type, check_vma):
    drawn = masks_of(named, mesh_of((4, 2), axis_type), check_vma)
    assert drawn.shape == (4, 2, 64, 40)
    seen = {}
    for d, m in itertools.product(range(4), range(2)):
        place = tuple(i for i, name in ((d, "data"), (m, "model")) if name in np.atleast_1d(named))
        seen.setdefault(place, set()).add(drawn[d, m].tobytes())
    assert all(len(masks) == 1 for masks in seen.values())
    assert len(set.union(*seen.values())) == different


def test_without_it_every_device_draws_the_same():
    drawn = masks_of((), mesh_of((4, 2), AxisType.Auto), check_vma=False)
    assert len({mask.tobytes() for mask in drawn.reshape(8, -1)}) == 1


def test_the_order_of_names_does_not_matter():
    mesh = mesh_of((4, 2), AxisType.Auto)
    assert_same_bits(masks_of(("data", "model"), mesh), masks_of(("model", "data"), mesh))


def test_keys_are_of_their_own():
    """None is another axis's, a step's, or the key that came in."""
    indices = jnp.arange(4)

    def keys(names):
        inner = jax.vmap(
            lambda i, j: jaxdrop.fold_in_axes(key(), names), (None, 0), axis_name="model"
        )
        mapped = jax.vmap(inner, (0, None), axis_name="data")
        return np.asarray(jax.random.key_data(mapped(indices, indices[:2]))).reshape(8, -1)

    found = [keys(names) for names in ("data", "model", ("data", "model"))]
    steps = jax.vmap(lambda step: jax.random.fold_in(key(), step))(jnp.arange(64))
    others = [np.asarray(jax.random.key_data(k)).reshape(-1, 2) for k in (key(), steps)]
    distinct = {row.tobytes() for rows in (*found, *others) for row in rows}
    assert len(distinct) == 4 + 2 + 8 + 1 + 64


def test_a_mesh_that_is_mapped_in_part():
    """Over "data" by hand, over "model" by the compiler: there masks follow x as under jit."""
    mesh = mesh_of((4, 2), AxisType.Auto)

    def local(key, x):
        return jaxdrop.dropout(jaxdrop.fold_in_axes(key, "data"), x, 0.5)

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"), axis_names={"data"}
    )
    x = data((64, 64))
    placed = jax.device_put(x, jax.NamedSharding(mesh, P("data", "model")))
    y = compiled(mapped, key(), placed)(key(), placed)
    whole = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    assert_same_bits(y, jax.jit(whole)(key(), x))
    with pytest.raises(ValueError, match=r"got 'model' inside shard_map over 'data'"):
        jax.jit(
            jax.shard_map(
                lambda key, x: jaxdrop.dropout(jaxdrop.fold_in_axes(key, "model"), x, 0.5),
                mesh=mesh,
                in_specs=(P(), P("data")),
                out_specs=P("data"),
                axis_names={"data"},
            )
        )(key(), x)


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_data_parallel_training_inside_shard_map(framework):
    """Gradients are those of one device that sees every device's mask."""
    mesh, x = mesh_of((8,), AxisType.Auto), data((64, 40))
    modules = {
        "linen": lambda key, x: jaxdrop.linen.Dropout(0.5, deterministic=False).apply(
            {}, x, rng=key
        ),
        "nnx": lambda key, x: jaxdrop.nnx.Dropout(0.5, deterministic=False)(x, rngs=key),
    }
    drop = modules[framework]

    def loss(weight, key, x):
        key = jaxdrop.fold_in_axes(key, "data")
        return jax.lax.pmean((drop(key, x) @ weight).mean(), "data")

    mapped = jax.shard_map(loss, mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=P())
    gradient = jax.jit(jax.grad(mapped))(jnp.ones(40), key(), x)
    parts = jax.vmap(
        lambda rows: drop(jaxdrop.fold_in_axes(key(), "data"), rows), axis_name="data"
    )(x.reshape(8, 8, 40))
    np.testing.assert_allclose(gradient, np.asarray(parts).reshape(64, 40).mean(0), atol=1e-6)


@pytest.mark.parametrize("one", [jax.random.PRNGKey(3), jax.random.key(3, impl="rbg")])
def test_other_keys_work(one):
    drawn = jax.vmap(
        lambda x: jaxdrop.dropout(jaxdrop.fold_in_axes(one, "rows"), x, 0.5), axis_name="rows"
    )(jnp.ones((4, 64)))
    assert len({row.tobytes() for row in np.asarray(drawn)}) == 4


@pytest.mark.parametrize(
    ("axis_names", "kind", "message"),
    [
        ("seq", ValueError, r"got 'seq' inside shard_map over 'data', 'model'"),
        (("data", "rows"), ValueError, r"got 'rows' inside shard_map over 'data', 'model'"),
        ((), ValueError, r"expected axes, each of them once, got \(\); name"),
        (("data", "data"), ValueError, "expected axes, each of them once"),
        (0, TypeError, "expected the name of an axis, or several, got 0; write"),
        ((0,), TypeError, r"expected the name of an axis, or several, got \(0,\); write"),
    ],
)
def test_wrong_names_are_refused(axis_names, kind, message):
    def local(key):
        return jax.random.key_data(jaxdrop.fold_in_axes(key, axis_names))

    mesh = mesh_of((4, 2), AxisType.Auto)
    with pytest.raises(kind, match=f"axis_names: .*{message}"):
        jax.shard_map(local, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)(key())


def test_outside_a_map_it_says_what_to_do():
    with pytest.raises(ValueError, match=r"outside shard_map; under jit .*leave the key"):
        jaxdrop.fold_in_axes(key(), "data")
    with pytest.raises(TypeError, match="key: expected one PRNG key, got 7"):
        jaxdrop.fold_in_axes(7, "data")
