"""`delta`: the variance to first order, where it is exact, where it is close, where it is refused.

The reference is `numpy`, or the Jacobian of a function that multiplies by what it is given.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import functional, mc
from tests.support import models, reference
from tests.support.cases import CALLS, RATE, data, each_case, each_noise, key
from tests.support.models import each_framework

X = data((5, 8))
SEQUENCES = data((3, 4, 8))
WEIGHTS = np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32)
REFUSED = {
    "drop_block",
    "concrete",
    "edges_undirected",
    "drop_key",
    "attention_renormalized",
    "attention_keys_None",
    "attention_keys_3",
    "token_dropout",
    "thinned_mlp",
    "subset_residual",
    "layer_drop",
}


def odds(rate):
    """Variance of a multiplier of mean 1."""
    keep = float(reference.keep_probability(rate))
    return (1 - keep) / keep


def close(found, expected, rtol=2e-5):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-6 * np.abs(expected).max())


def expanded(function, multipliers, variances):
    """Mean and variance of what depends on multipliers of mean 1, by their Jacobian."""
    jacobian = jax.jacobian(function)(multipliers)
    mean = function(multipliers)
    parts = (
        v * jnp.square(j).reshape(*mean.shape, -1).sum(-1) for j, v in zip(jacobian, variances)
    )
    return mean, sum(parts)


def dropped(key, x, rate=RATE):
    return jaxdrop.dropout(key, x, rate) @ WEIGHTS


# Where it is exact.


@each_case
def test_a_linear_output_of_every_variant_with_a_mask_has_its_exact_variance(case):
    if case.name.startswith("drop_block") or case.name in REFUSED:
        pytest.skip("refused, as another test says")
    x, weight = np.asarray(data(case.shape), np.float64), np.asarray(data(case.shape[::-1]).T)
    fn = lambda key, x: jnp.vdot(weight, case.call(key, x, RATE))  # noqa: E731
    out = mc.delta(fn, key(), jnp.asarray(x, jnp.float32))
    keep = float(case.keep_probability(RATE))
    survivor, lost = case.survivor(x, RATE, keep), case.lost(RATE, keep)
    missing = len(case.shape) - len(case.mask_shape)
    shared = tuple(a for a, n in enumerate((1,) * missing + case.mask_shape) if n == 1)
    effects = (weight * (survivor - lost)).sum(shared)
    close(out.variance, keep * (1 - keep) * np.square(effects).sum(), 1e-4)
    mean = (weight * (keep * survivor + (1 - keep) * lost)).sum()
    np.testing.assert_allclose(out.mean, mean, atol=1e-4 * np.abs(weight * survivor).sum())


@each_noise
def test_a_linear_output_of_every_noise_has_its_exact_variance(case):
    if case.name == "concrete":
        pytest.skip("refused, as another test says")
    x, weight = np.asarray(data(case.shape), np.float64), np.asarray(data(case.shape[::-1]).T)
    fn = lambda key, x: jnp.vdot(weight, case.call(key, x))  # noqa: E731
    out = mc.delta(fn, key(), jnp.asarray(x, jnp.float32))
    effect = case.equation(x, np.ones(()), case.level) - case.equation(x, np.zeros(()), case.level)
    shared = tuple(a for a, n in enumerate(case.noise_shape) if n == 1)
    variance = 1 / 12 if case.name == "neftune" else 1  # of uniform numbers, or of normal ones
    close(out.variance, variance * np.square((weight * effect).sum(shared)).sum(), 1e-4)
    np.testing.assert_allclose(out.mean, (weight * x).sum(), atol=1e-4 * np.abs(weight * x).sum())


@each_framework
def test_dropout_before_a_linear_layer_is_exact(framework):
    """And the mean is the output without dropout; many passes agree."""
    if framework == "linen":
        model = nn.Sequential([nn.Dropout(RATE, deterministic=True), nn.Dense(3)])
        variables = model.init(key(), X)
        fn, kernel = mc.from_linen(model, variables), variables["params"]["layers_1"]["kernel"]
        evaluated = model.apply(variables, X)
    else:
        layer = nnx.Linear(8, 3, rngs=nnx.Rngs(0))
        fn, kernel = mc.from_nnx(nnx.Sequential(nnx.Dropout(RATE), layer)), layer.kernel[...]
        evaluated = layer(X)
    out = mc.delta(fn, key(), X)
    close(out.mean, evaluated)
    close(out.variance, odds(RATE) * np.square(X) @ np.square(kernel))
    passes = mc.predict(fn, key(), X, num_samples=4000, chunk_size=500)
    np.testing.assert_allclose(out.variance, passes.variance, rtol=0.15)


def test_both_frameworks_agree():
    """On one network: weights and averages of the linen one, put into the nnx one."""
    model, x = models.LinenNet(RATE, head=True), models.inputs(4)
    variables = models.linen_variables(model)
    other, params = models.nnx_model(rate=RATE, head=True), variables["params"]
    for layer, name in ((other.linear, "Dense_0"), (other.head, "Dense_1")):
        layer.kernel[...], layer.bias[...] = params[name]["kernel"], params[name]["bias"]
    first = mc.delta(mc.from_linen(model, variables), key(), x)
    second = mc.delta(mc.from_nnx(other), key(1), x)
    assert first.variance.shape == (4, 10)
    close(first.mean, second.mean)
    close(first.variance, second.variance)


# Where it is an expansion.


def multiplied(x, multipliers):
    first, second = multipliers
    return jnp.tanh(jnp.tanh(x * first) @ WEIGHTS * second)


def two_layers(key, x):
    first, second = jax.random.split(key)
    h = jnp.tanh(jaxdrop.dropout(first, x, 0.1)) @ WEIGHTS
    return jnp.tanh(jaxdrop.dropout(second, h, RATE))


def expected_of_two_layers():
    ones = jnp.ones(8, jnp.float32), jnp.ones(3, jnp.float32)
    one = lambda x: expanded(lambda m: multiplied(x, m), ones, (odds(0.1), odds(RATE)))  # noqa: E731
    return jax.vmap(one)(X)


@pytest.mark.parametrize("way", ["plain", "jit", "remat", "vmap", "whole", "chunks", "eager"])
def test_two_layers_give_the_sum_over_all_decisions(way):
    fn, options = two_layers, {}
    if way == "jit":
        fn = jax.jit(two_layers)
    elif way == "remat":
        fn = jax.checkpoint(two_layers)
    elif way == "vmap":  # with keys of their own, of which there are five
        fn = lambda key, x: jax.vmap(two_layers)(jax.random.split(key, 5), x)  # noqa: E731
    elif way == "whole":  # examples meet, and nothing comes of it
        fn = lambda key, x: two_layers(key, x) + 0 * x.sum()  # noqa: E731
    elif way == "chunks":
        options = {"chunk_size": 2}
    with jax.disable_jit(way == "eager"):
        out = mc.delta(fn, key(), X, **options)
    for found, expected in zip(out, expected_of_two_layers()):
        close(found, expected)


def test_inside_jit_and_grad():
    @jax.jit
    def both(x):
        return jax.value_and_grad(lambda x: mc.delta(two_layers, key(), x).variance.sum())(x)

    total, gradient = both(X)
    close(total, expected_of_two_layers()[1].sum())
    step = 1e-2 * gradient / jnp.linalg.norm(gradient)
    rise = both(X + step)[0] - both(X - step)[0]
    np.testing.assert_allclose(rise, 2 * jnp.vdot(step, gradient), rtol=1e-2)


class Stacked(nn.Module):
    """Layers stacked by scan, maybe each of them with remat; in a chain if not."""

    remat: bool = False

    @nn.compact
    def __call__(self, x):
        layer = nn.remat(Layer) if self.remat else Layer
        scan = {"variable_axes": {"params": 0}, "split_rngs": {"params": True, "dropout": True}}
        return nn.scan(layer, length=3, **scan)()(x, None)[0]


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = nn.Dropout(0.1, deterministic=True)(x)
        return nn.tanh(nn.Dense(8)(x)), None


@pytest.mark.parametrize("remat", [False, True])
def test_stacked_layers_each_have_their_decisions(remat):
    model = Stacked(remat)
    variables = model.init(key(), X)
    ((kernel, bias),) = [
        (p["kernel"], p["bias"]) for s in variables["params"].values() for p in s.values()
    ]
    out = mc.delta(mc.from_linen(model, variables), key(), X)

    def one(x):
        def chain(multipliers):
            y = x
            for number in range(3):
                y = jnp.tanh((y * multipliers[0][number]) @ kernel[number] + bias[number])
            return y

        return expanded(chain, (jnp.ones((3, 8), jnp.float32),), (odds(0.1),))

    for found, expected in zip(out, jax.vmap(one)(X)):
        close(found, expected, 1e-4)


class Recurrent(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x):
        wrapped, on = nn.SimpleCell(8), {"deterministic": False}
        cell = {
            "variational": lambda: jaxdrop.linen.VariationalCell(
                wrapped, input_rate=0.1, state_rate=0.2, output_rate=0.3, **on
            ),
            "weights": lambda: jaxdrop.linen.WeightDropCell(wrapped, 0.1, **on),
            "zoneout": lambda: jaxdrop.linen.ZoneoutCell(wrapped, 0.1, **on),
        }[self.kind]
        return nn.RNN(cell())(x)[:, -1]


@pytest.mark.parametrize("kind", ["variational", "weights", "zoneout"])
def test_a_mask_that_lasts_for_a_sequence_is_one_decision(kind):
    model = Recurrent(kind)
    variables = model.init({"params": key(), "dropout": key(1)}, SEQUENCES)
    (cell,) = variables["params"].values()
    out = mc.delta(mc.from_linen(model, variables), key(), SEQUENCES)
    shapes = {"variational": [(8,)] * 3, "weights": [(8, 8)], "zoneout": [(4, 8)]}[kind]
    rates = {"variational": (0.1, 0.2, 0.3)}.get(kind, (0.1,))
    keep = float(reference.keep_probability(0.1))

    def one(x):
        def last(m):
            h = jnp.zeros(8, jnp.float32)
            kernel = cell["h"]["kernel"] * (m[0] if kind == "weights" else 1)
            for time in range(4):
                given, state = (x[time] * m[0], h * m[1]) if kind == "variational" else (x[time], h)
                new = given @ cell["i"]["kernel"] + state @ kernel + cell["i"]["bias"]
                share = keep * m[0][time] if kind == "zoneout" else 1
                h = share * jnp.tanh(new) + (1 - share) * h
            return h * m[2] if kind == "variational" else h

        ones = [jnp.ones(shape, jnp.float32) for shape in shapes]
        return expanded(last, ones, [*map(odds, rates)])

    for found, expected in zip(out, jax.vmap(one)(SEQUENCES)):
        close(found, expected, 1e-4)


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("mode", ["weights", "heads"])
def test_attention_drops_its_weights_or_heads(mode, block_size):
    x = data((2, 5, 4, 8))
    attend = functools.partial(functional.dot_product_attention, mode=mode, block_size=block_size)
    out = mc.delta(lambda key, x: attend(key, x, x, x, RATE), key(), x)

    def one(x):
        scores = jnp.einsum("tnh,snh->nts", x, x) / jnp.sqrt(jnp.float32(8))
        shape = (4, 5, 5) if mode == "weights" else (4, 1, 1)
        sum_of = lambda m: jnp.einsum("nts,snh->tnh", jax.nn.softmax(scores) * m[0], x)  # noqa: E731
        return expanded(sum_of, (jnp.ones(shape, jnp.float32),), (odds(RATE),))

    for found, expected in zip(out, jax.vmap(one)(x)):
        close(found, expected, 1e-4)


class Shared(nn.Module):
    """Weights drop, so all examples of a pass share the decisions."""

    @nn.compact
    def __call__(self, x):
        return jaxdrop.linen.DropPath(0.1, deterministic=True, mode="batch")(nn.Dense(3)(x))


def test_a_decision_that_examples_share_counts_for_each_alone():
    variables = Shared().init(key(), X)
    out = mc.delta(mc.from_linen(Shared(), variables), key(), X)
    close(out.variance, odds(0.1) * np.square(out.mean))


# Examples that meet.


@pytest.mark.parametrize(
    "meet",
    [
        lambda x: x - x.mean(0, keepdims=True),
        lambda x: jnp.cumsum(x, axis=0),
        lambda x: x[::-1],
        lambda x: jnp.roll(x, 1, axis=0),
        lambda x: x @ x.T @ x,
        lambda x: x / x.shape[0],
        lambda x: x * jnp.arange(x.shape[0], dtype=x.dtype)[:, None],
        lambda x: x * np.arange(x.shape[0], dtype=np.float32)[:, None],
        lambda x: x * X,
        lambda x: jnp.take(x, jnp.arange(x.shape[0])[::-1], axis=0),
        lambda x: jax.lax.scan(lambda c, row: (c + row, c), x[0], x)[1],
        lambda x: x.reshape(-1)[::-1].reshape(x.shape),
        lambda x: x.T.reshape(x.shape),
        lambda x: jnp.stack(jnp.unstack(x, axis=0)[::-1]),
        lambda x: jnp.tile(x[:2], (3, 1))[: x.shape[0]],
        lambda x: jax.lax.reduce_window(
            x, np.float32(0), jax.lax.add, (1, 1), (1, 1), ((1, -1), (0, 0))
        ),
    ],
)
@pytest.mark.parametrize("x", [X, X * 0 + 1], ids=["data", "ones"])
def test_examples_that_meet_or_count_are_told(meet, x):
    fn = lambda key, x: meet(jaxdrop.dropout(key, x, RATE)) @ WEIGHTS  # noqa: E731
    out = mc.delta(fn, key(), x)
    ones = (jnp.ones(x.shape, jnp.float32),)
    mean, variance = expanded(lambda m: meet(x * m[0]) @ WEIGHTS, ones, (odds(RATE),))
    np.testing.assert_allclose(out.mean, mean, atol=1e-5 * np.abs(mean).max() + 1e-5)
    np.testing.assert_allclose(out.variance, variance, rtol=1e-4, atol=1e-5)


class Image(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x)))
        x = nn.pooling.pool(x, np.float32(0), jax.lax.add, (2, 2), (1, 1), "VALID")
        x = jaxdrop.linen.SpatialDropout(0.1, deterministic=True)(x)
        x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.log_softmax(nn.Dense(2)(x.reshape(x.shape[0], -1)))


class Tokens(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Embed(11, 8)(x)
        x = x + nn.MultiHeadDotProductAttention(2, dropout_rate=0.1, deterministic=True)(x, x)
        x = nn.Dropout(0.1, deterministic=True)(nn.LayerNorm()(x))
        return nn.gelu(nn.Dense(3)(x[:, 0]))


def watched(fn, x, monkeypatch):
    """The result of `mc.delta`, and the numbers of examples that are expanded at a time."""
    seen, spread = [], mc._delta._spread
    monkeypatch.setattr(
        mc._delta, "_spread", lambda tapped, *rest: seen.append(tapped) or spread(tapped, *rest)
    )
    out = mc.delta(fn, key(), x)
    return out, [leaf.shape[0] for leaf in jax.tree.leaves(seen[0].shapes)]


@pytest.mark.parametrize(
    "along",
    [
        lambda x: jnp.cumsum(x, axis=1),
        lambda x: jnp.cumsum(x.T, axis=0).T,  # examples come after what is summed
        lambda x: jnp.concatenate([x, x], axis=1),
        lambda x: jax.lax.cummax(x, axis=1, reverse=True),
        lambda x: jnp.stack(jnp.split(x.T, 2, axis=0)).sum(0).T,
        lambda x: sum(jnp.unstack(x, axis=1))[:, None],
        lambda x: jnp.tile(x, (1, 2)) + jnp.repeat(x, 2, axis=1),
        lambda x: jnp.log2(jnp.square(x) + 1),
        lambda x: jnp.pad(x, ((0, 0), (1, 2))),
    ],
)
def test_what_runs_along_another_axis_keeps_examples_apart(along, monkeypatch):
    fn = lambda key, x: along(jaxdrop.dropout(key, x, RATE))  # noqa: E731
    assert watched(fn, X, monkeypatch)[1] == [1]


@pytest.mark.parametrize("kind", ["image", "tokens", "recurrent", "net", "rate"])
def test_usual_models_keep_examples_apart(kind, monkeypatch):
    """So that the cost does not grow with the square of the batch; the results are the same."""
    models_of = {
        "image": (Image(), data((2, 5, 5, 3))),
        "tokens": (Tokens(), jnp.arange(6).reshape(2, 3)),
        "recurrent": (Recurrent("zoneout"), SEQUENCES[:2]),
    }
    model, x = models_of.get(kind, (models.LinenNet(head=True), models.inputs(2)))
    variables = model.init({"params": key(), "dropout": key(1)}, x)
    fn = mc.from_linen(model, variables, rate=jnp.float32(0.1) if kind == "rate" else None)
    with monkeypatch.context() as patch:
        patch.setattr(mc._delta._examples, "steps", lambda program: object())
        whole = mc.delta(fn, key(), x)
    alone, examples = watched(lambda key, x: fn(key, x), x, monkeypatch)
    assert examples == [1]
    for found, expected in zip(alone, whole):
        close(found, expected, 1e-4)


def test_a_single_example_without_an_axis_of_examples():
    out = mc.delta(dropped, key(), X[0])
    close(out.variance, odds(RATE) * np.square(X[0]) @ np.square(WEIGHTS))


# Beside many passes.


@pytest.mark.usefixtures("jitted")
def test_standard_deviations_follow_those_of_many_passes():
    """A trained network with two hidden layers, at a rate of 0.1."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    x, y = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target, jnp.int32)
    drop = functools.partial(nn.Dropout, 0.1, deterministic=True)
    model = nn.Sequential(
        [nn.Dense(64), nn.relu, drop(), nn.Dense(64), nn.relu, drop(), nn.Dense(10)]
    )
    variables = model.init(key(), x[:1])

    @jax.jit
    def trained(variables):
        def loss(variables):
            logits = model.apply(variables, x)
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()

        def step(_, variables):
            gradient = jax.grad(loss)(variables)
            return jax.tree.map(lambda v, g: v - np.float32(0.5) * g, variables, gradient)

        return jax.lax.fori_loop(0, 40, step, variables)

    fn = mc.from_linen(model, trained(variables))
    out = mc.delta(fn, key(), x[:30])
    passes = mc.predict(fn, key(), x[:30], num_samples=800, chunk_size=100)
    found, expected = (np.sqrt(np.ravel(r.variance)) for r in (out, passes))
    assert np.corrcoef(found, expected)[0, 1] > 0.95
    assert 0.9 < found.mean() / expected.mean() < 1.1


