"""Laws of the recurrent cells: rates, independence, gradients, ends, traced values, errors."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import mc
from jaxdrop.functional import _recurrent
from jaxdrop.linen import VariationalCell, WeightDropCell, ZoneoutCell
from tests.support import cells, reference
from tests.support.cases import assert_probability, assert_same_bits, data, key
from tests.support.cells import BATCH, FEATURES, HIDDEN, INPUTS, STEPS

ON = {"deterministic": False}
WIDE = 64  # examples, features and units of the masks that are counted: whole words


@functools.cache
def masks():
    """Every mask of a cell by name, each an array of booleans of whole words."""
    cell = VariationalCell(
        WeightDropCell(nn.LSTMCell(WIDE), 0.25, **ON), 0.3, 0.1, 0.5, tied=False, **ON
    )
    carry = cell.initialize_carry(key(4), (WIDE, WIDE))
    parts = carry.masks._asdict() | {"kernel": carry.state.masks.kernels}
    found = {
        f"{part} {number}": cells.keep_bits(words, WIDE).reshape(-1, WIDE)
        for part, masks in parts.items()
        for number, words in enumerate(masks)
    }
    assert len(found) == 4 + 4 + 1 + 4
    return found


RATE = {"input": 0.3, "state": 0.1, "output": 0.5, "kernel": 0.25}


@pytest.mark.parametrize("part", RATE)
def test_rate_is_the_asked_one(part):
    kept = [mask for name, mask in masks().items() if name.startswith(part)]
    hits, draws = sum(m.sum() for m in kept), sum(m.size for m in kept)
    assert_probability(hits, draws, reference.keep_probability(RATE[part]))


def test_masks_of_parts_gates_and_kernels_are_independent():
    for (first, a), (second, b) in itertools.combinations(masks().items(), 2):
        p, q = (float(reference.keep_probability(RATE[n.split()[0]])) for n in (first, second))
        assert_probability((a == b).sum(), a.size, p * q + (1 - p) * (1 - q))


@pytest.mark.parametrize("name", ["input 0", "state 3", "output 0"])
def test_masks_of_examples_are_independent(name):
    mask = masks()[name]
    p = float(reference.keep_probability(RATE[name.split()[0]]))
    for shift in (1, 2, WIDE // 2):
        same = (mask[shift:] == mask[:-shift])[: WIDE - shift]
        assert_probability(same.sum(), same.size, p * p + (1 - p) ** 2)


def stacked(framework, wrap, layers=2):
    """Outputs ``(of two layers one on the other, of two directions)`` of cells that show masks.

    Every output is a mask times something that is not zero, so zeros are what is dropped.
    """
    x = jnp.ones((8, 3, WIDE))
    if framework == "linen":
        cell = lambda: wrap(jaxdrop.linen, nn.GRUCell(WIDE), **ON)  # noqa: E731
        both = nn.Bidirectional(nn.RNN(cell()), nn.RNN(cell()))
        stack = [nn.RNN(cell()), nn.RNN(cell())]
        models = nn.Sequential(stack), both
        apply = lambda m: m.apply(m.init(key(0), x), x, rngs={"dropout": key(1)})  # noqa: E731
        first = nn.Sequential(stack[:1])
        return apply(first), apply(models[0]), apply(both)
    rngs = nnx.Rngs(0)
    cell = lambda: wrap(jaxdrop.nnx, nnx.GRUCell(WIDE, WIDE, rngs=rngs), rngs=rngs)  # noqa: E731
    layers = nnx.RNN(cell()), nnx.RNN(cell())
    first = layers[0](x)
    both = nnx.Bidirectional(nnx.RNN(cell()), nnx.RNN(cell()))
    return first, layers[1](first), both(x)


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_layers_and_directions_have_masks_of_their_own(framework):
    wrap = lambda floor, cell, **options: floor.VariationalCell(cell, 0, 0, 0.5, **options)  # noqa: E731
    first, second, both = (np.asarray(y) != 0 for y in stacked(framework, wrap))
    for kept in (first, second, both):  # the same at every step
        assert (kept == kept[:, :1]).all()
    for a, b in ((first, second), (both[..., :WIDE], both[..., WIDE:])):
        assert_probability((a[:, 0] == b[:, 0]).sum(), a[:, 0].size, 0.5)
        assert_probability(a[:, 0].sum(), a[:, 0].size, 0.5)


def test_nested_wrappers_of_one_kind_have_masks_of_their_own():
    cell = VariationalCell(VariationalCell(nn.GRUCell(WIDE), 0.5, **ON), 0.5, **ON)
    carry = cell.initialize_carry(key(1), (WIDE, WIDE))
    inner, outer = (cells.keep_bits(m.input[0], WIDE) for m in (carry.state.masks, carry.masks))
    assert_probability((inner == outer).sum(), inner.size, 0.5)


def test_nested_wrappers_act_on_the_innermost_cell():
    """In either order: zoneout takes the whole state, and the output mask comes last."""
    order = (
        lambda cell: VariationalCell(ZoneoutCell(cell, 0.4, **ON), 0, 0.5, 0.5, **ON),
        lambda cell: ZoneoutCell(VariationalCell(cell, 0, 0.5, 0.5, **ON), 0.4, **ON),
    )
    params = {"params": nn.RNN(nn.GRUCell(HIDDEN)).init(key(2), INPUTS)["params"]["cell"]}
    variational = VariationalCell(nn.GRUCell(HIDDEN), 0, 0.5, 0.5, **ON)
    zoneout = ZoneoutCell(nn.GRUCell(HIDDEN), 0.4, **ON)
    masks, clock = (
        c.initialize_carry(key(n), (BATCH, FEATURES)).masks
        for n, c in enumerate((variational, zoneout))
    )
    outputs = []
    for wrap, (first, second) in zip(order, ((clock, masks), (masks, clock))):
        cell = wrap(nn.GRUCell(HIDDEN))
        carry = cell.initialize_carry(key(1), (BATCH, FEATURES))
        inner = carry.state._replace(masks=first)
        carry = carry._replace(state=inner, masks=second)
        run = nn.RNN(cell).apply
        outputs.append(run({"params": {"cell": params["params"]}}, INPUTS, initial_carry=carry))
    assert_same_bits(*outputs)


WRAPPERS = {
    "tied": lambda cell, **f: VariationalCell(cell, 0.3, 0.3, 0.3, **f),
    "untied": lambda cell, **f: VariationalCell(cell, 0.3, 0.3, 0.3, tied=False, **f),
    "weights": lambda cell, **f: WeightDropCell(cell, 0.4, **f),
    "zoneout": lambda cell, **f: ZoneoutCell(cell, 0.1, **f),
}
each_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@pytest.mark.slow
@each_wrapper
@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell])
def test_gradient_over_500_steps_is_that_of_finite_differences(wrap, kind):
    with jax.enable_x64(True):
        rnn = nn.RNN(wrap(kind(4, param_dtype=jnp.float64), **ON))
        x = data((2, 500, 3), jnp.float64)
        variables = nn.RNN(rnn.cell.cell).init(key(0), x)
        target = data((2, 500, 4), jnp.float64)

        @jax.jit
        def loss(variables):
            return (rnn.apply(variables, x, rngs={"dropout": key(1)}) * target).sum()

        gradient = jax.jit(jax.grad(loss))(variables)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        direction = jax.tree.map(lambda leaf: data(leaf.shape, jnp.float64), variables)
        slope = sum((g * d).sum() for g, d in zip(*map(jax.tree.leaves, (gradient, direction))))
        ends = (
            loss(jax.tree.map(lambda leaf, d, s=sign: leaf + s * 1e-6 * d, variables, direction))
            for sign in (1, -1)
        )
        difference = np.subtract(*map(float, ends)) / 2e-6
        assert float(slope) == pytest.approx(difference, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell])
@pytest.mark.parametrize("traced", [False, True])
def test_rate_1_drops_all_and_the_gradient_is_finite(kind, traced):
    variables = nn.RNN(kind(HIDDEN)).init(key(0), INPUTS)

    def outputs(variables, rates, wrap):
        return nn.RNN(wrap(kind(HIDDEN), *rates, **ON)).apply(
            variables, INPUTS, rngs={"dropout": key(1)}
        )

    def check(wrap, rates, expected):
        @functools.partial(jax.jit, static_argnums=() if traced else (1,))
        def run(variables, rates):
            y, pull = jax.vjp(lambda v: outputs(v, rates, wrap), variables)
            return y, pull(jnp.ones_like(y))

        y, gradient = run(variables, rates)
        np.testing.assert_allclose(y, expected, atol=1e-6)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))

    # With all kernels of the state, or the state, dropped, nothing is remembered by the gates.
    silent = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * float(path[2].key[0] != "h" or path[3].key != "kernel"),
        variables,
    )
    forgetful = nn.RNN(kind(HIDDEN)).apply(silent, INPUTS)
    check(WeightDropCell, (1.0,), forgetful)
    check(VariationalCell, (0.0, 1.0, 0.0), forgetful)
    check(VariationalCell, (0.0, 0.0, 1.0), np.zeros((BATCH, STEPS, HIDDEN)))
    check(ZoneoutCell, (1.0,), np.zeros((BATCH, STEPS, HIDDEN)))


@pytest.mark.parametrize("name", ["variational", "weights", "zoneout"])
def test_rate_and_flag_may_be_traced_and_share_one_program(name):
    wrap = {
        "variational": lambda c, rate, **f: VariationalCell(c, rate, rate, rate, **f),
        "weights": WeightDropCell,
        "zoneout": ZoneoutCell,
    }[name]
    variables = nn.RNN(nn.LSTMCell(HIDDEN)).init(key(0), INPUTS)
    traces = []

    def outputs(rate, flag):
        rnn = nn.RNN(wrap(nn.LSTMCell(HIDDEN), rate, deterministic=flag))
        return rnn.apply(variables, INPUTS, rngs={"dropout": key(1)})

    @jax.jit
    def run(rate, flag):
        traces.append(1)
        return outputs(rate, flag)

    for rate, flag in ((0.3, False), (0.6, False), (0.3, True)):
        cells.assert_close(run(rate, flag), outputs(rate, flag))
    assert len(traces) == 1


class Own(nn.RNNCellBase):
    """A cell that is none of Flax's: a layer for the state and a counter in the carry."""

    recurrent_name: str = "recurrent"

    @nn.compact
    def __call__(self, carry, inputs):
        count, h = carry
        layer = nn.Dense(HIDDEN, name=self.recurrent_name)
        h = jnp.tanh(nn.Dense(HIDDEN, name="first")(inputs) + layer(h))
        return (count + 1, h), h

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros(input_shape[:-1], jnp.int32), jnp.ones((*input_shape[:-1], HIDDEN))

    @property
    def num_feature_axes(self):
        return 1


