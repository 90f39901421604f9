"""Token dropout at its place in a small vision transformer, in linen and in nnx."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import mc
from tests.support.cases import assert_same_bits, data, key
from tests.support.models import each_framework

IMAGES = data((4, 16, 16, 3))  # 16 patches of 4 x 4, and a class token before them
WIDTH, CLASSES = 16, 5
NUM_TOKENS, NUM_KEPT = 17, 9


class LinenViT(nn.Module):
    """Attention sees the kept tokens alone; the class token, which is one of them, is read."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, images, train=False):
        patches = nn.Conv(WIDTH, (4, 4), strides=4)(images)
        patches = patches.reshape(images.shape[0], -1, WIDTH)
        start = self.param("class", nn.initializers.normal(), (1, 1, WIDTH))
        start = jnp.broadcast_to(start, (images.shape[0], 1, WIDTH))
        x = jnp.concatenate([start, patches], axis=1)
        drop = jaxdrop.linen.TokenDropout(self.rate, num_prefix_tokens=1)
        x, indices = drop(x, deterministic=not train)
        x = x + nn.Embed(NUM_TOKENS, WIDTH, name="positions")(indices)
        self.sow("intermediates", "indices", indices)
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return nn.Dense(CLASSES)(nn.LayerNorm()(x)[:, 0])


class NnxViT(nnx.Module):
    def __init__(self, rngs):
        self.patches = nnx.Conv(3, WIDTH, (4, 4), strides=4, rngs=rngs)
        self.start = nnx.Param(jax.random.normal(rngs.params(), (1, 1, WIDTH)))
        self.drop = jaxdrop.nnx.TokenDropout(0.5, num_prefix_tokens=1, rngs=rngs)
        self.positions = nnx.Embed(NUM_TOKENS, WIDTH, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, images):
        patches = self.patches(images).reshape(images.shape[0], -1, WIDTH)
        start = jnp.broadcast_to(self.start[...], (images.shape[0], 1, WIDTH))
        x, indices = self.drop(jnp.concatenate([start, patches], axis=1))
        x = x + self.positions(indices)
        return self.head((x + self.attention(self.norm(x)))[:, 0])


def linen_model(rate=0.5):
    model = LinenViT(rate)
    return model, {"params": model.init(key(), IMAGES)["params"]}


def run(model, variables, train=True, seed=1):
    y, state = model.apply(
        variables, IMAGES, train=train, rngs={"dropout": key(seed)}, mutable="intermediates"
    )
    return y, state["intermediates"]["indices"][0]


def test_class_token_stays_and_every_token_keeps_its_own_position():
    model, variables = linen_model()
    y, indices = run(model, variables)
    assert y.shape == (4, CLASSES)
    assert indices.shape == (4, NUM_KEPT)
    assert (indices[:, 0] == 0).all()
    assert len({row.tobytes() for row in np.asarray(indices)}) == 4  # each example on its own

    def summed(table):
        params = {**variables["params"], "positions": {"embedding": table}}
        return run(model, {"params": params})[0].sum()

    gradient = jax.grad(summed)(variables["params"]["positions"]["embedding"])
    used = np.asarray((gradient != 0).any(axis=1))
    assert set(np.flatnonzero(used)) == set(np.asarray(indices).ravel().tolist())


def test_switched_off_all_tokens_take_part():
    model, variables = linen_model()
    y, indices = run(model, variables, train=False)
    np.testing.assert_array_equal(indices, np.broadcast_to(np.arange(NUM_TOKENS), (4, NUM_TOKENS)))
    assert_same_bits(y, run(linen_model(0.0)[0], variables)[0])


def test_operations_of_a_step_fall_as_the_tokens_do():
    """From behind the patches on: with half of the tokens less than 0.6 is left of the whole."""

    def operations(rate):
        model, variables = linen_model(rate)

        def loss(variables, one):
            return model.apply(variables, IMAGES, train=True, rngs={"dropout": one}).sum()

        with jax.debug_key_reuse(False):
            step = jax.jit(jax.grad(loss)).lower(variables, key()).compile()
        return step.cost_analysis()["flops"]

    whole, half = operations(0.0), operations(0.5)
    patches = 3 * 2 * 4 * 16 * WIDTH * 48  # of the convolution, which sees all, at the most
    assert half < whole
    assert half - patches <= 0.65 * (whole - patches)


def test_a_step_of_training_lowers_the_loss():
    model, variables = linen_model()
    labels = jnp.arange(4) % CLASSES

    @jax.jit
    def loss(variables):
        logits = model.apply(variables, IMAGES, train=True, rngs={"dropout": key(1)})
        return -jax.nn.log_softmax(logits)[jnp.arange(4), labels].mean()

    before, gradient = jax.value_and_grad(loss)(variables)
    assert loss(jax.tree.map(lambda v, g: v - 0.05 * g, variables, gradient)) < before


@each_framework
def test_monte_carlo_over_subsets_of_tokens(framework):
    """The class token is read, so that passes over different tokens have one shape."""
    linen = framework == "linen"
    fn = mc.from_linen(*linen_model()) if linen else mc.from_nnx(NnxViT(nnx.Rngs(0)))
    out = mc.predict(fn, key(), IMAGES, num_samples=8, summary=mc.classification())
    assert out.probabilities.shape == (4, CLASSES)
    assert (out.mutual_information > 0).all()
    sites = [site for site in mc.audit(fn, key(), IMAGES).sites if site.live]
    assert [(site.kind, site.rate, site.shape) for site in sites] == [
        ("TokenDropout", 0.5, (4, NUM_TOKENS, WIDTH))
    ]


def test_nnx_model_switches_and_trains():
    model = NnxViT(nnx.Rngs(0))
    first, second = model(IMAGES), model(IMAGES)
    assert (first != second).any()
    gradient = nnx.grad(lambda model: model(IMAGES).sum())(model)
    assert (gradient["positions"]["embedding"][...] != 0).any()
    model.eval()
    assert_same_bits(model(IMAGES), model(IMAGES))