# What else is asked for.


def test_sites_and_rate_are_those_of_the_function():
    model = models.LinenNet(rate=RATE, head=True)
    variables, x = models.linen_variables(model), models.inputs(1)
    delta = lambda **options: mc.delta(mc.from_linen(model, variables, **options), key(), x)  # noqa: E731
    last = delta(sites="Dropout_1")
    close(last.variance, odds(RATE) * np.square(last.mean))
    out = delta(sites="Dropout_1", rate=jnp.float32(0.6))
    close(out.variance, odds(0.6) * np.square(last.mean))
    both, first = delta(), delta(sites="Dropout_0")
    close(both.variance, first.variance + last.variance)


@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_traced_rate_of_0_or_1_leaves_no_variance(rate):
    out = jax.jit(lambda rate: mc.delta(lambda key, x: dropped(key, x, rate), key(), X))(rate)
    close(out.mean, (1 - rate) * X @ WEIGHTS)
    assert not out.variance.any()


def test_an_array_of_rates():
    rates = jnp.linspace(0.1, 0.8, 8, dtype=jnp.float32)
    out = mc.delta(lambda key, x: dropped(key, x, rates), key(), X)
    variances = np.array([odds(float(rate)) for rate in rates], np.float32)
    close(out.variance, (variances * np.square(X)) @ np.square(WEIGHTS), 1e-3)


