"""LoRA with dropout: Flax's layers otherwise, in parameters, values and memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxdrop
from jaxdrop import dropout, mc
from tests.laws.test_laws_gradient import kept_bytes
from tests.support import reference
from tests.support.cases import assert_same_bits, data, key

RATE, RANK = 0.3, 8
X = data((4, 6, 64))
# Which decisions are shared: the shape of the mask.
PARTS = {"input": (4, 6, 64), "rank": (4, 1, RANK), "module": (4, 1, 1)}
each_part = pytest.mark.parametrize("drop", PARTS)
each_class = pytest.mark.parametrize("name", ["LoRA", "LoRALinear"])


def made(module, name, **options):
    """A layer from the same seed; Flax's first update of the weights would be 0."""
    rngs, options = nnx.Rngs(0), {"b_initializer": nnx.initializers.normal(), **options}
    if name == "LoRALinear":
        return module.LoRALinear(64, 40, lora_rank=RANK, rngs=rngs, **options)
    base = nnx.Linear(64, 40, rngs=nnx.Rngs(1))
    return module.LoRA(64, RANK, 40, base_module=base, rngs=rngs, **options)


def weights(layer):
    lora = getattr(layer, "lora", layer)
    return lora.lora_a[...], lora.lora_b[...]


@each_class
def test_without_dropout_it_is_that_of_flax(name):
    flax, layer = made(nnx, name), made(jaxdrop.nnx, name)
    assert isinstance(layer, type(flax))
    nothing = nnx.to_pure_dict(nnx.state(flax))
    jax.tree.map(assert_same_bits, nnx.to_pure_dict(nnx.state(layer)), nothing)
    assert_same_bits(layer(X), flax(X))
    layer = made(jaxdrop.nnx, name, rate=RATE)  # with a stream
    jax.tree.map(assert_same_bits, nnx.to_pure_dict(nnx.state(layer, nnx.Param)), nothing)
    assert_same_bits(layer(X, deterministic=True), flax(X))
    assert (layer(X) != layer(X)).any()
    layer.eval()
    assert_same_bits(layer(X), flax(X))
    assert_same_bits(nnx.view(made(jaxdrop.nnx, name, rate=RATE), deterministic=True)(X), flax(X))


@each_class
@each_part
@pytest.mark.parametrize("rate", [RATE, jnp.float32(RATE)], ids=["static", "traced"])
def test_the_named_part_drops_and_the_base_does_not(name, drop, rate):
    held = nnx.data(rate) if isinstance(rate, jax.Array) else rate
    layer = made(jaxdrop.nnx, name, rate=held, drop=drop)
    (a, b), plain = weights(layer), made(nnx, name)(X)
    keep = reference.keep(jax.random.key_data(key()), RATE, PARTS[drop])
    scale = np.where(keep, 1 / float(reference.keep_probability(RATE)), 0)
    x, a, b = (np.asarray(array, np.float64) for array in (X, a, b))
    scales = {part: scale if part == drop else 1 for part in PARTS}
    dropped = ((x * scales["input"]) @ a * scales["rank"]) @ b * scales["module"]
    expected = np.asarray(plain, np.float64) - x @ a @ b + dropped
    np.testing.assert_allclose(layer(X, rngs=key()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(64,), (7, 64)], ids=str)
@each_part
def test_vectors_are_one_example_and_rows_are_many(shape, drop):
    layer = made(jaxdrop.nnx, "LoRALinear", rate=0.5, drop=drop, use_bias=False)
    layer.kernel[...] = jnp.zeros_like(layer.kernel[...])
    y = layer(data(shape), rngs=key())
    assert y.shape == (*shape[:-1], 40)
    gone = np.asarray(y == 0).all(axis=-1)
    if drop == "module" and len(shape) > 1:
        assert 0 < gone.sum() < 7
    else:
        assert gone.all() if drop == "module" and gone.any() else not gone.any()


