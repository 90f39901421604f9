"""Many batches: each is `predict`, the last is filled up, and cuts need not matter."""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxdrop
from jaxdrop import mc
from tests.support.cases import assert_same_bits, data, key

WIDTH = 12


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Dense(16)(x))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(3)(x)


def network():
    return mc.from_linen(Net(), Net().init(key(), jnp.ones((1, WIDTH))))


def cuts(x, *sizes):
    starts = np.cumsum((0, *sizes))
    return [x[a:b] for a, b in itertools.pairwise(starts)]


def run(fn, batches, **options):
    options = {"num_samples": 20, "summary": mc.samples(), "progress": False} | options
    return mc.predict_batches(fn, key(1), batches, **options)


def test_a_batch_is_predict_with_its_key():
    fn, x = network(), data((19, WIDTH))
    out = run(fn, cuts(x, 8, 8, 3))
    assert out.shape == (20, 19, 3)
    for number, batch in enumerate(cuts(x, 8, 8)):
        one = jax.random.fold_in(key(1), number)
        expected = mc.predict(fn, one, batch, num_samples=20, summary=mc.samples())
        np.testing.assert_allclose(out[:, 8 * number : 8 * number + 8], expected, rtol=1e-5)
    one = jax.random.fold_in(key(1), 2)
    expected = mc.predict(fn, one, x[16:], num_samples=20, summary=mc.samples())
    np.testing.assert_allclose(out[:, 16:], expected, rtol=1e-5)


@pytest.mark.parametrize("keys", ["batch", "call"])
@pytest.mark.parametrize("cut", [64, 40])
@pytest.mark.parametrize("draw", ["jaxdrop", "jax"])
def test_a_batch_that_is_filled_up_is_predict_too(keys, cut, draw):
    """Bit for bit, where nothing is multiplied: the masks are those of fewer examples."""
    x = data((70, 7))
    kept = lambda key, x: jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0)  # noqa: E731
    fn = kept if draw == "jax" else lambda key, x: jaxdrop.dropout(key, x, 0.5)
    one = jax.random.fold_in(key(1), 1) if keys == "batch" else key(1)
    alone = mc.predict(fn, one, x[cut:], num_samples=20, summary=mc.samples())
    assert_same_bits(run(fn, cuts(x, cut, 70 - cut), keys=keys)[:, cut:], alone)


@pytest.mark.filterwarnings("ignore:not all dropout is decided")  # which is what it wants
@pytest.mark.parametrize("sizes", [(4, 4), (4, 2), (4, 3)])
def test_keys_may_be_among_the_arguments(sizes):
    x = data((sum(sizes), WIDTH))
    own = jax.random.split(jax.random.key(5, impl="threefry2x32"), sum(sizes))  # as in a loop

    def fn(key, x, own):  # the same key an example in every pass
        normal = lambda key: jax.random.normal(key, (), x.dtype)  # noqa: E731
        return x + jax.vmap(normal)(jax.random.clone(own))[:, None] * normal(key)

    out = run(fn, list(zip(cuts(x, *sizes), cuts(own, *sizes))), keys="call")
    alone = mc.predict(fn, key(1), x, own, num_samples=20, summary=mc.samples())
    np.testing.assert_allclose(out, alone, rtol=1e-6, atol=1e-6)


def test_batches_draw_apart_unless_they_are_told_not_to():
    fn, x = network(), jnp.tile(data((1, WIDTH)), (16, 1))
    out = run(fn, cuts(x, 8, 8))
    assert (np.abs(out[:, :8] - out[:, 8:]) > 1e-6).any(-1).mean() > 0.9
    out = run(fn, cuts(x, 8, 8), keys="call")
    assert_same_bits(out[:, :8], out[:, 8:])