def test_a_narrow_model_is_summed_in_float32():
    x = jnp.full((2, 4096), 0.1, jnp.bfloat16)
    fn = lambda key, x: jaxdrop.dropout(key, x, 0.5).sum(-1, dtype=jnp.bfloat16)  # noqa: E731
    out = mc.delta(fn, key(), x)
    assert out.mean.dtype == out.variance.dtype == jnp.float32
    close(out.variance, 4096 * np.square(np.asarray(x[:, 0], np.float32)))


def test_float64():
    with jax.enable_x64(True):
        x, weights = np.asarray(X, np.float64), WEIGHTS.astype(np.float64)
        fn = lambda key, x: jaxdrop.dropout(key, x, 0.25) @ weights  # noqa: E731
        out = mc.delta(fn, key(), x)
        assert out.mean.dtype == out.variance.dtype == np.float64
        np.testing.assert_allclose(out.variance, np.square(x) @ np.square(weights) / 3, rtol=1e-13)


def test_a_pytree_of_outputs_and_a_pick():
    def fn(key, x):
        y = jaxdrop.dropout(key, x, RATE)
        return {"logits": y @ WEIGHTS, "parts": (y.sum(1), y[:, :1]), "labels": x.argmax(1)}

    with pytest.raises(TypeError, match=r"expected floating outputs, got dtype int32 at \['lab"):
        mc.delta(fn, key(), X)
    out = mc.delta(fn, key(), X, output=lambda out: {k: v for k, v in out.items() if k != "labels"})
    close(out.variance["logits"], odds(RATE) * np.square(X) @ np.square(WEIGHTS))
    close(out.variance["parts"][0], odds(RATE) * np.square(X).sum(1))
    close(out.variance["parts"][1], odds(RATE) * np.square(X[:, :1]))
    assert repr(out).splitlines()[0] == "Delta"