@each_part
def test_one_bit_per_decision_is_kept_and_no_copy_of_the_input(drop):
    """Beyond what Flax keeps, of x and the parameters that are trained."""

    def kept(module, layer_of=lambda layer: layer, **options):
        graph, lora, others = nnx.split(made(module, "LoRALinear", **options), nnx.LoRAParam, ...)
        rngs = {"rngs": key()} if options else {}

        def run(pair):
            return layer_of(nnx.merge(graph, pair[1], others))(pair[0], **rngs)

        return kept_bytes(run, (X, lora))

    def written_by_hand(layer):
        return lambda x: layer(x) + layer.lora(dropout(key(), x, RATE))

    words = 4 * -(-np.prod(PARTS[drop]) // 32)
    assert kept(jaxdrop.nnx, rate=RATE, drop=drop) - kept(nnx) <= 1.25 * words + 64 < X.nbytes
    assert kept(nnx, written_by_hand) - kept(nnx) > X.nbytes  # a second copy


def test_gradients_are_those_of_dropout_of_the_input():
    layer = made(jaxdrop.nnx, "LoRALinear", rate=RATE)
    graph, params, others = nnx.split(layer, nnx.LoRAParam, ...)

    def loss(params, x):
        return jnp.sin(nnx.merge(graph, params, others)(x, rngs=key())).sum()

    def expected(params, x):
        y = x @ layer.kernel[...] + jnp.broadcast_to(layer.bias[...], (4, 6, 40))
        low = dropout(key(), x, RATE) @ params["lora"]["lora_a"][...]
        return jnp.sin(y + low @ params["lora"]["lora_b"][...]).sum()

    for found, exact in zip(
        *(jax.tree.leaves(jax.jit(jax.grad(f, (0, 1)))(params, X)) for f in (loss, expected)),
        strict=True,
    ):
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)


def test_a_dropped_nan_of_the_input_is_gone_and_ends_need_no_key():
    layer = made(jaxdrop.nnx, "LoRA", rate=1.0)
    layer.base_module = None
    assert_same_bits(layer(X), jnp.zeros((4, 6, 40)))
    with pytest.raises(ValueError, match=r"drop: expected one of 'input', .* got 'output'; write"):
        made(jaxdrop.nnx, "LoRALinear", drop="output")
    layer = made(jaxdrop.nnx, "LoRA", rate=0.5)
    layer.base_module = None
    keep = reference.keep(jax.random.key_data(key()), 0.5, X.shape)
    y = layer(jnp.where(keep, X, jnp.nan), rngs=key())
    assert np.isfinite(y).all()


def test_adapters_turn_it_on_and_dropout_of_the_base():
    base = nnx.Sequential(nnx.Linear(64, 40, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
    model = nnx.Sequential(
        jaxdrop.nnx.LoRA(64, RANK, 40, rate=0.2, base_module=base, rngs=nnx.Rngs(0)),
        nnx.relu,
        jaxdrop.nnx.LoRALinear(40, 3, lora_rank=2, rate=RATE, drop="module", rngs=nnx.Rngs(2)),
    )
    fn = mc.from_nnx(model)
    sites = [(site.path, site.rate, site.live) for site in mc.audit(fn, key(), X).sites]
    assert sites == [
        ("layers/0", 0.2, True),
        ("layers/0/base_module/layers/1", 0.5, True),
        ("layers/2/lora", RATE, True),
    ]
    assert (fn(key(1), X) != fn(key(2), X)).any()
    off = mc.from_nnx(model, sites="none")
    model.eval()
    assert_same_bits(off(key(1), X), model(X))


def test_the_rate_may_be_set_to_a_traced_array():
    layer, traces = made(jaxdrop.nnx, "LoRALinear", rate=RATE), []

    @nnx.jit
    def call(layer, rate):
        traces.append(1)
        layer.lora.rate = rate
        return layer(X, rngs=key())

    for rate in (0.2, 0.6, 0.7):
        expected = made(jaxdrop.nnx, "LoRALinear", rate=rate)(X, rngs=key())
        np.testing.assert_allclose(call(layer, jnp.float32(rate)), expected, 1e-5, 1e-5)
    assert len(traces) == 2  # for a layer with a number, then for one with an array
