"""MC dropout in recurrent models that are switched off, and what it is good for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from sklearn.datasets import load_digits

import jaxdrop
from jaxdrop import mc, uncertainty
from tests.support.cases import assert_same_bits, key
from tests.support.models import bits

WIDE = 32
X = jnp.ones((4, 3, WIDE))
OFF = {"deterministic": True}


def linen_model():
    """Output masks that show: of the first layer's hidden state, then of the second's."""
    L = jaxdrop.linen  # noqa: N806
    first = L.VariationalCell(L.WeightDropCell(nn.GRUCell(WIDE), 0.25, **OFF), 0, 0, 0.5, **OFF)
    second = L.VariationalCell(L.ZoneoutCell(nn.GRUCell(WIDE), 0.1, **OFF), 0, 0, 0.5, **OFF)
    dead = L.VariationalCell(nn.GRUCell(WIDE), **OFF)
    return nn.Sequential([nn.RNN(dead), nn.RNN(first), nn.RNN(second)])


def nnx_model():
    N, rngs = jaxdrop.nnx, nnx.Rngs(0)  # noqa: N806

    def cell():
        return nnx.GRUCell(WIDE, WIDE, rngs=rngs)

    first = N.VariationalCell(N.WeightDropCell(cell(), 0.25, rngs=rngs), 0, 0, 0.5, rngs=rngs)
    second = N.VariationalCell(N.ZoneoutCell(cell(), 0.1, rngs=rngs), 0, 0, 0.5, rngs=rngs)
    dead = N.VariationalCell(cell(), rngs=rngs)
    model = nnx.Sequential(nnx.RNN(dead), nnx.RNN(first), nnx.RNN(second))
    model.eval()
    return model


def linen_fn():
    model = linen_model()
    return mc.from_linen(model, model.init(key(), X))


SITES = [
    ("layers_0/cell", "VariationalCell", 0.0, (4, WIDE), False),
    ("layers_1/cell", "WeightDropCell", 0.25, (4, WIDE), True),
    ("layers_1/cell", "VariationalCell", 0.5, (4, WIDE), True),
    ("layers_2/cell", "ZoneoutCell", 0.1, (4, WIDE), True),
    ("layers_2/cell", "VariationalCell", 0.5, (4, WIDE), True),
]


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_audit_lists_every_cell(framework):
    fn = linen_fn() if framework == "linen" else mc.from_nnx(nnx_model())
    found = [tuple(site) for site in mc.audit(fn, key(), X).sites]
    if framework == "nnx":  # where a wrapper holds its cell in an attribute
        inner = {1: "layers/1/cell/cell", 3: "layers/2/cell/cell"}
        expected = [
            (inner.get(n, path.replace("_", "/")), *rest) for n, (path, *rest) in enumerate(SITES)
        ]
        assert found == expected
    else:
        assert found == SITES


@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_one_sub_network_a_sequence_and_another_for_each_pass(framework):
    model = nnx_model()
    fn = linen_fn() if framework == "linen" else mc.from_nnx(model)
    before = bits(nnx.state(model))
    run = jax.jit(lambda fn, key: fn(key, X))
    first, again, other = (np.asarray(run(fn, key(seed))) for seed in (1, 1, 2))
    assert_same_bits(first, again)
    kept = first != 0
    # Zoneout may leave a unit at its first value, 0; once it has moved, the mask alone decides.
    assert (kept[:, 1:] >= kept[:, :-1]).all() and 0.2 < kept.mean() < 0.8
    assert ((first != 0) != (other != 0)).any()
    assert bits(nnx.state(model)) == before
    assert (kept[0] != kept[1]).any()

    # A pass of vmap is a pass alone.
    mapped = jax.vmap(lambda k: fn(k, X))(jnp.stack([key(1), key(2)]))
    np.testing.assert_allclose(mapped, np.stack([first, other]), atol=1e-5)


def test_two_layers_alike_draw_different_masks():
    cell = lambda: jaxdrop.linen.VariationalCell(nn.GRUCell(WIDE), 0, 0, 0.5, **OFF)  # noqa: E731

    class Both(nn.Module):
        def setup(self):
            self.a, self.b = nn.RNN(cell()), nn.RNN(cell())

        def __call__(self, x):
            return self.a(x), self.b(x)

    model = Both()
    a, b = mc.from_linen(model, model.init(key(), X))(key(1), X)
    assert ((a != 0) != (b != 0)).any()


class Reader(nn.Module):
    """Reads the rows of a picture, and names the digit after the last."""

    deterministic: bool = True

    @nn.compact
    def __call__(self, x):
        flag = {"deterministic": self.deterministic}
        cell = jaxdrop.linen.VariationalCell(nn.OptimizedLSTMCell(64), 0.1, 0.3, 0.3, **flag)
        h = nn.RNN(jaxdrop.linen.WeightDropCell(cell, 0.2, **flag))(x)
        return nn.Dense(10)(h[:, -1])


def trained(x, labels, steps=400):
    """Variables of a `Reader` after some steps of Adam."""
    variables = Reader().init(key(), x)
    optimizer = optax.adam(1e-2)

    def loss(variables, key):
        logits = Reader(deterministic=False).apply(variables, x, rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(carry, key):
        variables, memory = carry
        value, gradient = jax.value_and_grad(loss)(variables, key)
        updates, memory = optimizer.update(gradient, memory)
        return (optax.apply_updates(variables, updates), memory), value

    keys = jax.random.split(key(1), steps)
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes dtypes
        train = jax.jit(lambda *carry: jax.lax.scan(step, carry, keys))
        (variables, _), losses = train(variables, optimizer.init(variables))
    return variables, losses


@pytest.mark.slow
def test_digits_read_row_by_row_are_better_calibrated_by_monte_carlo():
    digits = load_digits()
    x = jnp.asarray(digits.images / 16, jnp.float32)
    labels = jnp.asarray(digits.target)
    train, held_out = slice(0, 300), slice(600, None)
    # Few of them, so that a network can be too sure of itself.
    variables, losses = trained(x[train], labels[train])
    assert losses[-10:].mean() < 0.1 * losses[:10].mean()

    fn = mc.from_linen(Reader(), variables)
    summary = mc.classification()
    sampled = mc.predict(fn, key(2), x[held_out], num_samples=50, summary=summary).probabilities
    once = jax.nn.softmax(Reader().apply(variables, x[held_out]))
    truth = labels[held_out]
    accuracy = [(p.argmax(-1) == truth).mean() for p in (once, sampled)]
    assert min(accuracy) > 0.8
    scores = [
        (
            float(uncertainty.negative_log_likelihood(p, truth)),
            float(uncertainty.expected_calibration_error(p, truth)),
        )
        for p in (once, sampled)
    ]
    assert scores[1][0] < scores[0][0] and scores[1][1] < scores[0][1]