def test_the_result_is_short_in_print():
    lines = repr(mc.delta(dropped, key(), X)).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["Delta"],
        ["mean", "float32[5,3]"],
        ["variance", "float32[5,3]"],
    ]


def test_the_key_does_not_matter_and_a_call_leaves_no_trace():
    ordinary = dropped(key(), X)
    with jax.check_tracer_leaks():
        first, second = (mc.delta(jax.jit(dropped), key(seed), X) for seed in (0, 1))
    np.testing.assert_array_equal(first.variance, second.variance)
    np.testing.assert_array_equal(dropped(key(), X), ordinary)


# What is refused.


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_every_variant_applies_or_is_refused(call):
    x = data(call.shape)
    fn = lambda key, x: call.fn(key, x, call.level).sum()  # noqa: E731
    if call.name not in REFUSED:
        return assert_positive(mc.delta(fn, key(), x))
    with pytest.raises(ValueError, match=r"also random by .* \(\w+\.py:\d+\); write jaxdrop"):
        mc.delta(fn, key(), x)


def assert_positive(out):
    assert float(out.variance) > 0


@each_framework
def test_a_site_that_does_not_apply_is_named(framework):
    if framework == "linen":
        model = nn.Sequential(
            [
                nn.Dropout(0.1, deterministic=True),
                jaxdrop.linen.DropBlock(0.1, block_size=2, deterministic=True),
            ]
        )
        fn = mc.from_linen(model, {})
    else:
        fn = mc.from_nnx(nnx.Sequential(nnx.Dropout(0.1), jaxdrop.nnx.DropBlock(0.1, block_size=2)))
    with pytest.raises(ValueError, match=r"one that is also random by layers[_/]1; write"):
        mc.delta(fn, key(), data((2, 4, 4, 3)))