@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_with_a_key_an_example_cuts_do_not_matter(impl):
    """Masks are the same bits, seen through a layer whose outputs are only dropped."""

    class Mask(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5, deterministic=True)(x)

    fn = mc.from_linen(Mask(), {})
    x = data((19, WIDTH))
    one = jax.random.key(3, impl=impl)
    options = {"num_samples": 20, "summary": mc.samples(), "progress": False, "keys": "example"}
    found = [
        mc.predict_batches(fn, one, batches, **options)
        for batches in (cuts(x, 8, 8, 3), cuts(x, 5, 5, 5, 4), cuts(x, 19), cuts(x, *[1] * 19))
    ]
    for other in found[1:]:
        assert_same_bits(other, found[0])
    sample = fn(jax.random.fold_in(jax.random.fold_in(one, 7), 11), x[11:12])
    assert_same_bits(found[0][7, 11:12], sample)
    kept = found[0] != 0
    assert (kept[:, 0] != kept[:, 1]).any()
    assert not (kept[0] == kept[1]).all()


@pytest.mark.usefixtures("jitted")
def test_outputs_of_a_network_agree_to_rounding():
    fn, x = network(), data((19, WIDTH))
    for summary in (mc.moments(), mc.classification(), mc.quantiles((0.1, 0.9))):
        first = run(fn, cuts(x, 8, 8, 3), keys="example", summary=summary)
        second = run(fn, cuts(x, 10, 9), keys="example", summary=summary)
        for a, b in zip(first, second):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("keys", ["batch", "example", "call"])
def test_no_batch_compiles_again(keys):
    count = 0

    def fn(key, x):
        nonlocal count
        count += 1
        return x + jax.random.normal(key, x.shape)

    counts = []

    def batches():
        for batch in cuts(data((21, WIDTH)), 8, 8, 5):
            yield batch
            counts.append(count)

    run(fn, batches(), keys=keys, summary=mc.moments())
    assert counts[0] == counts[1] == counts[2] > 0


def test_batches_may_be_tuples_of_arguments():
    def fn(key, x, scale, flag):
        assert flag is True
        return {"sum": (x + jax.random.normal(key, x.shape)).sum(-1) * scale}

    x, scale = data((10, WIDTH)), jnp.arange(10.0)
    batches = [(a, b, True) for a, b in zip(cuts(x, 6, 4), cuts(scale, 6, 4))]
    out = run(fn, batches, summary=mc.combine(m=mc.moments(), s=mc.samples()))
    assert out["m"].mean["sum"].shape == (10,)
    assert out["s"]["sum"].shape == (20, 10)
    np.testing.assert_array_equal(out["m"].mean["sum"][0], 0)


def test_the_bar_goes_to_stderr(capsys):
    run(network(), cuts(data((16, WIDTH)), 8, 8), progress=True)
    seen = capsys.readouterr()
    assert not seen.out
    assert "2/2" in seen.err
    assert max(map(len, seen.err.replace("\r", "\n").splitlines())) <= 80


def test_without_tqdm_there_is_no_bar(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    run(network(), cuts(data((16, WIDTH)), 8, 8), progress=True)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("batches", "options", "kind", "message"),
    [
        ([], {}, ValueError, "batches: expected one or more, got none"),
        ([jnp.ones((0, WIDTH))], {}, ValueError, "batches: expected arrays with the same number"),
        ([jnp.float32(1)], {}, ValueError, r"got shapes \[\(\)\]; bind"),
        ([(jnp.ones((3, 2)), jnp.ones(2))], {}, ValueError, r"got shapes \[\(3, 2\), \(2,\)\]"),
        (
            [jnp.ones((2, WIDTH)), jnp.ones((3, WIDTH))],
            {},
            ValueError,
            "at most as many examples as in the first, 2, got 3",
        ),
        ([jnp.ones((2, WIDTH))], {"keys": "row"}, ValueError, "keys: expected one of 'batch'"),
        ([jnp.ones((2, WIDTH))], {"num_samples": 0}, ValueError, "num_samples: expected at least"),
    ],
)
def test_wrong_batches_are_refused(batches, options, kind, message):
    with pytest.raises(kind, match=message):
        run(lambda key, x: x + jax.random.normal(key, x.shape), batches, **options)


def test_a_result_without_examples_is_refused():
    fn = lambda key, x: x.mean() + jax.random.normal(key)  # noqa: E731
    with pytest.raises(ValueError, match=r"an axis of examples, got one of shape \(20,\)"):
        run(fn, [jnp.ones((2, WIDTH))])
