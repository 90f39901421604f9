"""R-Drop and the multi-sample loss against their papers, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrop import dropout, multi_sample_loss, r_drop_loss
from tests.support.cases import OTHER_KEYS, data, key

LOGITS = data((2, 4, 3, 5))
LABELS = jnp.arange(12).reshape(4, 3) % 5


def wu(first, second, labels, weight):
    """Equations 2 to 4, an example at a time."""
    first, second = (np.asarray(a, np.float64).reshape(-1, a.shape[-1]) for a in (first, second))
    losses = []
    for a, b, label in zip(first, second, np.ravel(labels)):
        p, q = np.exp(a) / np.exp(a).sum(), np.exp(b) / np.exp(b).sum()
        divergence = (np.sum(p * np.log(p / q)) + np.sum(q * np.log(q / p))) / 2
        losses.append(-np.log(p[label]) - np.log(q[label]) + weight * divergence)
    return np.mean(losses)


@pytest.mark.parametrize("weight", [0.0, 1.0, 5.0])
def test_r_drop_is_equations_2_to_4_of_wu(weight):
    expected = wu(*LOGITS, LABELS, weight)
    np.testing.assert_allclose(r_drop_loss(*LOGITS, LABELS, weight=weight), expected, rtol=1e-6)
    jitted = jax.jit(lambda weight: r_drop_loss(*LOGITS, LABELS, weight=weight))(weight)
    np.testing.assert_allclose(jitted, expected, rtol=1e-6)
    np.testing.assert_allclose(
        r_drop_loss(LOGITS[0, 0, 0], LOGITS[1, 0, 0], 3, weight=weight),
        wu(LOGITS[0, :1, 0], LOGITS[1, :1, 0], [3], weight),
        rtol=1e-6,
    )


def test_r_drop_default_weight_is_1_and_the_passes_are_alike():
    loss = r_drop_loss(*LOGITS, LABELS)
    np.testing.assert_allclose(loss, r_drop_loss(*LOGITS, LABELS, weight=1))
    np.testing.assert_allclose(loss, r_drop_loss(*LOGITS[::-1], LABELS), rtol=1e-6)


def test_r_drop_of_narrow_logits_is_float32():
    narrow = LOGITS.astype(jnp.bfloat16)
    loss = r_drop_loss(*narrow, LABELS)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, wu(*narrow, LABELS, 1.0), rtol=1e-5)


def test_r_drop_is_stable_and_so_is_its_gradient():
    """Large logits, and classes that both passes rule out."""
    shifted = (LOGITS * 10).at[..., 4].set(-jnp.inf) + 1e4
    labels = LABELS % 4
    expected = wu(*(np.asarray(shifted, np.float64)[..., :4] - 1e4), labels, 1.0)
    loss, gradient = jax.value_and_grad(lambda logits: r_drop_loss(*logits, labels))(shifted)
    np.testing.assert_allclose(loss, expected, rtol=1e-3)
    assert np.isfinite(gradient).all()


def test_r_drop_gradient_is_that_of_differences():
    direction, step = data(LOGITS.shape[::-1]).T, 1e-5
    ends = [wu(*(np.asarray(LOGITS, np.float64) + s * np.asarray(direction)), LABELS, 2.0)
            for s in (-step, step)]  # fmt: skip
    _, slope = jax.jvp(lambda a: r_drop_loss(*a, LABELS, weight=2.0), (LOGITS,), (direction,))
    np.testing.assert_allclose(slope, (ends[1] - ends[0]) / (2 * step), rtol=1e-4)


@pytest.mark.parametrize("label", [-1, -3, 3, 100, 2**32])
@pytest.mark.parametrize("kind", [jnp.array, np.array, list])
def test_r_drop_refuses_what_is_no_class(label, kind):
    """-1 is the usual mark of no label, and 2**32 what an int32 takes for 0."""
    logits = data((4, 3))
    labels = (np.array if label == 2**32 else kind)([0, label, 2, 1])
    with pytest.raises(ValueError, match=rf"labels: expected classes in \[0, 3\), got .*{label}"):
        r_drop_loss(logits, logits, labels)
    with pytest.raises(ValueError, match="leave out examples without a label"):
        jax.jit(lambda x: r_drop_loss(x, x, labels))(logits)


def test_r_drop_of_two_classes():
    logits, labels = data((4, 2)), np.array([0, 1, 1, 0])
    expected = wu(logits, 3 * logits, labels, 1.0)
    np.testing.assert_allclose(r_drop_loss(logits, 3 * logits, labels), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="of two classes or more"):
        r_drop_loss(logits[:, :1], logits[:, :1], 0 * labels)


@pytest.mark.parametrize("label", [-1, -3, 3, 127])
@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int32])
def test_r_drop_of_a_traced_label_that_is_no_class_is_nan(label, dtype):
    """Its gradient too: a loss that nobody looks at must not go on training."""
    logits = data((4, 3))
    run = jax.jit(jax.value_and_grad(lambda x, labels: r_drop_loss(x, 2 * x, labels)))
    loss, gradient = run(logits, jnp.array([0, label, 2, 1], dtype))
    assert np.isnan(loss)
    assert np.isnan(gradient).any()
    labels = jnp.array([0, 2, 2, 1], dtype)
    np.testing.assert_allclose(run(logits, labels)[0], wu(logits, 2 * logits, labels, 1), rtol=1e-6)


def test_r_drop_takes_labels_of_any_integer_dtype():
    logits = data((2, 200))
    for dtype in (jnp.uint8, jnp.int16, jnp.uint32, np.int64):
        labels = np.array([3, 150]).astype(dtype)
        expected = wu(logits, 3 * logits, labels, 1.0)
        np.testing.assert_allclose(r_drop_loss(logits, 3 * logits, labels), expected, rtol=1e-5)


FEATURES = data((8, 32))


def head_loss(key, features, scale):
    return jnp.square(dropout(key, features, 0.5) * scale).sum()


@pytest.mark.parametrize("impl", ["threefry2x32", *OTHER_KEYS])
@pytest.mark.parametrize("num_samples", [1, 5])
def test_multi_sample_loss_is_the_mean_over_folded_keys(impl, num_samples):
    one = jax.random.key(0, impl=impl)
    scale = jnp.float32(3)
    losses = [head_loss(jax.random.fold_in(one, i), FEATURES, scale) for i in range(num_samples)]
    loss = multi_sample_loss(head_loss, one, FEATURES, scale, num_samples=num_samples)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-6)
    assert len({float(loss) for loss in losses}) == num_samples


def test_multi_sample_loss_takes_4_samples_by_default():
    one = key()
    expected = multi_sample_loss(head_loss, one, FEATURES, jnp.float32(1), num_samples=4)
    np.testing.assert_array_equal(
        multi_sample_loss(head_loss, one, FEATURES, jnp.float32(1)), expected
    )


def test_multi_sample_loss_averages_pytrees_and_legacy_keys():
    def losses(key):
        y = dropout(key, FEATURES, 0.5)
        return {"sum": y.sum(), "entries": y}

    mean = multi_sample_loss(losses, jax.random.PRNGKey(0), num_samples=3)
    each = [losses(jax.random.fold_in(jax.random.PRNGKey(0), i)) for i in range(3)]
    for name in ("sum", "entries"):
        expected = np.mean([e[name] for e in each], axis=0)
        np.testing.assert_allclose(mean[name], expected, rtol=1e-5, atol=1e-6)


def test_the_trunk_runs_once_for_all_samples():
    """Counted in the program of the gradient: its sine, and the cosine of the backward pass."""

    def loss(trunk_input):
        features = jnp.sin(trunk_input)
        return multi_sample_loss(head_loss, key(), features, jnp.float32(1), num_samples=7)

    text = str(jax.make_jaxpr(jax.grad(loss))(FEATURES))
    assert text.count(":f32[8,32] = sin") == 1
    assert text.count(":f32[8,32] = cos") == 1
    assert "f32[7,8,32] = sin" not in text
    gradient = jax.grad(loss)(FEATURES)
    assert np.isfinite(gradient).all()