def own_draw(key, x):
    keys = jax.random.split(key)
    return dropped(keys[0], x * jax.random.bernoulli(keys[1], 0.5, x.shape).astype(x.dtype))


def own_mask(key, x):
    return jaxdrop.masks.sample(key, RATE, x.shape).apply(x) @ WEIGHTS


def twice(key, x):
    return dropped(key, jaxdrop.dropout(jax.random.clone(key), x, RATE))


def folded_twice(key, x):
    keys = [jax.random.fold_in(jax.random.clone(key), 3) for _ in range(2)]
    return dropped(keys[0], jaxdrop.dropout(keys[1], x, RATE))


def same_in_a_loop(key, x):
    step = lambda carry, _: (jaxdrop.dropout(jax.random.clone(key), carry, RATE), None)  # noqa: E731
    return jax.lax.scan(step, x, None, length=3)[0]


def carried_in_a_loop(key, x):
    def step(carry, _):
        key, x = carry
        return (key, jaxdrop.dropout(jax.random.clone(key), x, RATE)), None

    return jax.lax.scan(step, (key, x), None, length=3)[0][1]


def fixed(key, x):
    return dropped(jax.random.key(7), dropped(key, x) @ WEIGHTS.T)


def while_loop(key, x):
    def body(state):
        number, x = state
        return number + 1, jaxdrop.dropout(jax.random.fold_in(key, number), x, RATE)

    return jax.lax.while_loop(lambda state: state[0] < 3, body, (0, x))[1]


