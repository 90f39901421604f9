"""One program for every size, that is saved and runs where there is only JAX."""

import functools
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import mc
from jaxdrop.functional._token_dropout import Tokens
from jaxdrop.mc import _export
from tests.support import models
from tests.support.cases import assert_close, assert_same_bits, data, key, symbolic

EVERYWHERE = ("cpu", "cuda", "tpu")
SIZES = (1, 2, 31, 32, 33, 257)


def loaded(exported):
    """What arrives elsewhere."""
    return jax.export.deserialize(exported.serialize())


# A served prediction.


@pytest.mark.usefixtures("jitted")
def test_a_program_serves_every_batch_as_predict_does():
    """Also those that `predict_batches` has to fill up."""
    fn, _ = models.net("linen", head=True)
    options = {"summary": mc.classification(), "num_samples": 4, "chunk_size": 4}
    served = loaded(mc.export(fn, symbolic("b, 40"), **options))
    assert served.platforms == EVERYWHERE
    whole = models.inputs(11)
    batches = [whole[:8], whole[8:]]
    expected = mc.predict_batches(fn, key(), batches, progress=False, **options)
    found = [served.call(jax.random.fold_in(key(), n), x) for n, x in enumerate(batches)]
    found = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    assert sorted(found) == sorted(expected._fields)
    assert_close(found, expected._asdict())


@pytest.mark.slow
@pytest.mark.usefixtures("jitted")
def test_a_program_with_a_tolerance_takes_the_words_of_a_key():
    fn, _ = models.net("nnx")
    options = {"summary": mc.combine(only=mc.moments()), "tolerance": 0.1, "max_samples": 128}
    sizes = symbolic("b, 40", "b>=1", "b<=64")
    served = loaded(mc.export(fn, sizes, key=jax.random.PRNGKey(0), platforms=["cpu"], **options))
    words, x = np.asarray(jax.random.key_data(key(7))), models.inputs(5)
    found, expected = served.call(words, x), mc.predict(fn, key(7), x, **options)
    assert found["num_samples"] == expected.num_samples
    assert found["reached"] == expected.reached
    assert_close(found["result"], {"only": expected.result["only"]._asdict()})
    with pytest.raises(ValueError, match=r"refining shapes|b<=64"):
        served.call(words, models.inputs(65))


class Own:
    """A class that a server does not have."""

    def __init__(self, mean, parts):
        self.mean, self.parts = mean, parts


jax.tree_util.register_dataclass(Own, ["mean", "parts"], [])


@pytest.mark.usefixtures("jitted")
def test_results_are_made_of_dicts_lists_and_tuples():
    def fn(key, x, pair):
        y = jaxdrop.dropout(key, x, 0.5)
        return Own({"a": y}, [y, (y + pair[0], None), Tokens(y, y)])

    x = symbolic("b, 3")
    words = jax.random.PRNGKey(0)
    served = mc.export(fn, x, (x, x), key=words, num_samples=2, platforms=["cpu"])
    one = np.ones((2, 3), np.float32)
    mean = loaded(served).call(np.asarray(words), one, (one, one))["mean"]
    inner, (plus, nothing), tokens = mean["parts"]
    assert set(mean) == {"mean", "parts"} and set(tokens) == {"kept", "indices"}
    assert nothing is None
    np.testing.assert_array_equal(mean["mean"]["a"] + 1, plus)
    np.testing.assert_array_equal(inner, tokens["kept"])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (((3, 4),), {}, r"shapes: expected a shape with a dtype, got 3 .*symbolic_shape"),
        ((False,), {}, "by its name, as in train=False"),
        ((), {"mask": symbolic("b")}, "mask: expected a value.* give the shapes of arguments by"),
        ((), {"key": 3}, "key: expected one PRNG key"),
        ((), {"num_sample": 3}, "did you mean num_samples"),
    ],
)
def test_refused_with_what_to_write(arguments, options, message):
    fn, _ = models.net("linen")
    with pytest.raises(TypeError, match=message):
        mc.export(fn, *(arguments or (symbolic("b, 40"),)), **options)


def test_a_model_is_refused_as_by_predict():
    with pytest.raises(TypeError, match="got the model LinenNet; write"):
        mc.export(models.LinenNet(), symbolic("b, 40"))


