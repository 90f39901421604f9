"""The recurrent cells of linen: against unrolled equations, in Flax's RNN, switched off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdrop import drop_connect, zoneout
from jaxdrop.linen import VariationalCell, WeightDropCell, ZoneoutCell
from tests.flax.test_modules import Key
from tests.support import cells
from tests.support.cases import assert_same_bits, data, key
from tests.support.cells import BATCH, FEATURES, HIDDEN, INPUTS, STEPS, assert_close

RATES = (0.3, 0.4, 0.5)
ON = {"deterministic": False}
WRAPPERS = {
    "variational": lambda cell, **fields: VariationalCell(cell, *RATES, **fields),
    "weights": lambda cell, **fields: WeightDropCell(cell, 0.5, **fields),
    "zoneout": lambda cell, **fields: ZoneoutCell(cell, 0.3, **fields),
}
each_kind = pytest.mark.parametrize("kind", cells.LINEN)
each_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


def variables_of(kind, rnn=True):
    """Parameters of a plain cell with no bias at zero, in an RNN or alone."""
    plain = nn.RNN(cells.LINEN[kind](HIDDEN)).init(key(2), INPUTS)
    plain = jax.tree.map(lambda leaf: leaf + 0.1 * data(leaf.shape), plain)
    return plain if rnn else {"params": plain["params"]["cell"]}


def initial_carry(cell, kind, rngs=None):
    """The carry of a cell at the top of a model, and the key that its masks come from."""
    carry = cell.apply(
        variables_of(kind, rnn=False),
        key(3),
        (BATCH, FEATURES),
        method="initialize_carry",
        rngs=rngs or {"dropout": key(1)},
    )
    return carry, Key().apply({}, rngs={"dropout": key(1)})


def run(rnn, kind, *args, inputs=INPUTS, **kwargs):
    call = jax.jit(lambda variables, inputs: rnn.apply(variables, inputs, *args, **kwargs))
    return call(variables_of(kind), inputs)


@each_kind
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_variational_is_the_unrolled_equations(kind, tied):
    cell = VariationalCell(cells.LINEN[kind](HIDDEN), *RATES, tied=tied, **ON)
    carry, sequence_key = initial_carry(cell, kind)
    gates = 1 if tied else len(cells.GATES[kind])
    masks = cells.variational_scales(sequence_key, RATES, gates)
    weights = cells.linen_weights(variables_of(kind)["params"]["cell"])
    expected, state = cells.unrolled(kind, weights, INPUTS, masks)
    last, outputs = run(nn.RNN(cell, return_carry=True), kind, initial_carry=carry)
    assert_close(outputs, expected)
    jax.tree.map(assert_close, jax.tree.leaves(last.state), list(state))
    jax.tree.map(assert_same_bits, last.masks, carry.masks)


@each_kind
def test_weight_drop_is_the_plain_cell_with_dropped_kernels(kind):
    cell = WeightDropCell(cells.LINEN[kind](HIDDEN), 0.5, **ON)
    carry, sequence_key = initial_carry(cell, kind)
    where = lambda path, leaf: path[0][0] == "h" and path[1] == "kernel"  # noqa: E731
    params = variables_of(kind)["params"]["cell"]
    dropped = drop_connect(sequence_key, params, 0.5, where=where)
    expected, _ = cells.unrolled(kind, cells.linen_weights(dropped), INPUTS)
    assert_close(run(nn.RNN(cell), kind, initial_carry=carry), expected)
    assert not np.allclose(expected, run(nn.RNN(cell.cell), kind), atol=1e-3)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
def test_zoneout_is_the_unrolled_equations_with_a_key_a_step(kind):
    rate = (0.2, 0.6) if kind == "LSTMCell" else 0.3
    cell = ZoneoutCell(cells.LINEN[kind](HIDDEN), rate, **ON)
    carry, sequence_key = initial_carry(cell, kind)
    own = jax.random.split(sequence_key, 1)[0]
    rates = rate if kind == "LSTMCell" else (rate,)

    def update(step, old, new):
        keys = jax.random.split(jax.random.fold_in(jax.random.clone(own), step), len(rates))
        states = zip(keys, old, new, rates)
        return tuple(np.asarray(zoneout(k, *map(jnp.float32, s), r)) for k, *s, r in states)

    weights = cells.linen_weights(variables_of(kind)["params"]["cell"])
    expected, _ = cells.unrolled(kind, weights, INPUTS, update=update)
    assert_close(run(nn.RNN(cell), kind, initial_carry=carry), expected)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
def test_deterministic_zoneout_takes_the_mean_at_every_step(kind):
    cell = ZoneoutCell(cells.LINEN[kind](HIDDEN), 0.25, deterministic=True)
    mean = lambda step, old, new: tuple(0.25 * a + 0.75 * b for a, b in zip(old, new))  # noqa: E731
    weights = cells.linen_weights(variables_of(kind)["params"]["cell"])
    expected, _ = cells.unrolled(kind, weights, INPUTS, update=mean)
    assert_close(run(nn.RNN(cell), kind), expected)


def test_conv_lstm_drops_whole_maps_of_input_state_and_output():
    cell = nn.ConvLSTMCell(4, (3, 3))
    x = data((2, STEPS, 5, 6, 3))
    wrapped = VariationalCell(cell, *RATES, **ON)
    variables = nn.RNN(wrapped).init(key(2), x)
    carry = wrapped.initialize_carry(key(1), x[:, 0].shape)
    masks = [
        np.asarray(cells.keep_bits(words[0], features)) / (1 - rate)
        for words, features, rate in zip(carry.masks, (3, 4, 4), RATES)
    ]
    state, outputs = cell.initialize_carry(key(1), x[:, 0].shape), []
    params = {"params": variables["params"]["cell"]}
    step = jax.jit(lambda state, x: cell.apply(params, state, x))
    for number in range(STEPS):
        c, h = state
        state, y = step((c, h * masks[1].astype(h.dtype)), x[:, number] * np.float32(masks[0]))
        outputs.append(y * masks[2])
    actual = nn.RNN(wrapped).apply(variables, x, initial_carry=carry)
    np.testing.assert_allclose(actual, np.stack(outputs, 1), rtol=1e-3, atol=1e-4)


@each_wrapper
def test_a_loop_by_hand_is_the_rnn(wrap):
    cell = wrap(nn.LSTMCell(HIDDEN), **ON)
    carry = first = cell.initialize_carry(key(1), (BATCH, FEATURES))
    variables = variables_of("LSTMCell", rnn=False)
    outputs = []
    step = jax.jit(lambda carry, x: cell.apply(variables, carry, x))
    for number in range(STEPS):
        carry, y = step(carry, INPUTS[:, number])
        outputs.append(y)
    expected = run(nn.RNN(cell), "LSTMCell", initial_carry=first)
    assert_close(np.stack(outputs, 1), expected)


@each_wrapper
def test_options_of_the_rnn_give_what_they_give_without_dropout(wrap):
    cell = wrap(nn.GRUCell(HIDDEN), **ON)
    carry = cell.initialize_carry(key(1), (BATCH, FEATURES))

    def outputs(inputs=INPUTS, first=carry, **options):
        return run(nn.RNN(cell), "GRUCell", inputs=inputs, initial_carry=first, **options)

    expected = outputs()
    major = outputs(jnp.swapaxes(INPUTS, 0, 1), time_major=True)
    assert_close(jnp.swapaxes(major, 0, 1), expected)
    assert_close(run(nn.RNN(cell, unroll=5), "GRUCell", initial_carry=carry), expected)
    flipped = outputs(INPUTS[:, ::-1], reverse=True, keep_order=True)
    assert_close(flipped[:, ::-1], expected)

    lengths = jnp.array([5, 2, 3])
    last, ragged = outputs(seq_lengths=lengths, return_carry=True)
    assert_close(ragged, expected)
    if not isinstance(cell, VariationalCell):  # whose output is dropped from
        assert_close(last.state, expected[np.arange(BATCH), lengths - 1])

    # A carry given back goes on with the same masks, also where Flax has picked it by length.
    lengths = jnp.array([2, 2, 2])
    half, _ = outputs(INPUTS[:, :2], seq_lengths=lengths, return_carry=True)
    assert_close(outputs(INPUTS[:, 2:], half), expected[:, 2:])


def test_resume_takes_the_state_on_under_new_masks():
    cell = VariationalCell(WeightDropCell(nn.LSTMCell(HIDDEN), 0.5, **ON), *RATES, **ON)
    carry = cell.initialize_carry(key(1), (BATCH, FEATURES))
    last, _ = run(nn.RNN(cell, return_carry=True), "LSTMCell", initial_carry=carry)
    fresh = cell.initialize_carry(key(2), (BATCH, FEATURES))
    resumed = fresh.resume(last)
    jax.tree.map(assert_same_bits, resumed.state.state, last.state.state)
    jax.tree.map(assert_same_bits, resumed.masks, fresh.masks)
    jax.tree.map(assert_same_bits, resumed.state.masks, fresh.state.masks)


@each_wrapper
def test_no_bits_are_drawn_in_the_scan_and_masks_are_its_constants(wrap):
    rnn = nn.RNN(wrap(nn.GRUCell(HIDDEN), **ON))
    variables = variables_of("GRUCell")
    program = jax.make_jaxpr(lambda k: rnn.apply(variables, INPUTS, rngs={"dropout": k}))(key())
    body = cells.scan_body(program.jaxpr)
    drawing = {"xor", "while", "scan", "random_bits", "threefry2x32", "random_fold_in"}
    found = drawing & set(cells.primitives(body))
    if isinstance(rnn.cell, ZoneoutCell):  # decides anew at every step
        assert {"xor", "random_fold_in"} <= found
        return
    assert not found
    cells.assert_masks_are_constants(body)


@pytest.mark.parametrize("name", ["variational", "weights"])
def test_kept_for_the_backward_pass_are_masks_of_one_step(name):
    rnn = nn.RNN(WRAPPERS[name](nn.LSTMCell(HIDDEN), **ON))
    call = lambda variables: rnn.apply(variables, INPUTS, rngs={"dropout": key()})  # noqa: E731
    _, pull = jax.vjp(call, variables_of("LSTMCell"))
    kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.dtype in (jnp.uint32, jnp.bool_)]
    bound = {"variational": 3 * BATCH, "weights": 4 * HIDDEN}[name]
    assert 0 < sum(leaf.size for leaf in kept) <= bound


def _variants():
    for kind in cells.LINEN:
        for name, switch in (("flag", {"deterministic": True}), ("rates", ON)):
            rates = (0, 0.0, 0) if name == "rates" else RATES
            rate = 0 if name == "rates" else 0.5
            yield pytest.param(kind, lambda c, r=rates, s=switch: VariationalCell(c, *r, **s))
            yield pytest.param(kind, lambda c, r=rate, s=switch: WeightDropCell(c, r, **s))
    yield pytest.param("LSTMCell", lambda c: ZoneoutCell(c, (0.0, 0), **ON))


@pytest.mark.parametrize(("kind", "wrap"), list(_variants()))
def test_switched_off_it_is_the_program_of_the_plain_cell(kind, wrap):
    """No key is needed, and the carry is that of the plain cell."""
    plain = nn.RNN(cells.LINEN[kind](HIDDEN), return_carry=True)
    wrapped = nn.RNN(wrap(plain.cell), return_carry=True)
    programs = [
        str(jax.make_jaxpr(rnn.apply)(variables_of(kind), INPUTS)) for rnn in (plain, wrapped)
    ]
    assert programs[0] == programs[1]


@each_wrapper
def test_deterministic_cell_takes_the_state_of_a_carry_with_masks(wrap):
    on, off = (wrap(nn.LSTMCell(HIDDEN), deterministic=flag) for flag in (False, True))
    carry = on.initialize_carry(key(1), (BATCH, FEATURES))
    last, outputs = run(nn.RNN(off, return_carry=True), "LSTMCell", initial_carry=carry)
    assert jax.tree.structure(last) == jax.tree.structure(carry)
    assert_same_bits(outputs, run(nn.RNN(off), "LSTMCell"))


@each_wrapper
def test_parameters_are_those_of_the_plain_cell(wrap):
    plain = nn.RNN(nn.LSTMCell(HIDDEN)).init(key(2), INPUTS)
    jax.tree.map(
        assert_same_bits, nn.RNN(wrap(nn.LSTMCell(HIDDEN), **ON)).init(key(2), INPUTS), plain
    )


def test_parameters_are_those_of_the_plain_cell_in_a_compact_model_too():
    class Model(nn.Module):
        wrap: object

        @nn.compact
        def __call__(self, x):
            return nn.RNN(self.wrap(nn.GRUCell(HIDDEN)))(x)

    wraps = (
        (lambda cell: WeightDropCell(VariationalCell(cell, *RATES, **ON), 0.5, **ON)),
        (lambda cell: cell),
    )
    wrapped, plain = (Model(wrap).init(key(2), INPUTS) for wrap in wraps)
    jax.tree.map(assert_same_bits, wrapped, plain)
    y = Model(wraps[0]).apply(plain, INPUTS, rngs={"dropout": key(1)})
    assert (y == 0).any()