def own_rule(key, x):
    @jax.custom_jvp
    def double(x):
        return 2 * jaxdrop.dropout(key, x, RATE)

    double.defjvps(lambda tangent, _, x: 2 * tangent)
    return double(x)


def in_a_branch(key, x):
    again = lambda key: jaxdrop.dropout(key, x, RATE)  # noqa: E731
    branches = again, lambda key: 2 * again(key)
    return jaxdrop.dropout(key, x, RATE) + jax.lax.cond(
        x.sum() > 0, *branches, jax.random.clone(key)
    )


def key_as_data(key, x):
    return x * jax.random.bits(key, (), jnp.uint32).astype(x.dtype)


@pytest.mark.filterwarnings("ignore:not all dropout is decided")
@pytest.mark.parametrize(
    ("fn", "match"),
    [
        (own_draw, r"also random by own_draw \(test_mc_delta.py:\d+\)"),
        (own_mask, r"also random by own_mask \(test_mc_delta.py:\d+\)"),
        (key_as_data, r"also random by key_as_data"),
        (twice, r"drawn again by the same key, at \w+ \(test_mc_delta.py:\d+\); draw a mask once"),
        (folded_twice, "drawn again by the same key"),
        (in_a_branch, "drawn again by the same key"),
        (same_in_a_loop, r"drawn again by the same key, at \S+ \(test_mc_delta"),
        (carried_in_a_loop, "drawn again by the same key"),
        (fixed, r"draws by another key, the same in every pass, at \w+ \(test_mc_delta"),
        (while_loop, r"inside a while loop or a function with a rule of its own, at \S*body"),
        (own_rule, r"a rule of its own, at \S*double"),
        (lambda key, x: x @ WEIGHTS, r"(?s)depends on the key, .*no dropout site was found"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_does_not_apply_is_refused_by_name(fn, match):
    with pytest.raises(ValueError, match=match):
        mc.delta(fn, key(), X)


class DropsInside(nn.RNNCellBase):
    """Flax's RNN gives every step the same key."""

    @nn.compact
    def __call__(self, carry, x):
        x = nn.Dropout(0.1, deterministic=True)(x)
        carry = nn.tanh(nn.Dense(8)(carry) + nn.Dense(8)(x))
        return carry, carry

    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((*input_shape[:-1], 8), jnp.float32)

    @property
    def num_feature_axes(self):
        return 1


def test_dropout_inside_a_cell_of_the_users_is_refused():
    model = nn.RNN(DropsInside())
    fn = mc.from_linen(model, model.init(key(), SEQUENCES))
    with pytest.raises(ValueError, match=r"drawn again by the same key, at DropsInside\.__call__"):
        mc.delta(fn, key(), SEQUENCES)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"chunk_size": 0}, ValueError, "chunk_size: expected at least 1"),
        ({"chunk_size": 1.5}, TypeError, "chunk_size: expected an integer"),
        ({"output": 3}, TypeError, "output: expected a function"),
        ({"chunks": 3}, TypeError, "did you mean chunk_size"),
    ],
)
def test_options_are_checked(options, error, match):
    with pytest.raises(error, match=match):
        mc.delta(dropped, key(), X, **options)


def test_a_model_instead_of_a_function_is_refused():
    with pytest.raises(TypeError, match=r"got the model Dropout; write jaxdrop.mc.from_linen"):
        mc.delta(nn.Dropout(0.5), key(), X)
