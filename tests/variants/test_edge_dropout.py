"""Edges of graphs: both directions of one share a decision, and networks on graphs train.

The laws run over it in `tests.support.cases`, with and without the nodes at both ends.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType

import jaxdrop
from jaxdrop import edge_dropout, mc
from tests.laws.test_laws_sharding import COLLECTIVE, compiled
from tests.support import own, reference
from tests.support.cases import assert_probability, assert_same_bits, data, key
from tests.support.models import each_framework

RATE = 0.3
NUM_NODES = 50


def graph(num_edges=900):
    """Edges in both directions, some of them twice, some from a node to itself; and padding."""
    rng = np.random.default_rng(0)
    ends = rng.integers(0, NUM_NODES, (2, num_edges)).astype(np.int32)
    both = np.concatenate([ends, ends[::-1], np.full((2, 100), NUM_NODES, np.int32)], axis=1)
    return rng.permutation(both, axis=1)


SENDERS, RECEIVERS = graph()


def weights(one, rate=RATE, senders=SENDERS, receivers=RECEIVERS, **options):
    ones = jnp.ones(len(senders))
    return np.asarray(
        edge_dropout(one, ones, rate, senders=senders, receivers=receivers, **options)
    )


def fates(found, senders=SENDERS, receivers=RECEIVERS):
    """The fate of each unordered pair; fails if edges of a pair differ."""
    pairs = {}
    for s, r, w in zip(senders.tolist(), receivers.tolist(), found.tolist()):
        assert pairs.setdefault(frozenset((s, r)), w) == w
    return pairs


@pytest.mark.parametrize(
    "rate", [RATE, jnp.float32(RATE), jnp.full(1900, RATE)], ids=["static", "traced", "array"]
)
def test_a_pair_of_nodes_has_one_fate_wherever_its_edges_stand(rate):
    found = weights(key(), rate)
    pairs = fates(found)
    assert set(pairs.values()) == {0.0, np.float32(1 / reference.keep_probability(RATE))}
    assert 0.2 < np.mean([w == 0 for w in pairs.values()]) < 0.4
    # It depends on the key and the pair alone: on no other edge, no order, no dtype.
    few = np.random.default_rng(1).permutation(len(SENDERS))[:300]
    some = weights(key(), RATE, RECEIVERS[few].astype(np.uint8), SENDERS[few].astype(np.int16))
    np.testing.assert_array_equal(some, found[few])
    assert (weights(key(1)) != found).mean() > 0.2
    assert_same_bits(weights(key(), deterministic=True), np.ones_like(found))


def test_different_pairs_are_independent_at_the_exact_rate():
    """Those of a grid of nodes, whose numbers share low bits, sums and differences."""
    one, other = (a.ravel() for a in np.triu_indices(512, k=1))
    dropped = weights(key(), RATE, one, other) == 0
    probability = 1 - reference.keep_probability(RATE)
    assert_probability(dropped.sum(), dropped.size, probability)
    square = np.zeros((512, 512), bool)
    square[one, other] = square[other, one] = dropped
    alike = float(probability**2 + (1 - probability) ** 2)
    upper = np.triu(np.ones((511, 511), bool), k=2)
    for shifted in (square[1:, 1:], square[:-1, 1:], square[1:, :-1]):
        same = (square[:-1, :-1] == shifted)[upper]
        assert_probability(same[::2].sum(), same[::2].size, alike)


def test_rates_may_keep_edges_for_certain():
    """Here those from a node to itself; and a message of an edge that is dropped is gone."""
    loops = SENDERS == RECEIVERS
    rates = np.where(loops, 0.0, np.where(SENDERS + RECEIVERS < 5, 1.0, 0.5)).astype(np.float32)
    x = jnp.full((len(SENDERS), 3), jnp.nan).at[loops].set(1.0)
    y = edge_dropout(key(), x, rates[:, None], senders=SENDERS, receivers=RECEIVERS)
    assert_same_bits(np.asarray(y)[loops], np.ones((loops.sum(), 3), np.float32))
    gone = np.asarray(y == 0).all(1)
    assert gone[~loops & (SENDERS + RECEIVERS < 5)].all()
    assert 0.4 < gone[~loops].mean() < 0.6
    _, pull = jax.vjp(lambda x: edge_dropout(key(), x, rates[:, None], senders=SENDERS,
                                             receivers=RECEIVERS), x)  # fmt: skip
    assert (np.asarray(pull(jnp.ones_like(x))[0])[gone] == 0).all()


@pytest.mark.parametrize("rate", ["static", "traced", "array"])
def test_a_part_of_the_edges_inside_shard_map_has_the_same_fates(rate):
    """With one key: a pair has one fate on all devices, so undirected edges may be cut anywhere."""
    mesh = jax.make_mesh((4,), ("edges",), axis_types=(AxisType.Auto,))
    size, parts = 1600, jax.P("edges")
    rates = jnp.full(size if rate == "array" else (), RATE)

    def part(x, senders, receivers, rates):
        used = RATE if rate == "static" else rates
        return edge_dropout(key(), x, used, senders=senders, receivers=receivers)

    specs = parts, parts, parts, parts if rate == "array" else jax.P()
    mapped = jax.jit(jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=parts))
    ends = SENDERS[:size], RECEIVERS[:size]
    with jax.debug_key_reuse(False):  # one key on purpose
        assert_same_bits(mapped(jnp.ones(size), *ends, rates), weights(key(), RATE, *ends))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_devices_with_whole_words_do_not_communicate(kind):
    mesh = jax.make_mesh((8,), ("edges",), axis_types=(kind,))
    sharding, size = jax.NamedSharding(mesh, jax.P("edges")), 1792
    with jax.set_mesh(mesh):
        arrays = (jnp.ones((size, 3)), SENDERS[:size], RECEIVERS[:size])
        arrays = [jax.device_put(array, sharding) for array in arrays]

        def run(key, x, senders, receivers):
            return edge_dropout(key, x, RATE, senders=senders, receivers=receivers)

        program = compiled(run, key(), *arrays)
        assert not COLLECTIVE.search(program.as_text())
        y = program(key(), *arrays)
    assert_same_bits(np.asarray(y)[:, 0], weights(key(), RATE, SENDERS[:size], RECEIVERS[:size]))


def test_classes_are_the_function():
    ends = {"senders": SENDERS, "receivers": RECEIVERS}
    x = data((len(SENDERS), 4))
    own.check_classes("edge_dropout", (x,))
    expected = edge_dropout(key(), x, RATE, **ends)
    layer = jaxdrop.linen.EdgeDropout(RATE)
    assert_same_bits(layer.apply({}, x, deterministic=False, rng=key(), **ends), expected)
    assert_same_bits(jaxdrop.nnx.EdgeDropout(RATE)(x, rngs=key(), **ends), expected)


# Networks on graphs. Two groups of nodes with more edges inside than between, and their degree.

GROUPS = np.arange(NUM_NODES) % 2
INSIDE = (GROUPS[SENDERS % NUM_NODES] == GROUPS[RECEIVERS % NUM_NODES]) | (np.arange(1900) % 8 == 0)
ENDS = {"senders": SENDERS[INSIDE], "receivers": RECEIVERS[INSIDE]}  # padding of node 50 among them
NODES = data((NUM_NODES + 1, 8))
KNOWN = np.arange(NUM_NODES) < 20


def gather(messages, w, num_nodes=NUM_NODES + 1):
    return jax.ops.segment_sum(messages * w[:, None], ENDS["receivers"], num_nodes)


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, nodes, train=False):
        w = jaxdrop.linen.EdgeDropout(0.5, deterministic=not train)(
            jnp.full(len(ENDS["senders"]), 0.1), **ENDS
        )
        hidden = nn.relu(gather(nn.Dense(16)(nodes)[ENDS["senders"]], w))
        return nn.Dense(2)(gather(hidden[ENDS["senders"]], w))[:NUM_NODES]


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.drop = jaxdrop.nnx.EdgeDropout(0.5, rngs=rngs)
        self.first, self.last = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, nodes):
        w = self.drop(jnp.full(len(ENDS["senders"]), 0.1), **ENDS)
        hidden = nnx.relu(gather(self.first(nodes)[ENDS["senders"]], w))
        return self.last(gather(hidden[ENDS["senders"]], w))[:NUM_NODES]


@each_framework
def test_adapters_turn_it_on(framework):
    if framework == "linen":
        fn = mc.from_linen(LinenNet(), LinenNet().init(key(), NODES))
    else:
        fn = mc.from_nnx(NnxNet(nnx.Rngs(0)))
    assert (fn(key(1), NODES) != fn(key(2), NODES)).any()
    (site,) = mc.audit(fn, key(), NODES).sites
    assert (site.kind, site.rate, site.live) == ("EdgeDropout", 0.5, True)


def with_jraph(key, params, rate):
    """`jraph.GraphConvolution` twice, on messages that are multiplied before they are summed."""
    jraph = pytest.importorskip("jraph", reason="an optional package, used by one test")
    w = edge_dropout(key, jnp.full(len(ENDS["senders"]), 0.1), rate, **ENDS)
    graphs = jraph.GraphsTuple(
        nodes=NODES, edges=None, globals=None, **ENDS,
        n_node=np.array([NUM_NODES, 1]), n_edge=np.array([INSIDE.sum() - 100, 100]),
    )  # fmt: skip
    for name, act in (("first", jax.nn.relu), ("last", lambda x: x)):
        layer = jraph.GraphConvolution(
            update_node_fn=lambda nodes, name=name: nodes @ params[name],
            aggregate_nodes_fn=lambda messages, _, size: gather(messages, w, size),
            symmetric_normalization=False,
        )
        graphs = layer(graphs)
        graphs = graphs._replace(nodes=act(graphs.nodes))
    return graphs.nodes[:NUM_NODES]


def with_sums(key, params, rate):
    w = edge_dropout(key, jnp.full(len(ENDS["senders"]), 0.1), rate, **ENDS)
    hidden = jax.nn.relu(gather((NODES @ params["first"])[ENDS["senders"]], w))
    return gather((hidden @ params["last"])[ENDS["senders"]], w)[:NUM_NODES]


@jax.numpy_dtype_promotion("standard")  # which Optax relies on
@jax.numpy_rank_promotion("allow")
@pytest.mark.parametrize("network", [with_sums, with_jraph])
def test_a_network_on_a_graph_trains(network):
    params = {"first": data((8, 16)) / 3, "last": data((16, 2)) / 4}
    optimizer = optax.adam(3e-2)

    def loss(params, key, rate=0.5):
        logits = network(key, params, rate)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, GROUPS)
        return jnp.where(KNOWN, each, 0).sum() / KNOWN.sum()

    @jax.jit
    def step(params, state, key):
        value, gradient = jax.value_and_grad(loss)(params, key)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for one in jax.random.split(key(), 60):
        params, state, value = step(params, state, one)
        losses.append(float(value))
    assert np.mean(losses[-5:]) < 0.3 < np.mean(losses[:5])
    right = np.argmax(network(None, params, 0.0), axis=1) == GROUPS
    assert right[~KNOWN].mean() > 0.8  # whose groups it was never told