CLIENT = """
import sys
import jax, jax.export
import numpy as np
file, numbers, results = sys.argv[1:]
with open(file, "rb") as saved:
    served = jax.export.deserialize(saved.read())
out = served.call(jax.random.key(7), np.load(numbers))
np.savez(results, **out)
assert not {"jaxdrop", "flax", "tests"} & set(sys.modules)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("jitted")
def test_a_process_without_the_code_of_the_model_gets_the_same(tmp_path):
    fn, _ = models.net("linen", head=True)
    options = {"summary": mc.classification(), "num_samples": 32}
    (tmp_path / "served").write_bytes(mc.export(fn, symbolic("b, 40"), **options).serialize())
    x = models.inputs(33)
    np.save(tmp_path / "x.npy", x)
    names = [tmp_path / name for name in ("served", "x.npy", "out.npz")]
    subprocess.run([sys.executable, "-c", CLIENT, *map(str, names)], check=True, cwd=tmp_path)
    found = dict(np.load(tmp_path / "out.npz"))
    expected = mc.predict(fn, key(7), x, **options)._asdict()
    assert sorted(found) == sorted(expected)
    for name, one in expected.items():
        np.testing.assert_allclose(found[name], one, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("jitted")
def test_tensorflow_runs_a_saved_prediction(tmp_path):
    tf = pytest.importorskip("tensorflow", reason="TensorFlow serves what jax2tf converts")
    jax2tf = pytest.importorskip("jax.experimental.jax2tf", reason="JAX has moved jax2tf")
    fn, _ = models.net("linen", head=True)
    options = {"summary": mc.classification(), "num_samples": 12}
    served = mc.export(fn, symbolic("b, 40"), key=jax.random.PRNGKey(0), **options)
    kinds = [None, "(b, 40)"]
    called = jax2tf.convert(served.call, polymorphic_shapes=kinds, with_gradient=False)
    module = tf.Module()
    kinds = [tf.TensorSpec((2,), tf.uint32), tf.TensorSpec((None, 40), tf.float32)]
    module.predict = tf.function(called, autograph=False, input_signature=kinds)
    tf.saved_model.save(module, str(tmp_path))
    received = tf.saved_model.load(str(tmp_path))
    words, x = np.asarray(jax.random.key_data(key(7))), models.inputs(5)
    try:
        found = received.predict(words, x)
    except tf.errors.InvalidArgumentError as error:
        assert "StableHLO" in str(error)
        pytest.skip("this TensorFlow is too old for the programs of this JAX")
    assert_close(
        {name: np.asarray(one) for name, one in found.items()},
        mc.predict(fn, key(7), x, **options)._asdict(),
    )


SUMMARIES = {
    "moments": mc.moments(),
    "classification": mc.classification(),
    "regression": mc.regression(precision=2.0),
    "quantiles": mc.quantiles((0.1, 0.9)),
    "samples": mc.samples(),
    "combined": mc.combine(one=mc.moments(), other=mc.classification()),
}


@pytest.mark.slow
@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize(
    ("summary", "options"),
    [
        *((name, {}) for name in SUMMARIES),
        ("regression", {"balanced": True}),
        ("combined", {"balanced": True}),
        ("classification", {"tolerance": 0.2, "balanced": True}),
        ("moments", {"chunk_size": "auto"}),
    ],
    ids=str,
)
def test_every_summary_is_served(summary, options):
    """With bounds too, in turns."""
    bounds = ("b>=2", "b<=64") if options else ()
    options = {"num_samples": 9, "chunk_size": 4, "summary": SUMMARIES[summary], **options}
    fn, x = models.net("linen")[0], models.inputs(33)
    served = mc.export(fn, symbolic("b, 40", *bounds), platforms=["cpu"], **options)
    found, expected = served.call(key(), x), mc.predict(fn, key(), x, **options)
    assert_close(jax.tree.map(np.asarray, found), _export._plain(expected))


# What is exported: modules.


class Encoder(nn.Module):
    """Attention with dropout, of sequences of any length."""

    block_size: int | None = None

    @nn.compact
    def __call__(self, x):
        attend = functools.partial(jaxdrop.linen.attention_fn, block_size=self.block_size)
        attention = nn.MultiHeadDotProductAttention(
            2, dropout_rate=0.3, deterministic=True, attention_fn=attend
        )
        return nn.Dense(3)(nn.LayerNorm()(x + attention(x)))


def of_linen(layer, like=(2, 6, 8)):
    x = jnp.ones(like)
    model = nn.Sequential([layer, nn.Dense(3)]) if not isinstance(layer, Encoder) else layer
    return mc.from_linen(model, model.init(key(), x)), like


def of_nnx(layer, like=(2, 6, 8)):
    return mc.from_nnx(nnx.Sequential(layer, nnx.Linear(8, 3, rngs=nnx.Rngs(1)))), like


def cell(framework, kind):
    if framework == "nnx":
        inner = nnx.LSTMCell(8, 8, rngs=nnx.Rngs(0))
        return nnx.RNN(getattr(jaxdrop.nnx, kind)(inner, 0.5))
    return nn.RNN(getattr(jaxdrop.linen, kind)(nn.LSTMCell(8), 0.5, deterministic=True))


_OFF = {"deterministic": True}
MODULES = {
    "Dropout": lambda: of_linen(jaxdrop.linen.Dropout(0.5, **_OFF)),
    "DropBlock": lambda: of_linen(jaxdrop.linen.DropBlock(0.5, block_size=3, **_OFF), (2, 6, 6, 8)),
    "ConcreteDropout": lambda: of_linen(jaxdrop.linen.ConcreteDropout(**_OFF)),
    "DropConnect": lambda: of_linen(jaxdrop.linen.DropConnect(nn.Dense(8), 0.5, **_OFF)),
    "SubsetResidual": lambda: of_linen(jaxdrop.linen.SubsetResidual(nn.Dense(8), 0.3, **_OFF)),
    "ThinnedMLP": lambda: of_linen(jaxdrop.linen.ThinnedMLP(16, 8, 0.5, **_OFF)),
    "VariationalCell": lambda: of_linen(cell("linen", "VariationalCell")),
    "ZoneoutCell": lambda: of_linen(cell("linen", "ZoneoutCell")),
    "attention in blocks": lambda: of_linen(Encoder(4)),
    "nnx.Dropout": lambda: of_nnx(nnx.Dropout(0.5, rngs=nnx.Rngs(0))),
    "nnx SpatialDropout": lambda: of_nnx(jaxdrop.nnx.SpatialDropout(0.5)),
    "nnx LayerDrop": lambda: of_nnx(jaxdrop.nnx.LayerDrop(nnx.Linear(8, 8, rngs=nnx.Rngs(0)), 0.5)),
    "nnx WeightDropCell": lambda: of_nnx(cell("nnx", "WeightDropCell")),
    "nnx attention": lambda: of_nnx(
        nnx.MultiHeadAttention(2, 8, dropout_rate=0.3, decode=False, rngs=nnx.Rngs(0))
    ),
}


@pytest.mark.slow
@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("name", MODULES)
def test_every_kind_of_module_is_served(name):
    fn, like = MODULES[name]()
    rest = ", ".join(map(str, like[1:]))
    served = mc.export(fn, symbolic(f"b, {rest}", "b>=1", "b<=99"), num_samples=3)
    x = data((5, *like[1:]))
    assert_close(served.call(key(), x), mc.predict(fn, key(), x, num_samples=3)._asdict())
    rest = ", ".join(map(str, like[2:]))
    mc.export(fn, symbolic(f"b, t, {rest}"), num_samples=3)


@pytest.mark.slow
@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize(
    ("batch", "balanced"), [*((batch, False) for batch in SIZES), (33, True)], ids=str
)
def test_samples_of_a_symbolic_batch_have_the_bits_of_a_known_one(batch, balanced):
    x, options = data((batch, 7)), _options(balanced)
    found, expected = _alone(balanced).call(key(), x), mc.predict(_ALONE, key(), x, **options)
    if balanced:  # in sums
        assert_close(found, expected._asdict())
    else:
        assert_same_bits(found, expected)


_ALONE = mc.from_nnx(nnx.Sequential(nnx.Dropout(0.5)))


def _options(balanced):
    summary = mc.moments() if balanced else mc.samples()
    return {"num_samples": 8, "summary": summary, "balanced": balanced}


@functools.cache
def _alone(balanced):
    return mc.export(_ALONE, symbolic("b, 7"), **_options(balanced))
