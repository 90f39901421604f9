"""NEFTune: the size of the noise follows the number of real tokens of each text.

The laws of noise run over it in `tests.support.cases`, without padding.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import mc, neftune_noise
from tests.laws.test_laws_gradient import really_kept_bytes
from tests.support import own, reference
from tests.support.cases import assert_same_bits, data, key
from tests.support.models import each_framework

ALPHA, LENGTH, WIDTH = 5.0, 12, 32
LENGTHS = np.array([12, 1, 0, 7])
MASK = np.arange(LENGTH) < LENGTHS[:, None]
MASK[3] = np.roll(MASK[3], 5)  # padding on both sides
X = data((4, LENGTH, WIDTH))


def test_numbers_of_real_tokens_decide_and_padding_gets_no_noise():
    y = neftune_noise(key(), X, ALPHA, mask=MASK)
    u = reference.uniform(jax.random.key_data(key()), X.shape)
    size = ALPHA / np.sqrt(np.maximum(LENGTHS, 1) * WIDTH)
    expected = X + np.where(MASK[..., None], (2 * u - 1) * size[:, None, None], 0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert_same_bits(np.asarray(y)[~MASK], np.asarray(X)[~MASK])
    assert (np.asarray(y != X)[MASK]).mean() > 0.99
    # A text that is padded to another length has noise of the same size, and a gradient of ones.
    longer = jnp.pad(X, ((0, 0), (0, 5), (0, 0)))
    z = neftune_noise(key(), longer, ALPHA, mask=np.pad(MASK, ((0, 0), (0, 5))))
    spread = lambda y, x: np.asarray(y - x).std(axis=(1, 2)) * np.sqrt(x.shape[1])  # noqa: E731
    np.testing.assert_allclose(spread(y, X)[[0, 3]], spread(z, longer)[[0, 3]], rtol=0.15)
    gradient = jax.grad(lambda x: neftune_noise(key(), x, ALPHA, mask=MASK).sum())(X)
    assert_same_bits(gradient, jnp.ones_like(X))
    kept = really_kept_bytes(lambda x: neftune_noise(key(), x, ALPHA, mask=MASK), X)
    assert kept <= 4 * MASK.size + 64


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_mask_of_tokens_alone_is_none(dtype):
    x, full = X.astype(dtype), np.ones((4, LENGTH), bool)
    masked, plain = neftune_noise(key(), x, ALPHA, mask=full), neftune_noise(key(), x, ALPHA)
    rounding = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(*map(np.float32, (masked, plain)), rtol=rounding, atol=1e-6)
    alphas = jnp.array([1.0, 2.0, 3.0, 0.0])[:, None, None]
    y = jax.jit(lambda a, m: neftune_noise(key(), x, a, mask=m))(alphas, full)
    assert_same_bits(y[3], x[3])
    two = neftune_noise(key(), x, 2.0)
    np.testing.assert_allclose(*map(np.float32, (y[1], two[1])), rtol=rounding, atol=1e-6)


class Embedded(nn.Module):
    @nn.compact
    def __call__(self, tokens, train=False):
        x = nn.Embed(10, WIDTH)(tokens)
        return jaxdrop.linen.NeftuneNoise(ALPHA, deterministic=not train)(x, mask=tokens > 0)


class NnxEmbedded(nnx.Module):
    def __init__(self):
        self.embed = nnx.Embed(10, WIDTH, rngs=nnx.Rngs(0))
        self.noise = jaxdrop.nnx.NeftuneNoise(ALPHA, rngs=nnx.Rngs(1))

    def __call__(self, tokens):
        return self.noise(self.embed(tokens), mask=tokens > 0)


def test_classes_are_the_function():
    own.check_classes("neftune_noise", (X,))
    expected = neftune_noise(key(), X, ALPHA, mask=MASK)
    layer = jaxdrop.linen.NeftuneNoise(ALPHA)
    given = layer.apply({}, X, deterministic=False, rng=key(), mask=MASK)
    assert_same_bits(given, expected)
    assert_same_bits(jaxdrop.nnx.NeftuneNoise(ALPHA)(X, rngs=key(), mask=MASK), expected)
    assert jaxdrop.nnx.NeftuneNoise(0.0)(X) is X


@each_framework
def test_adapters_turn_it_on(framework):
    tokens = jnp.array([[3, 4, 5, 0], [6, 0, 0, 0]])
    if framework == "linen":
        fn = mc.from_linen(Embedded(), Embedded().init(key(), tokens))
    else:
        fn = mc.from_nnx(NnxEmbedded())
    y, other = fn(key(1), tokens), fn(key(2), tokens)
    np.testing.assert_array_equal((y != other).any(-1), tokens > 0)
    (site,) = mc.audit(fn, key(), tokens).sites
    assert (site.kind, site.rate, site.live) == ("NeftuneNoise", None, True)
    out = mc.delta(fn, key(), tokens[:, :1])
    one = np.broadcast_to(ALPHA**2 / WIDTH / 3, (2, 1, WIDTH))
    np.testing.assert_allclose(out.variance, one, rtol=1e-4)
