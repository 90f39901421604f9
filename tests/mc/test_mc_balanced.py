"""Balanced passes, standard errors from blocks, and a tolerance instead of a number of passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, Mesh

import jaxdrop
from jaxdrop import mc
from jaxdrop.mc import _passes
from tests.support import models
from tests.support.cases import assert_same_bits, key
from tests.support.models import each_framework

X = np.ones((4, 40), np.float32)
RATE = 0.3


def draw(fn, *args, samples=100, **kwargs):
    options = {"summary": mc.samples(), "balanced": True, "num_samples": samples}
    return np.asarray(mc.predict(fn, key(), *args, **{**options, **kwargs}))


def dropout(key, x):
    return jaxdrop.dropout(key, x, RATE)


def assert_balanced(y, block, rate=RATE):
    """Whether each element drops in its share of every whole block."""
    share = rate * block
    blocks = y[: len(y) // block * block].reshape(-1, block, *y.shape[1:])
    dropped = (blocks == 0).sum(1)
    assert dropped.min() >= np.floor(share) and dropped.max() <= np.ceil(share)
    assert len(np.unique(blocks.reshape(-1, y[0].size), axis=0)) > len(blocks)  # orders differ


class Scanned(nn.Module):
    """Three layers that share a module, with dropout in each."""

    @nn.compact
    def __call__(self, x):
        layer = nn.scan(Layer, variable_axes={}, split_rngs={"dropout": True}, length=3)
        return layer()(jnp.ones_like(x), None)[1]


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x, jaxdrop.linen.Dropout(RATE, deterministic=True)(x)


def legacy(key, x):
    return jaxdrop.dropout(jax.random.fold_in(key, 3), x, RATE)


def sharded(key, x):
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    spec = jax.sharding.PartitionSpec()
    drop = lambda x: dropout(key, x)  # noqa: E731
    return jax.shard_map(drop, mesh=mesh, in_specs=spec, out_specs=spec)(x)


FUNCTIONS = {
    "own": dropout,
    "jitted": jax.jit(dropout),
    "split": lambda key, x: jax.vmap(dropout, (0, None))(jax.random.split(key, 3), x),
    "scan": lambda key, x: jax.lax.scan(
        lambda carry, k: (carry, dropout(k, x)), 0, jax.random.split(key, 3)
    )[1],
    "checkpoint": lambda key, x: jax.checkpoint(dropout)(key, x),
    "shard_map": sharded,
    "linen": mc.from_linen(nn.Dropout(RATE), {}),
    "linen scan": mc.from_linen(Scanned(), {}),
    "nnx": mc.from_nnx(nnx.Dropout(RATE)),
    "nnx jaxdrop": mc.from_nnx(jaxdrop.nnx.Dropout(RATE)),
    "shared masks": mc.from_nnx(nnx.Dropout(RATE), shared_masks=True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_decision_drops_in_its_share_of_each_block(name):
    fn = FUNCTIONS[name]
    # The checker takes keys that vmap moves on their way into a scan for used ones.
    with jax.debug_key_reuse("scan" not in name):
        y = draw(fn, X)
        assert_balanced(y, 16)
        assert_same_bits(draw(fn, X, chunk_size=3), y)


@pytest.mark.parametrize(
    ("room", "chunk"), [(0, 1), (1, 1), (3, 3), (7, 5), (34, 25), (60, 50), (99, 99), (200, 100)]
)
def test_as_many_passes_at_a_time_as_there_is_room_for_or_a_few_less(room, chunk):
    assert _passes._chunk_size(8 * room + 7, 8, 100) == chunk


@pytest.mark.parametrize("chunk_size", [1, 3, 16, 40, 100, "auto"])
def test_masks_do_not_depend_on_the_chunk(chunk_size):
    assert_same_bits(draw(dropout, X, chunk_size=chunk_size), draw(dropout, X))


@pytest.mark.parametrize(("samples", "block"), [(7, 1), (8, 2), (100, 16), (128, 32), (600, 128)])
def test_at_least_four_blocks(samples, block):
    if block > 1:
        assert_balanced(draw(dropout, X, samples=samples), block)
    again = draw(dropout, X, samples=samples - 1, chunk_size=5)
    same = block == 1 or (samples - 1) // 4 >= block
    if same:
        assert_same_bits(again, draw(dropout, X, samples=samples)[:-1])


def test_blockwise_attention_drops_as_dense_attention_does():
    q = jax.random.normal(key(1), (2, 24, 3, 8))

    def attend(block_size):
        return lambda key, q: jaxdrop.dot_product_attention(
            key, q, q, q, RATE, block_size=block_size
        )

    dense, blocks = (draw(attend(size), q, samples=32) for size in (None, 8))
    np.testing.assert_allclose(dense, blocks, rtol=2e-4, atol=2e-5)


def test_a_cell_keeps_one_balanced_sub_network_per_sequence():
    cell = jaxdrop.linen.VariationalCell(nn.SimpleCell(8), RATE, RATE, deterministic=True)
    rnn, x = nn.RNN(cell), jax.random.normal(key(2), (4, 5, 3))
    fn = mc.from_linen(rnn, rnn.init(key(), x))
    y, independent = draw(fn, x, samples=128), draw(fn, x, samples=128, balanced=False)
    assert len(np.unique(y[:, 0, -1, 0])) > 8
    assert abs(y.mean() - independent.mean()) < 0.05


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_keys_of_other_kinds(impl):
    keys = jax.random.key(0, impl=impl)
    y = np.asarray(mc.predict(dropout, keys, X, balanced=True, summary=mc.samples()))
    assert_balanced(y, 16)


def test_legacy_keys_of_a_model_stay_legacy_and_differ_in_every_pass():
    class Model(nn.Module):
        def __call__(self, x, rng):
            assert rng.dtype == jnp.uint32 and rng.shape == (2,)
            return x + jax.random.normal(rng, x.shape)

    y = draw(mc.from_linen(Model(), {}), X, jax.random.PRNGKey(3))
    assert len(np.unique(y[:, 0, 0])) == len(y)


def test_draws_of_the_user_are_independent_in_every_pass():
    y = draw(lambda key, x: x + jax.random.normal(key, x.shape), X)
    assert len(np.unique(y[:, 0, 0])) == len(y)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("devices", [2, 3])
def test_masks_do_not_depend_on_the_mesh(kind, devices):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        y = draw(dropout, X, sample_axis="data")
    assert_same_bits(y, draw(dropout, X))


@pytest.mark.parametrize("keys", ["batch", "example", "call"])
def test_batches_are_balanced_and_do_not_depend_on_the_cut(keys):
    def run(cut):
        batches = np.split(np.ones((6, 40), np.float32), cut)
        summary = mc.moments()
        return mc.predict_batches(
            dropout, key(), batches, keys=keys, summary=summary, balanced=True, progress=False
        )

    whole = run([])
    zeros = np.round((1 - whole.mean * (1 - RATE)) * 100)  # of 96 balanced passes and 4 more
    assert zeros.min() >= 6 * 4 and zeros.max() <= 6 * 5 + 4
    if keys == "example":
        np.testing.assert_allclose(run([4]).mean, whole.mean, rtol=1e-6)


def test_rounds_of_a_rate_that_is_traced():
    fn = mc.from_nnx(nnx.Dropout(0.5), rate=0.25)
    assert_balanced(draw(fn, X), 16, 0.25)


def test_passes_are_balanced_if_the_summary_can_say_its_error():
    own = mc.Summary(mc.moments().init, mc.moments().update, mc.moments().result)
    both = mc.combine(mean=mc.moments(), band=mc.quantiles((0.5,)))
    for summary, balanced in (
        (None, True),
        (mc.moments(), True),
        (mc.combine(one=mc.moments()), True),
        (mc.combine(mean=mc.moments(), all=mc.samples()), False),
        (mc.samples(), False),
        (mc.quantiles((0.5,)), False),
        (both, False),
        (own, False),
    ):
        out = mc.predict(dropout, key(), X, summary=summary)
        again = mc.predict(dropout, key(), X, summary=summary, balanced=balanced)
        jax.tree.map(assert_same_bits, out, again)
    first = dropout(jax.random.fold_in(key(), 0), X)
    assert_same_bits(mc.predict(dropout, key(), X, num_samples=2, summary=mc.samples())[0], first)


@pytest.mark.parametrize("samples, chunk_size", [(1056, 400), (100, 40), (27, 27)])
def test_what_is_left_may_be_more_than_a_block(samples, chunk_size):
    options = {"num_samples": samples, "balanced": True}
    whole = mc.predict(dropout, key(), X, **options, chunk_size=1)
    chunks = mc.predict(dropout, key(), X, **options, chunk_size=chunk_size)
    np.testing.assert_allclose(chunks.mean, whole.mean, rtol=1e-5)
    np.testing.assert_allclose(chunks.standard_error, whole.standard_error, rtol=1e-4)


# What it is for.


@each_framework
def test_the_mean_has_less_error_and_says_so(framework):
    (fn, _), x = models.net(framework), models.inputs(4)
    options = {"num_samples": 64, "chunk_size": 64}
    run = jax.jit(jax.vmap(lambda key: mc.predict(fn, key, x, **options, balanced=False)))
    default = jax.jit(jax.vmap(lambda key: mc.predict(fn, key, x, **options)))
    keys = jax.random.split(key(), 100)
    independent, balanced = run(keys), default(keys)
    assert np.var(balanced.mean, axis=0).mean() < 0.6 * np.var(independent.mean, axis=0).mean()
    difference = np.abs(balanced.mean.mean(0) - independent.mean.mean(0))
    assert (difference < 5 * np.std(independent.mean, axis=0) / 7).all()


def test_two_standard_errors_cover_as_many_means_as_they_say():
    weights = jax.random.normal(key(1), (256,))
    fn = lambda key, x: jnp.tanh(jaxdrop.dropout(key, x, RATE) @ weights / 8)  # noqa: E731
    run = lambda key: mc.predict(fn, key, jnp.ones((1, 256)), balanced=True, chunk_size=100)  # noqa: E731
    out = jax.jit(jax.vmap(run))(jax.random.split(key(), 2000))
    truth = np.mean(out.mean)
    covered = np.abs(np.asarray(out.mean) - truth) <= 2 * np.asarray(out.standard_error)
    assert 0.93 < covered.mean() < 0.975


def test_standard_errors_come_from_the_means_of_blocks():
    summary = mc.combine(moments=mc.moments(), samples=mc.samples())
    for chunk_size in (3, 64):
        out = mc.predict(
            dropout, key(), X, num_samples=64, summary=summary, balanced=True, chunk_size=chunk_size
        )
        means = np.asarray(out["samples"]).reshape(4, 16, *X.shape).mean(1)
        expected = means.std(0, ddof=1) / 2 * 3.3068 / 2  # Student's t of 3 at 97.725 %
        np.testing.assert_allclose(out["moments"].standard_error, expected, rtol=3e-3, atol=1e-6)


def test_the_correction_takes_the_bias_from_mutual_information():
    weights = 2 * jax.random.normal(key(1), (64, 5))
    fn = lambda key, x: jaxdrop.dropout(key, x, 0.5) @ weights / 8  # noqa: E731

    def information(num_samples, number, balanced=False, **options):
        summary = mc.classification(**options)
        options = {"summary": summary, "chunk_size": 2000, "balanced": balanced}
        x = jnp.ones((1, 64), jnp.float32)
        run = lambda key: mc.predict(fn, key, x, num_samples=num_samples, **options)  # noqa: E731
        out = jax.jit(jax.vmap(run))(jax.random.split(key(), number))
        return float(out.mutual_information.mean())

    truth, plain = information(4000, 20), information(16, 2000)
    assert plain < 0.97 * truth
    for balanced in (False, True):
        corrected = information(16, 2000, balanced, bias_correction=True)
        assert abs(corrected - truth) < 0.01 * truth


# A tolerance.


def logits(key, x):
    return jaxdrop.dropout(key, x, RATE).reshape(len(x), 8, 5).sum(1) / 3


@pytest.mark.parametrize("balanced", [True, False])
def test_passes_are_added_until_the_tolerance_is_reached(balanced):
    options = {"balanced": balanced, "summary": mc.classification()}
    run = lambda tolerance, **more: mc.predict(  # noqa: E731
        logits, key(), X, tolerance=tolerance, **options, **more
    )
    loose, tight, cut = run(0.2), run(0.003), run(1e-4, max_samples=100)
    assert loose.num_samples == 64 and loose.reached
    assert tight.num_samples > 64 and tight.reached and tight.num_samples % 16 == 0
    assert tight.result.standard_error.max() <= 0.003
    assert cut.num_samples == 96 and not cut.reached
    same = mc.predict(logits, key(), X, num_samples=96, **options)
    np.testing.assert_allclose(cut.result.probabilities, same.probabilities, rtol=1e-5)


@pytest.mark.parametrize(
    ("rates", "block"), [((0.1, 0.9), 8), ((0.05, 0.3), 16), ((0.95,), 16), ((0.3, None), 16)]
)
def test_four_blocks_come_first_and_their_size_follows_from_the_rates(rates, block):
    counts = _passes.counted(100, 10, None, True, 0.1, 4096).suited(rates)
    assert counts.block_size == block and counts.least == 4 * block
    assert counts.suited(()) == counts  # nothing is known


class Rates(nn.Module):
    """A layer of noise, and one of dropout for each rate."""

    rates: tuple

    @nn.compact
    def __call__(self, x):
        x = jaxdrop.linen.GaussianNoise(0.01, deterministic=True)(x)
        for rate in self.rates:
            x = nn.Dropout(rate, deterministic=True)(x)
        return x


@pytest.mark.parametrize(
    ("rates", "options", "least"),
    [
        ((0.9, 0.1), {}, 32),
        ((RATE, 0.05), {}, 64),
        ((0.95,), {}, 64),
        ((RATE, 0.05), {"sites": "*_0"}, 32),  # the other drops nothing
        ((RATE,), {"rate": {"Dropout_0": 0.05}}, 64),
    ],
)
def test_blocks_are_small_if_the_rates_allow_it(rates, options, least):
    fn = mc.from_linen(Rates(rates), {}, **options)
    assert mc.predict(fn, key(), X[:1, :2], tolerance=100.0).num_samples == least


@pytest.mark.parametrize("stop", ["batch", "example"])
def test_batches_have_the_blocks_of_their_rates(stop):
    fn, options = mc.from_linen(nn.Dropout(RATE), {}), {"tolerance": 100.0, "progress": False}
    out = mc.predict_batches(fn, key(), [X[:2], X[:1]], stop=stop, **options)
    assert out.num_samples.tolist() == 3 * [32]


def test_the_rates_of_a_model_are_read_once():
    model, traced = models.counted_dropout(RATE)
    fn = mc.from_linen(model, {})
    out = mc.predict(fn, key(), X, tolerance=100.0)
    count = len(traced)
    mc.predict(fn, key(1), X + 1, tolerance=50.0)
    assert len(traced) == count
    same = mc.predict(fn, key(), X, num_samples=32)  # in the same blocks
    np.testing.assert_allclose(out.result.standard_error, same.standard_error, rtol=1e-5)


def test_another_tolerance_is_the_same_program():
    traced = []

    def fn(key, x):
        traced.append(0)
        return logits(key, x)

    run = jax.jit(lambda t: mc.predict(fn, key(), X, tolerance=t, balanced=True).num_samples)
    few = run(0.5)
    count = len(traced)
    assert run(0.01) > few and len(traced) == count


def test_a_row_that_is_not_a_number_does_not_keep_the_others_waiting():
    x = np.stack([X[0], np.full(40, np.nan, np.float32)])
    out = mc.predict(lambda k, x: jnp.cumsum(dropout(k, x), -1), key(), x, tolerance=1e3)
    assert out.num_samples == 64 and not out.reached


def test_batches_say_how_many_passes_each_example_took():
    batches = [X, 10 * X[:2]]
    out = mc.predict_batches(dropout, key(), batches, tolerance=0.1, balanced=True, progress=False)
    assert out.num_samples.shape == out.reached.shape == (6,) and out.result.mean.shape == (6, 40)
    assert out.num_samples[0] < out.num_samples[-1] and out.reached.all()


def test_several_summaries_wait_for_the_last():
    summary = mc.combine(a=mc.moments(), b=mc.classification())
    out = mc.predict(logits, key(), X, tolerance=0.05, balanced=True, summary=summary)
    worst = max(float(one.standard_error.max()) for one in out.result.values())
    assert worst <= 0.05 and out.reached


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ValueError, "tolerance: .*0.01 is usual", {"tolerance": 0}),
        (ValueError, "tolerance: ", {"tolerance": float("nan")}),
        (ValueError, "tolerance: ", {"tolerance": -1}),
        (ValueError, "num_samples=100", {"tolerance": 0.1, "summary": mc.samples()}),
        (ValueError, "num_samples=100", {"tolerance": 0.1, "summary": mc.quantiles((0.5,))}),
        (ValueError, "max_samples: expected at least 64", {"tolerance": 0.1, "max_samples": 40}),
        (ValueError, "leave balanced out", {"balanced": True, "summary": mc.quantiles((0.5,))}),
        (TypeError, "balanced: expected True, False or None", {"balanced": 32}),
    ],
)
def test_refusals(error, match, options):
    with pytest.raises(error, match=match):
        mc.predict(dropout, key(), X, **options)


def test_a_summary_without_standard_errors_has_no_tolerance():
    summary = mc.Summary(
        lambda sample, n: jnp.zeros(()), lambda state, samples, start: state, lambda state: state
    )
    with pytest.raises(ValueError, match="with a standard_error"):
        mc.predict(dropout, key(), X, tolerance=0.1, summary=summary)


# What the audit says.


class Mixed(nn.Module):
    """Sites that balanced passes share out, and one that they do not."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(RATE, deterministic=True)(x)
        x = jaxdrop.linen.GaussianNoise(RATE, deterministic=True)(x)
        return jaxdrop.linen.DropPath(RATE, deterministic=True)(x)


