"""The recurrent cells of nnx: against unrolled equations, in Flax's RNN, switched off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdrop import drop_connect, zoneout
from jaxdrop.nnx import VariationalCell, WeightDropCell, ZoneoutCell
from tests.support import cells
from tests.support.cases import assert_same_bits, data
from tests.support.cells import BATCH, FEATURES, HIDDEN, INPUTS, STEPS, assert_close

RATES = (0.3, 0.4, 0.5)
WRAPPERS = {
    "variational": lambda cell, **options: VariationalCell(cell, *RATES, **options),
    "weights": lambda cell, **options: WeightDropCell(cell, 0.5, **options),
    "zoneout": lambda cell, **options: ZoneoutCell(cell, 0.3, **options),
}
each_kind = pytest.mark.parametrize("kind", cells.NNX)
each_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


def cell_of(kind):
    """A plain cell with no bias at zero."""
    cell = cells.NNX[kind](FEATURES, HIDDEN, rngs=nnx.Rngs(2))
    state = nnx.state(cell, nnx.Param)
    nnx.update(cell, jax.tree.map(lambda leaf: leaf + 0.1 * data(leaf.shape), state))
    return cell


def rngs():
    return nnx.Rngs(params=0, dropout=1)


def sequence_key():
    """The key of the first sequence of a cell that was given `rngs`."""
    return rngs().dropout.fork()()


@nnx.jit
def run(rnn, inputs=INPUTS, **options):
    return rnn(inputs, **options)


@each_kind
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_variational_is_the_unrolled_equations(kind, tied):
    cell = VariationalCell(cell_of(kind), *RATES, tied=tied, rngs=rngs())
    masks = cells.variational_scales(sequence_key(), RATES, 1 if tied else len(cells.GATES[kind]))
    expected, state = cells.unrolled(kind, cells.nnx_weights(cell.cell), INPUTS, masks)
    last, outputs = run(nnx.RNN(cell, return_carry=True))
    assert_close(outputs, expected)
    jax.tree.map(assert_close, jax.tree.leaves(last.state), list(state))


@each_kind
def test_weight_drop_is_the_plain_cell_with_dropped_kernels(kind):
    cell = WeightDropCell(cell_of(kind), 0.5, rngs=rngs())
    expected_cell = cell_of(kind)
    params = nnx.state(expected_cell, nnx.Param)
    hidden = lambda path, leaf: path[0] in ("dense_h", "hi", "hf", "hg", "ho")  # noqa: E731
    where = lambda path, leaf: hidden(path, leaf) and path[1] == "kernel"  # noqa: E731
    dropped = drop_connect(sequence_key(), nnx.to_pure_dict(params), 0.5, where=where)
    nnx.replace_by_pure_dict(params, dropped)
    nnx.update(expected_cell, params)
    expected, _ = cells.unrolled(kind, cells.nnx_weights(expected_cell), INPUTS)
    assert_close(run(nnx.RNN(cell)), expected)
    assert not np.allclose(expected, run(nnx.RNN(cell_of(kind))), atol=1e-3)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
def test_zoneout_is_the_unrolled_equations_with_a_key_a_step(kind):
    rate = (0.2, 0.6) if kind == "LSTMCell" else 0.3
    rates = rate if kind == "LSTMCell" else (rate,)
    own = jax.random.split(sequence_key(), 1)[0]

    def update(step, old, new):
        keys = jax.random.split(jax.random.fold_in(jax.random.clone(own), step), len(rates))
        states = zip(keys, old, new, rates)
        return tuple(np.asarray(zoneout(k, *map(jnp.float32, s), r)) for k, *s, r in states)

    cell = ZoneoutCell(cell_of(kind), rate, rngs=rngs())
    expected, _ = cells.unrolled(kind, cells.nnx_weights(cell.cell), INPUTS, update=update)
    assert_close(run(nnx.RNN(cell)), expected)


@each_wrapper
def test_a_loop_by_hand_is_the_rnn(wrap):
    cell = wrap(cell_of("OptimizedLSTMCell"), rngs=rngs())
    carry = first = cell.initialize_carry((BATCH, FEATURES), nnx.Rngs(0))
    step = nnx.jit(lambda cell, carry, x: cell(carry, x))
    outputs = []
    for number in range(STEPS):
        carry, y = step(cell, carry, INPUTS[:, number])
        outputs.append(y)
    assert_close(np.stack(outputs, 1), run(nnx.RNN(cell), initial_carry=first))


@each_wrapper
def test_options_of_the_rnn_give_what_they_give_without_dropout(wrap):
    cell = wrap(cell_of("LSTMCell"), rngs=rngs())
    rnn = nnx.RNN(cell)
    first = cell.initialize_carry((BATCH, FEATURES), nnx.Rngs(0))
    expected = run(rnn, initial_carry=first)
    major = rnn(jnp.swapaxes(INPUTS, 0, 1), initial_carry=first, time_major=True)
    assert_close(jnp.swapaxes(major, 0, 1), expected)
    flipped = rnn(INPUTS[:, ::-1], initial_carry=first, reverse=True, keep_order=True)
    assert_close(flipped[:, ::-1], expected)
    assert_close(nnx.RNN(cell, unroll=5)(INPUTS, initial_carry=first), expected)

    lengths = jnp.array([2, 2, 2])
    options = {"seq_lengths": lengths, "return_carry": True}
    half, ragged = rnn(INPUTS[:, :2], initial_carry=first, **options)
    assert_close(ragged, expected[:, :2])
    assert_close(run(rnn, INPUTS[:, 2:], initial_carry=half), expected[:, 2:])


@each_wrapper
def test_every_sequence_has_masks_of_its_own_also_under_jit(wrap):
    rnn = nnx.RNN(wrap(cell_of("GRUCell"), rngs=rngs()))
    outputs = [np.asarray(run(rnn)) for _ in range(3)]
    assert all((outputs[a] != outputs[b]).any() for a, b in ((0, 1), (0, 2), (1, 2)))


@each_wrapper
def test_no_bits_are_drawn_in_the_scan_and_masks_are_its_constants(wrap):
    graph, state = nnx.split(nnx.RNN(wrap(cell_of("GRUCell"), rngs=rngs())))
    program = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, INPUTS)
    body = cells.scan_body(program.jaxpr)
    drawing = {"xor", "while", "scan", "random_bits", "threefry2x32", "random_fold_in"}
    found = drawing & set(cells.primitives(body))
    if wrap is WRAPPERS["zoneout"]:  # decides anew at every step
        assert {"xor", "random_fold_in"} <= found
        return
    assert not found
    cells.assert_masks_are_constants(body)


@each_kind
def test_switched_off_it_is_the_program_of_the_plain_cell(kind):
    """No stream is needed, and the carry is that of the plain cell."""
    programs = []
    for wrap in (
        lambda cell: cell,
        lambda cell: VariationalCell(cell, *RATES, deterministic=True),
        lambda cell: VariationalCell(cell, 0, 0.0, 0),
        lambda cell: WeightDropCell(cell, 0.5, deterministic=True),
        lambda cell: WeightDropCell(cell, 0.0),
        lambda cell: ZoneoutCell(cell, 0),
    ):
        graph, state = nnx.split(nnx.RNN(wrap(cell_of(kind)), return_carry=True))
        call = lambda state, x, graph=graph: nnx.merge(graph, state)(x)  # noqa: E731
        programs.append(str(jax.make_jaxpr(call)(state, INPUTS)))
    assert len(set(programs)) == 1


@each_wrapper
def test_obeys_train_eval_and_view(wrap):
    cell = wrap(cell_of("LSTMCell"), rngs=rngs())
    rnn = nnx.RNN(cell)
    off = run(nnx.RNN(wrap(cell.cell, deterministic=True)))
    rnn.eval()
    assert_same_bits(run(rnn), off)
    rnn.train()
    assert (np.asarray(run(rnn)) != np.asarray(off)).any()
    assert_same_bits(run(nnx.view(rnn, deterministic=True)), off)
    carry = cell.initialize_carry((BATCH, FEATURES), nnx.Rngs(0))
    rnn.eval()
    last, outputs = run(nnx.RNN(cell, return_carry=True), initial_carry=carry)
    assert jax.tree.structure(last) == jax.tree.structure(carry)
    assert_same_bits(outputs, off)


def test_plain_cell_is_left_as_it_is():
    """Its layers are stood in for, not replaced."""
    cell = cell_of("GRUCell")
    before = jax.tree.leaves(nnx.state(cell))
    wrapped = VariationalCell(WeightDropCell(cell, 0.5, rngs=rngs()), *RATES, rngs=rngs())
    run(nnx.RNN(wrapped))
    assert type(cell.dense_h) is nnx.Linear
    jax.tree.map(assert_same_bits, jax.tree.leaves(nnx.state(cell)), before)
