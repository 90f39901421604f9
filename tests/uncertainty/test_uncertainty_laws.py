"""What holds for every metric of regression, detection and acquisition; a table of cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxdrop import uncertainty
from tests.uncertainty import test_uncertainty

_RNG = np.random.default_rng(0)


def _normal(*shape):
    return _RNG.normal(size=shape).astype(np.float32)


def _simplex(*shape):
    return special.softmax(2 * _normal(*shape), axis=-1).astype(np.float32)


_MEAN, _VARIANCE, _TARGETS = _normal(6, 30), np.exp(_normal(6, 30)), 2 * _normal(6, 30)
_MEANS, _VARIANCES = _normal(6, 7, 30), np.exp(_normal(6, 7, 30))
_WRONG = _RNG.random((6, 30)) < 0.4
_LABELS = _RNG.integers(0, 4, (6, 30))


def _with_precision(means, targets):
    return uncertainty.mixture_log_likelihood(means, targets, precision=2.0)


def _with_variances(means, variances, targets):
    return uncertainty.mixture_log_likelihood(means, targets, variances=variances)


def _fair(samples, targets):
    return uncertainty.sample_crps(samples, targets, fair=True)


def _batch(probabilities):
    return uncertainty.batch_bald(probabilities, 3)


def _split(rule):
    return lambda probabilities: uncertainty.scoring_rule_split(probabilities, rule)


def _alpha(scores):
    return uncertainty.conformal_quantile(scores, 0.2)


def _interval(mean, deviation):
    return uncertainty.conformal_interval(mean, 1.5, deviation)


def _report(mean, variance, targets):
    return uncertainty.report((mean, variance), targets)


# Arguments have a leading axis of 6, which vmap takes away.
CASES = {
    "variance_split": (uncertainty.variance_split, _MEANS, _VARIANCES),
    "gaussian_negative_log_likelihood": (
        uncertainty.gaussian_negative_log_likelihood,
        *(_MEAN, _VARIANCE, _TARGETS),
    ),
    "mixture_log_likelihood": (_with_precision, _MEANS, _TARGETS),
    "mixture_log_likelihood, predicted": (_with_variances, _MEANS, _VARIANCES, _TARGETS),
    "gaussian_crps": (uncertainty.gaussian_crps, _MEAN, _VARIANCE, _TARGETS),
    "sample_crps": (uncertainty.sample_crps, _MEANS, _TARGETS),
    "sample_crps, fair": (_fair, _MEANS, _TARGETS),
    "root_mean_squared_error": (uncertainty.root_mean_squared_error, _MEAN, _TARGETS),
    "interval_coverage": (uncertainty.interval_coverage, _MEAN - 1, _MEAN + 1, _TARGETS),
    "interval_width": (uncertainty.interval_width, _MEAN, _MEAN + _VARIANCE),
    "quantile_curve": (uncertainty.quantile_curve, _MEAN, _VARIANCE, _TARGETS),
    "quantile_calibration_error": (
        uncertainty.quantile_calibration_error,
        *(_MEAN, _VARIANCE, _TARGETS),
    ),
    "auroc": (uncertainty.auroc, _MEAN, _WRONG),
    "area_under_risk_coverage": (uncertainty.area_under_risk_coverage, _MEAN, _VARIANCE),
    "temperature_scaling": (uncertainty.temperature_scaling, _normal(6, 30, 4), _LABELS),
    "variance_scaling": (uncertainty.variance_scaling, _MEAN, _VARIANCE, _TARGETS),
    "conformal_quantile": (_alpha, _VARIANCE),
    "conformal_interval": (_interval, _MEAN, _VARIANCE),
    "report": (_report, _MEAN, _VARIANCE, _TARGETS),
    "mean_std": (uncertainty.mean_std, _simplex(6, 7, 4)),
    "batch_bald": (_batch, _simplex(6, 7, 9, 4)),
    "epig": (uncertainty.epig, _simplex(6, 7, 9, 4), _simplex(6, 7, 5, 3)),
    "epistemic_by_class": (uncertainty.epistemic_by_class, _simplex(6, 7, 4)),
    "scoring_rule_split, log": (_split("log"), _simplex(6, 7, 4)),
    "scoring_rule_split, brier": (_split("brier"), _simplex(6, 7, 4)),
    "scoring_rule_split, zero_one": (_split("zero_one"), _simplex(6, 7, 4)),
    "joint_log_likelihood": (uncertainty.joint_log_likelihood, _simplex(6, 7, 30, 4), _LABELS),
    "false_positive_rate": (uncertainty.false_positive_rate, _MEAN, _WRONG),
    "area_under_generalized_risk_coverage": (
        uncertainty.area_under_generalized_risk_coverage,
        *(_MEAN, _VARIANCE),
    ),
    "smooth_calibration_error": (
        uncertainty.smooth_calibration_error,
        *(_simplex(6, 30, 4), _LABELS),
    ),
}
PER_EXAMPLE = (
    "conformal_interval",
    "variance_split",
    "mean_std",
    "batch_bald",
    "epig",
    "epistemic_by_class",
    "scoring_rule_split",
)
each = pytest.mark.parametrize("name", CASES)


def _case(name, dtype=np.float32, index=0):
    fn, *arguments = CASES[name]
    return fn, [_cast(x, dtype)[index] for x in arguments]


def _cast(x, dtype):
    return jnp.asarray(x, dtype if np.issubdtype(x.dtype, np.floating) else None)


def _dtypes(tree):
    leaves = jax.tree.leaves(tree)
    return {leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}


def _close(got, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), got, expected)


def test_every_public_name_has_a_case():
    functions = {name for name in uncertainty.__all__ if name[0].islower()}
    older = {fn.__name__ for fn in test_uncertainty.EVERY}
    assert functions == older | {name.split(",")[0] for name in CASES}
    assert all(hasattr(uncertainty, name) for name in uncertainty.__all__)


@pytest.mark.usefixtures("jitted")
@each
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_narrow_floats_are_widened(name, dtype):
    fn, narrow = _case(name, dtype)
    wide = [x.astype(jnp.float32) if x.dtype == dtype else x for x in narrow]
    got = fn(*narrow)
    assert _dtypes(got) == {np.dtype(np.float32)}
    _close(got, jax.jit(fn)(*wide), rtol=1e-4)  # traced: rows rounded to 16 bits may miss 1


@each
def test_float64_is_kept(name):
    with jax.enable_x64(True):
        fn, wide = _case(name, np.float64)
        _, near = _case(name)
        assert _dtypes(fn(*wide)) == {np.dtype(np.float64)}
        assert _dtypes(fn(*near)) == {np.dtype(np.float32)}
        _close(fn(*wide), fn(*near), rtol=1e-4)


@each
def test_jit_and_vmap_change_nothing(name):
    fn, given = _case(name)
    _close(jax.jit(fn)(*given), fn(*given))
    loop = [fn(*_case(name, index=i)[1]) for i in range(6)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
    _, every = _case(name, index=slice(None))
    _close(jax.vmap(fn)(*every), stacked)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(PER_EXAMPLE)])
def test_order_of_examples_does_not_matter(name):
    fn, given = _case(name)
    turned = [x[:, ::-1] if x.shape[:2] == (7, 30) else x[::-1] for x in given]
    _close(fn(*turned), fn(*given))


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
@pytest.mark.parametrize("name", [name for name in CASES if name != "area_under_risk_coverage"])
def test_traced_nan_stays_nan(name):  # the one left out takes NaN as the most uncertain
    fn, given = _case(name)
    for i, x in enumerate(given):
        if jnp.issubdtype(x.dtype, jnp.floating):
            bad = x.at[..., 0].set(jnp.nan)
            got = jax.tree.leaves(jax.jit(fn)(*given[:i], bad, *given[i + 1 :]))
            assert any(np.isnan(leaf).any() for leaf in got), i


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
@each
def test_known_values_are_checked_inside_a_trace_and_traced_ones_are_not(name):
    fn, given = _case(name)
    bad = [given[0] * jnp.nan, *given[1:]]
    jax.jit(fn)(*bad)
    jax.jit(lambda x: (x, fn(*given)))(1.0)
    with pytest.raises(ValueError, match=r"expected .*numbers.* got .*(nan|NaN)"):
        jax.jit(lambda x: (x, fn(*bad)))(1.0)


@each
def test_gradients_are_finite(name):
    fn, given = _case(name)
    floating = [i for i, x in enumerate(given) if jnp.issubdtype(x.dtype, jnp.floating)]

    def total(*arguments):
        leaves = jax.tree.leaves(fn(*arguments))
        return sum(x.sum() for x in leaves if jnp.issubdtype(x.dtype, jnp.floating))

    for slope in jax.grad(total, floating)(*given):
        assert np.isfinite(slope).all()


def test_python_numbers_have_no_say_in_the_dtype():
    with jax.enable_x64(True):
        mean = np.ones(3, np.float32)
        assert uncertainty.gaussian_crps(mean, 2.0, mean).dtype == np.float32
        assert _with_precision(mean[None], mean).dtype == np.float32
        assert uncertainty.gaussian_crps(mean, np.float64(2), np.ones(3)).dtype == np.float64