def test_the_audit_says_which_sites_are_not_balanced():
    report = mc.audit(mc.from_linen(Mixed(), {}), key(), X)
    assert report.independent == ("GaussianNoise_0",)
    assert str(report).count("live, independent") == 1
    model = nnx.Sequential(nnx.Dropout(RATE), jaxdrop.nnx.GaussianDropout(RATE))
    assert mc.audit(mc.from_nnx(model), key(), X).independent == ("layers/1",)


# Each example stops by itself.


@pytest.mark.parametrize("keys", ["batch", "example", "call"])
@pytest.mark.parametrize("balanced", [True, False])
def test_each_example_takes_the_passes_that_it_needs(keys, balanced):
    scales = np.array([0.01, 1, 0.02, 3, 0.03, 0.01, 0.02], np.float32)
    options = {"keys": keys, "balanced": balanced, "progress": False}
    tolerance = 0.002 if balanced else 0.006

    def run(stop, cut):
        batches = np.split(scales[:, None] * np.ones((7, 64), np.float32), cut)
        return mc.predict_batches(
            lambda key, x: jaxdrop.dropout(key, x, RATE).mean(-1, keepdims=True),
            key(), batches, tolerance=tolerance, stop=stop, **options,
        )  # fmt: skip

    out = run("example", [5])
    assert out.result.mean.shape == (7, 1) and out.reached.all()
    assert (out.num_samples[scales < 0.1] == 64).all()
    assert out.num_samples[3] >= out.num_samples[1] >= 64 and out.num_samples[3] > 64
    np.testing.assert_allclose(out.result.mean[:, 0], scales, rtol=0.05)
    assert (out.result.standard_error <= tolerance).all()
    whole = run("batch", [5])
    assert (whole.num_samples[:5] == whole.num_samples[3]).all()
    if keys == "example":  # then an example does not depend on those beside it
        uncut = run("example", [])
        assert (uncut.num_samples == out.num_samples).all()
        np.testing.assert_allclose(uncut.result.mean, out.result.mean, rtol=1e-6)


def test_an_example_that_never_suffices_stops_at_the_most_passes():
    x = np.stack([np.zeros(40), np.ones(40), np.full(40, np.nan)]).astype(np.float32)
    out = mc.predict_batches(
        dropout, key(), [x], tolerance=1e-4, max_samples=160, stop="example", progress=False
    )
    assert out.num_samples.tolist() == [64, 160, 64]
    assert out.reached.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("stop: expected one of", {"stop": "row", "tolerance": 0.1}),
        ("stop: expected a tolerance", {"stop": "example"}),
        ("no sample_axis", {"stop": "example", "tolerance": 0.1, "sample_axis": "data"}),
    ],
)
def test_refused_ways_to_stop(match, options):
    with pytest.raises(ValueError, match=match):
        mc.predict_batches(dropout, key(), [X], progress=False, **options)
