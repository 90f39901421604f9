"""The equations of Flax's cells in NumPy, with masks, for the tests of the recurrent cells.

Independent of Flax and of the wrappers: a loop over time in float64 that multiplies by masks. The
masks are what `jaxdrop.dropout` makes of ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax.extend import core

import jaxdrop
from tests.support.cases import data

BATCH, STEPS, FEATURES, HIDDEN = 3, 5, 6, 8
GATES = {"LSTMCell": "ifgo", "GRUCell": "rzn", "MGUCell": "fn", "SimpleCell": ("",)}
GATES["OptimizedLSTMCell"] = "ifgo"
INPUTS = data((BATCH, STEPS, FEATURES))


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _lstm(gate, state):
    c, _ = state
    c = _sigmoid(gate("f")) * c + _sigmoid(gate("i")) * np.tanh(gate("g"))
    return c, _sigmoid(gate("o")) * np.tanh(c)


def _gru(gate, state):
    (h,) = state
    r, z = _sigmoid(gate("r")), _sigmoid(gate("z"))
    n = np.tanh(gate("n", scale=r))
    return ((1 - z) * n + z * h,)


def _mgu(gate, state):
    (h,) = state
    f = _sigmoid(gate("f"))
    return ((1 - f) * np.tanh(gate("n", scale=f)) + f * h,)


def _simple(gate, state):
    return (np.tanh(gate("")),)


_STEPS = {"GRUCell": _gru, "MGUCell": _mgu, "SimpleCell": _simple}


def unrolled(kind, weights, inputs, masks=((1.0,), (1.0,), 1.0), update=None):
    """Outputs of every step, of shape (B, L, H), and the last state.

    Args:
        kind: name of the cell.
        weights: for each gate kernels and biases ``(of the input, of the state)``.
        inputs: of shape (B, L, F).
        masks: of the input and of the state, for each gate or one for all; and of the output.
        update: ``update(step, old, new)`` of the state, if any.
    """
    zeros = np.zeros((inputs.shape[0], HIDDEN))
    state = (zeros, zeros) if "LSTM" in kind else (zeros,)
    outputs = []
    for step in range(inputs.shape[1]):
        x = np.asarray(inputs[:, step], np.float64)

        def gate(name, scale=1.0, x=x, h=state[-1]):
            number = GATES[kind].index(name)
            of_input, of_state = (m[number if len(m) > 1 else 0] for m in masks[:2])
            (w, b), (u, d) = weights[name]
            return (x * of_input) @ w + b + scale * ((h * of_state) @ u + d)

        new = _STEPS.get(kind, _lstm)(gate, state)
        state = new if update is None else update(step, state, new)
        outputs.append(state[-1] * masks[2])
    return np.stack(outputs, 1), state


def linen_weights(params):
    """Weights by gate, from the parameters of a linen cell."""

    def layer(name):
        wide = {k: np.asarray(v, np.float64) for k, v in params[name].items()}
        return wide["kernel"], wide.get("bias", 0.0)

    return {name[1:]: (layer("i" + name[1:]), layer(name)) for name in params if name[0] == "h"}


def nnx_weights(cell):
    """Weights by gate, from an nnx cell."""
    kind = type(cell).__name__
    gates = GATES[kind]
    if kind == "LSTMCell":
        names = {gate: ("if_" if gate == "f" else "i" + gate, "h" + gate) for gate in gates}
        return {g: [_whole(getattr(cell, n)) for n in pair] for g, pair in names.items()}
    fused = [_whole(cell.dense_i), _whole(cell.dense_h)]
    return {gate: [_cut(layer, number) for layer in fused] for number, gate in enumerate(gates)}


def _whole(linear):
    bias = 0.0 if linear.bias is None else np.asarray(linear.bias[...], np.float64)
    return np.asarray(linear.kernel[...], np.float64), bias


def _cut(layer, number):
    kernel, bias = layer
    own = slice(number * HIDDEN, (number + 1) * HIDDEN)
    return kernel[:, own], bias if np.ndim(bias) == 0 else bias[own]


def scales(key, rate, shape):
    """What `jaxdrop.dropout` multiplies by: 0, or one over the keep probability."""
    return np.asarray(jaxdrop.dropout(key, jnp.ones(shape), rate), np.float64)


def variational_scales(key, rates, gates):
    """Masks for `unrolled` of a sequence key: one split for the parts, one for the gates."""
    keys = jax.random.split(key, 3)
    shapes = (BATCH, FEATURES), (BATCH, HIDDEN), (BATCH, HIDDEN)
    *parts, output = (
        [scales(k, rate, shape) for k in (jax.random.split(key, n) if n > 1 else [key])]
        for key, rate, shape, n in zip(keys, rates, shapes, (gates, gates, 1))
    )
    return *parts, output[0]


def keep_bits(words, features):
    """Booleans of packed words along the last axis."""
    words = np.asarray(words)
    bits = words[..., None] >> np.arange(32, dtype=np.uint32) & 1
    return bits.reshape(*words.shape[:-1], -1)[..., :features].astype(bool)


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6)


def scan_body(program):
    """The body of the one scan over time of a jaxpr."""
    (body,) = _bodies(program)
    return body


def _bodies(program):
    found = []
    for equation in program.eqns:
        if equation.primitive.name == "scan" and equation.params["length"] == STEPS:
            found.append(equation.params["jaxpr"].jaxpr)
            continue
        for inner in inner_programs(equation):
            found += _bodies(inner)
    return found


def assert_masks_are_constants(body):
    """JAX makes a constant of the loop of what its body hands on as it is, so it gives none out."""

    def masks(variables):
        return [v for v in variables if v.aval.dtype == jnp.uint32 and v.aval.ndim >= 2]

    assert masks(body.invars) and not masks(body.outvars)


def primitives(program):
    """Names of all primitives of a jaxpr and of those inside it."""
    for equation in program.eqns:
        yield equation.primitive.name
        for inner in inner_programs(equation):
            yield from primitives(inner)


def inner_programs(equation):
    for value in equation.params.values():
        for program in value if isinstance(value, tuple | list) else (value,):
            if isinstance(program, core.ClosedJaxpr):
                yield program.jaxpr
            elif isinstance(program, core.Jaxpr):
                yield program


LINEN = {
    kind.__name__: kind
    for kind in (nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell, nn.MGUCell, nn.SimpleCell)
}
NNX = {
    kind.__name__: kind
    for kind in (nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell, nnx.SimpleCell)
}