def test_a_cell_of_ones_own_is_dropped_from_as_a_whole():
    cell = VariationalCell(Own(), 0.5, 0.5, **ON)
    carry = cell.initialize_carry(key(1), (BATCH, FEATURES))
    variables = Own().init(key(0), carry.state, INPUTS[:, 0])
    x, h = (
        cells.keep_bits(words[0], features) * np.float32(2)
        for words, features in zip(carry.masks, (FEATURES, HIDDEN))
    )
    expected = Own().apply(variables, (carry.state[0], carry.state[1] * h), INPUTS[:, 0] * x)
    last, output = cell.apply(variables, carry, INPUTS[:, 0])
    cells.assert_close(output, expected[1])
    jax.tree.map(cells.assert_close, last.state, expected[0])
    for wrap in (WeightDropCell, ZoneoutCell):
        rnn = nn.RNN(wrap(Own(), 0.5, **ON))
        run = rnn.apply({"params": {"cell": variables["params"]}}, INPUTS, rngs={"dropout": key()})
        plain = nn.RNN(Own()).apply({"params": {"cell": variables["params"]}}, INPUTS)
        assert not np.allclose(run, plain, atol=1e-3)


def test_batches_of_any_rank():
    for shape in ((), (2,), (2, 3)):
        x = data((*shape, STEPS, FEATURES))
        cell = VariationalCell(WeightDropCell(nn.GRUCell(HIDDEN), 0.5, **ON), 0.5, 0.5, 0.5, **ON)
        y, _ = nn.RNN(cell).init_with_output({"params": key(0), "dropout": key(1)}, x)
        assert y.shape == (*shape, STEPS, HIDDEN)


