"""Classes that own parameters: those of `test_modules` with what they learn beside."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import functional, mc
from tests.flax.test_modules import HAS_PARAMETERS, Key, class_name
from tests.support.cases import assert_same_bits, data, key
from tests.support.models import each_framework

X = data((8, 6, 40))
# Of each function: the parameter of its class, its first value and shape, further arguments of
# both, arguments that nnx asks for, and the class's argument for the first value.
ROWS = {
    "concrete_dropout": ("rate_logit", np.log(0.1 / 0.9), (), {"temperature": 0.5}, (),
                         {"init_rate": 0.3}, np.log(0.3 / 0.7)),
    "variational_gaussian_dropout": ("log_alpha", -3.0, (40,), {}, (40,),
                                     {"init_log_alpha": -1.0}, -1.0),
}  # fmt: skip
each_name = pytest.mark.parametrize("name", ROWS)


def case(name):
    parameter, _, shape, arguments, sizes, start, level = ROWS[name]
    cls = class_name(name)

    def function(key, x):
        return getattr(functional, name)(key, x, jnp.full(shape, level, jnp.float32), **arguments)

    def of_linen(**more):
        return getattr(jaxdrop.linen, cls)(**arguments, **start, **more)

    def of_nnx(**more):
        return getattr(jaxdrop.nnx, cls)(*sizes, **arguments, **start, **more)

    return function, of_linen, of_nnx, parameter


def test_every_class_with_parameters_has_its_row():
    assert {*ROWS, "thinned_mlp"} == HAS_PARAMETERS  # test_thinned_mlp.py


@each_name
def test_first_value_of_the_parameter(name):
    parameter, value, shape, _, sizes, start, level = ROWS[name]
    cls = class_name(name)
    for arguments, expected in (({}, value), (start, level)):
        layer = getattr(jaxdrop.linen, cls)(deterministic=True, **arguments)
        variables = layer.init(key(), X)
        assert jax.tree.structure(variables) == jax.tree.structure({"params": {parameter: 0}})
        twin = getattr(jaxdrop.nnx, cls)(*sizes, **arguments)
        own = getattr(twin, parameter)
        assert isinstance(own, nnx.Param)
        for array in (variables["params"][parameter], own[...]):
            assert (array.shape, array.dtype) == (shape, jnp.float32)
            np.testing.assert_allclose(array, expected, rtol=1e-6)


@each_name
def test_function_and_both_classes_give_the_same_bits(name):
    function, of_linen, of_nnx, _ = case(name)
    layer = of_linen(deterministic=False)
    variables = layer.init({"params": key(), "dropout": key(1)}, X)
    assert_same_bits(layer.apply(variables, X, rng=key()), function(key(), X))
    y = layer.apply(variables, X, rngs={"dropout": key(1)})
    assert_same_bits(y, function(Key().apply({}, rngs={"dropout": key(1)}), X))
    y = of_linen(deterministic=False, rng_collection="noise").apply(
        variables, X, rngs={"noise": key(1)}
    )
    assert_same_bits(y, function(Key().apply({}, rngs={"dropout": key(1)}), X))

    layer = of_nnx(rngs=nnx.Rngs(1))
    assert_same_bits(layer(X, rngs=key()), function(key(), X))
    stream = nnx.Rngs(1).dropout.fork()
    for _ in range(2):
        assert_same_bits(layer(X), function(stream(), X))
    layer = of_nnx(rng_collection="noise", rngs=nnx.Rngs(noise=1, dropout=2))
    assert_same_bits(layer(X), function(nnx.Rngs(1).noise.fork()(), X))


@each_name
def test_switched_off_it_is_the_identity_and_needs_no_key(name):
    _, of_linen, of_nnx, _ = case(name)
    variables = of_linen(deterministic=True).init(key(), X)
    assert of_linen(deterministic=True).apply(variables, X) is X
    assert of_linen().apply(variables, X, deterministic=True) is X
    assert of_nnx(deterministic=True)(X) is X
    layer = of_nnx()
    layer.eval()
    assert layer(X) is X


@each_name
def test_parameter_learns_in_both_frameworks(name):
    """The gradient inside jit is that of the function by its level."""
    parameter, _, shape, arguments, _, _, level = ROWS[name]
    _, of_linen, of_nnx, _ = case(name)

    def power(y):
        return jnp.square(y).mean()

    def of_function(level):
        return power(getattr(functional, name)(key(), X, level, **arguments))

    expected = jax.grad(of_function)(jnp.full(shape, level, jnp.float32))
    layer = of_linen(deterministic=False)
    params = layer.init({"params": key(), "dropout": key(1)}, X)["params"]
    gradient = jax.jit(
        jax.grad(lambda params: power(layer.apply({"params": params}, X, rng=key())))
    )(params)
    np.testing.assert_allclose(gradient[parameter], expected, rtol=1e-5, atol=1e-9)

    gradient = nnx.jit(nnx.grad(lambda model: power(model(X, rngs=key()))))(of_nnx())
    np.testing.assert_allclose(gradient[parameter][...], expected, rtol=1e-5, atol=1e-9)
    assert (np.asarray(expected) != 0).all()


@each_framework
@each_name
def test_adapters_turn_it_on_and_the_audit_lists_it(framework, name):
    function, of_linen, of_nnx, _ = case(name)
    if framework == "linen":
        layer = nn.Sequential([of_linen(deterministic=True)])
        fn = mc.from_linen(layer, layer.init(key(), X))
        path = "layers_0"
    else:
        fn, path = mc.from_nnx(nnx.Sequential(of_nnx(deterministic=True))), "layers/0"
    y, other = fn(key(1), X), fn(key(2), X)
    assert (y != other).mean() > 0.5
    assert y.shape == function(key(), X).shape
    assert mc.audit(fn, key(), X).sites == (mc.Site(path, class_name(name), None, X.shape, True),)


# What ConcreteDropout adds to a loss.

WEIGHTS = {"num_features": 40, "weight_decay": 0.01, "entropy_weight": 0.1}


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = jaxdrop.linen.ConcreteDropout(0.3, deterministic=False)(x)
        return nn.Dense(4)(x)


def test_recipe_of_the_linen_class_is_the_regularizer():
    model = Linen()
    variables = model.init({"params": key(), "dropout": key(1)}, X)
    assert set(variables) == {"params"}

    @jax.jit
    @jax.value_and_grad
    def penalty(params):
        _, state = model.apply({"params": params}, X, rngs={"dropout": key(2)}, mutable="concrete")
        added = WEIGHTS["entropy_weight"] * sum(jax.tree.leaves(state["concrete"]))
        return added + jaxdrop.concrete_regularizer(
            params["ConcreteDropout_0"]["rate_logit"],
            params["Dense_0"],
            num_features=0,
            weight_decay=WEIGHTS["weight_decay"],
            entropy_weight=0.0,
        )

    @jax.value_and_grad
    def expected(params):
        own = params["ConcreteDropout_0"]["rate_logit"]
        return jaxdrop.concrete_regularizer(own, params["Dense_0"], **WEIGHTS)

    params = variables["params"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), penalty(params), expected(params)
    )


def test_a_shared_linen_layer_counts_once():
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            drop = jaxdrop.linen.ConcreteDropout(0.3, deterministic=False)
            return drop(drop(x))

    rngs = {"dropout": key(1)}
    variables = Shared().init({"params": key(), **rngs}, X)
    _, state = Shared().apply(variables, X, rngs={"dropout": key(2)}, mutable="concrete")
    (term,) = jax.tree.leaves(state["concrete"])
    np.testing.assert_allclose(term, 40 * (0.3 * np.log(0.3) + 0.7 * np.log(0.7)), rtol=1e-5)


class Nnx(nnx.Module):
    def __init__(self):
        self.dropout = jaxdrop.nnx.ConcreteDropout(0.3, rngs=nnx.Rngs(2))
        self.linear = nnx.Linear(40, 4, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.linear(self.dropout(x))

    def penalty(self):
        return self.dropout.regularizer([self.linear.kernel, self.linear.bias], **WEIGHTS)


def test_regularizer_of_the_nnx_class_is_the_function():
    model = Nnx()
    weights = [model.linear.kernel[...], model.linear.bias[...]]
    logit = model.dropout.rate_logit[...]
    value, gradient = nnx.jit(nnx.value_and_grad(lambda model: model.penalty()))(model)
    expected, slope = jax.value_and_grad(jaxdrop.concrete_regularizer)(logit, weights, **WEIGHTS)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient["dropout"]["rate_logit"][...], slope, rtol=1e-5)
    np.testing.assert_allclose(
        gradient["linear"]["kernel"][...], 2 * 0.01 * weights[0] / 0.7, rtol=1e-4, atol=1e-8
    )


def test_an_optimizer_of_nnx_moves_the_rate():
    model = Nnx()
    with jax.numpy_dtype_promotion("standard"):  # for Optax
        optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer):
            def loss(model):
                return jnp.square(model(X)).mean() + model.penalty()

            optimizer.update(model, nnx.grad(loss)(model))

        before = float(model.dropout.rate_logit[...])
        step(model, optimizer)
    assert abs(float(model.dropout.rate_logit[...]) - before) > 0.05