WRAPPERS = {
    "variational": lambda cell, floor: floor.VariationalCell(cell, 0.5, 0.5, 0.5, **ON),
    "untied": lambda cell, floor: floor.VariationalCell(cell, 0.5, 0.5, tied=False, **ON),
    "weights": lambda cell, floor: floor.WeightDropCell(cell, 0.5, **ON),
    "zoneout": lambda cell, floor: floor.ZoneoutCell(cell, 0.5, **ON),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("features", [3, 32])
def test_a_batch_of_none(wrapper, features):
    """As Flax's cells take it."""
    x = jnp.ones((2, STEPS, features))
    for framework in ("linen", "nnx"):
        wrap = functools.partial(WRAPPERS[wrapper], floor=getattr(jaxdrop, framework))
        if framework == "linen":
            model = nn.RNN(wrap(nn.LSTMCell(HIDDEN)))
            fn = mc.from_linen(model, model.init({"params": key(), "dropout": key(1)}, x))
        else:
            cell = wrap(nnx.LSTMCell(features, HIDDEN, rngs=nnx.Rngs(0)))
            fn = mc.from_nnx(nnx.RNN(cell))
        for run in (fn, jax.jit(fn)):
            assert run(key(), x[:0]).shape == (0, STEPS, HIDDEN)
        assert fn(key(), x).shape == (2, STEPS, HIDDEN)


def _gru(rate):
    return nn.RNN(ZoneoutCell(nn.GRUCell(HIDDEN), rate, **ON)).init(key(), INPUTS)


def _step(carry_of):
    """One step from the carry that ``carry_of(wrapped, plain cell)`` gives."""
    cell = nn.LSTMCell(HIDDEN)
    wrapped = VariationalCell(cell, 0.5, **ON)
    params = cell.init(key(), _initial(cell), INPUTS[:, 0])
    return wrapped.apply(params, carry_of(wrapped, cell), INPUTS[:, 0])


def _initial(cell, shape=(BATCH, FEATURES)):
    return cell.initialize_carry(key(), shape)


def _nnx(wrap):
    """All steps of an nnx cell that ``wrap`` wraps."""
    return nnx.RNN(wrap(nnx.LSTMCell(FEATURES, HIDDEN, rngs=nnx.Rngs(0))))(INPUTS)


_LSTM, _CONV = nn.LSTMCell(HIDDEN), nn.ConvLSTMCell(4, (3,))
# What raises, by the error and the words of its message.
CALL_ERRORS = {
    (TypeError, "expected a CellCarry .* got tuple.* initialize_carry"): lambda: _step(
        lambda wrapped, cell: _initial(cell)
    ),
    (ValueError, "input: expected the shape .* got shape .* initialize_carry"): lambda: _step(
        lambda wrapped, cell: _initial(wrapped, (2, FEATURES))
    ),
    (ValueError, "deterministic"): lambda: _initial(VariationalCell(_LSTM, 0.5)),
    (ValueError, "tied: expected True .* ConvLSTMCell; write tied=True"): lambda: _initial(
        VariationalCell(_CONV, 0.5, tied=False, **ON), (2, 6, 3)
    ),
    (ValueError, r"in \[0, 1\], got 1.5"): lambda: _initial(WeightDropCell(_LSTM, 1.5, **ON)),
    (TypeError, "got True"): lambda: _initial(VariationalCell(_LSTM, 0.5, True, **ON)),
    (ValueError, "cell: expected hidden-to-hidden kernels, .* of Own; rename"): lambda: _initial(
        WeightDropCell(Own("other"), 0.5, **ON)
    ),
    (ValueError, "rate: expected one rate, or a pair .* got 2 rates for 1"): lambda: _gru(
        (0.5, 0.1)
    ),
    (ValueError, "rngs: expected nnx.Rngs .* got None; write WeightDropCell"): lambda: _nnx(
        lambda cell: jaxdrop.nnx.WeightDropCell(cell, 0.5)
    ),
    (ValueError, "No `deterministic`"): lambda: _nnx(
        lambda cell: jaxdrop.nnx.VariationalCell(cell, 0.5, deterministic=None, rngs=nnx.Rngs(0))
    ),
    (TypeError, "rngs must be"): lambda: _nnx(
        lambda cell: jaxdrop.nnx.ZoneoutCell(cell, 0.5, rngs=0)
    ),
}


@pytest.mark.parametrize(("error", "words"), CALL_ERRORS)
def test_errors_say_what_was_expected_what_came_and_what_to_do(error, words):
    with pytest.raises(error, match=words):
        CALL_ERRORS[error, words]()


def test_masks_of_a_carry_with_traced_rates_and_flags():
    x = data((4, 40))

    def dropped(rate, flag):
        words = _recurrent.draw_words(key(), rate, flag, x.shape)
        return _recurrent.apply_words(words, rate, flag, x, "x")

    known = dropped(0.3, False)
    assert (known == 0).any() and (known != 0).any()
    for call in (
        jax.jit(dropped),
        lambda rate, flag: jax.jit(lambda flag: dropped(rate, flag))(flag),
        lambda rate, flag: jax.jit(lambda rate: dropped(rate, flag))(rate),
    ):
        np.testing.assert_allclose(call(0.3, False), known, rtol=1e-6)
        assert_same_bits(call(0.3, True), x)
