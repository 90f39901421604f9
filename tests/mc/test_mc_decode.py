"""Decoding: state that a pass is meant to write, and one sub-network for each sequence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors, nnx
from flax import linen as nn

import jaxdrop
from jaxdrop import linen, mc
from tests.support.cases import assert_same_bits, data, key

RATE = 0.25  # which takes two planes of bits
K, LENGTH, VOCABULARY, FEATURES = 4, 8, 11, 16
SHARED = {"*": -2}  # the axis of time, and of the queries of attention


def assert_equal(some, others):
    assert jax.tree.structure(some) == jax.tree.structure(others)
    jax.tree.map(assert_same_bits, some, others)


def kept(mask):
    """Which units of a mask, made of ones, survive."""
    return mask != 0


class Block(nn.Module):
    """A block of a decoder, which gives its masks beside its output."""

    decode: bool

    @nn.compact
    def __call__(self, x):
        mask = None if self.decode else nn.make_causal_mask(x[..., 0])
        attention = nn.MultiHeadDotProductAttention(
            2, dropout_rate=RATE, decode=self.decode, deterministic=True
        )
        y = attention(nn.LayerNorm()(x), mask=mask)
        first = nn.Dropout(RATE, deterministic=True)(jnp.ones_like(y))
        x = x + y * first
        y = nn.Dense(FEATURES)(nn.BatchNorm(True)(nn.gelu(nn.Dense(32)(x))))
        last = linen.VariationalDropout(RATE, deterministic=True)(jnp.ones_like(y))
        return x + y * last, (kept(first), kept(last))


class Decoder(nn.Module):
    """Takes all tokens at once, or one at a time with a cache."""

    decode: bool

    @nn.compact
    def __call__(self, tokens):
        start = jnp.zeros((), jnp.int32)
        if self.decode:
            place = self.variable("cache", "place", lambda: start)
            start = place.value
            if self.is_mutable_collection("cache") and not self.is_initializing():
                place.value = start + tokens.shape[1]
        places = nn.Embed(LENGTH, FEATURES)(start + jnp.arange(tokens.shape[1]))
        x = nn.Embed(VOCABULARY, FEATURES)(tokens) + places[None]
        x = nn.Dropout(RATE, deterministic=True)(x)
        x, masks = Block(self.decode, name="block")(x)
        return nn.Dense(VOCABULARY)(x), masks


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(FEATURES, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            2, FEATURES, dropout_rate=RATE, decode=False, rngs=rngs
        )
        self.up, self.down = (nnx.Linear(FEATURES, FEATURES, rngs=rngs) for _ in range(2))
        self.statistics = nnx.BatchNorm(FEATURES, rngs=rngs)
        self.first = nnx.Dropout(RATE, rngs=rngs)
        self.last = jaxdrop.nnx.VariationalDropout(RATE, rngs=rngs)

    def __call__(self, x, decode):
        mask = None if decode else nnx.make_causal_mask(x[..., 0])
        y = self.attention(self.norm(x), mask=mask, decode=decode)
        first = self.first(jnp.ones_like(y))
        x = x + y * first
        y = self.down(self.statistics(nnx.gelu(self.up(x))))
        last = self.last(jnp.ones_like(y))
        return x + y * last, (kept(first), kept(last))


class NnxDecoder(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(VOCABULARY, FEATURES, rngs=rngs)
        self.places = nnx.Embed(LENGTH, FEATURES, rngs=rngs)
        self.drop = nnx.Dropout(RATE, rngs=rngs)
        self.block = NnxBlock(rngs)
        self.head = nnx.Linear(FEATURES, VOCABULARY, rngs=rngs)
        self.place = nnx.Cache(jnp.zeros((), jnp.int32))

    def __call__(self, tokens, decode=False):
        start = self.place[...] if decode else 0
        if decode:
            self.place[...] += tokens.shape[1]
        x = self.embed(tokens) + self.places(start + jnp.arange(tokens.shape[1]))[None]
        x, masks = self.block(self.drop(x), decode)
        return self.head(x), masks


@functools.cache
def linen_variables(batch=1):
    return jax.jit(Decoder(True).init)(key(), jnp.zeros((batch, LENGTH), jnp.int32))


def nnx_model(batch=1):
    model = NnxDecoder(nnx.Rngs(0))
    model.block.attention.init_cache((batch, LENGTH, FEATURES))
    return model


def decoders(framework, batch=1, broadcast_dims=SHARED):
    """A function of all tokens, one of one token and a state, and the first state."""
    if framework == "nnx":
        model = nnx_model(batch)
        whole = mc.from_nnx(model, broadcast_dims=broadcast_dims)
        step = mc.from_nnx(model, broadcast_dims=broadcast_dims, mutable=nnx.Cache)
        return whole, functools.partial(step, decode=True), nnx.state(model, nnx.Cache)
    variables = linen_variables(batch)
    rest = {name: variables[name] for name in ("params", "batch_stats")}
    whole = mc.from_linen(Decoder(False), rest, broadcast_dims=broadcast_dims)
    step = mc.from_linen(
        Decoder(True), variables, broadcast_dims=broadcast_dims, mutable=("cache",)
    )
    return whole, step, {"cache": variables["cache"]}


def decode(step, state, keys, pick):
    """One token at a time: tokens (K, LENGTH + 1), and what the steps give, stacked on axis 1."""

    def advance(key, token, state):
        (logits, masks), state = step(key, token[None, None], state=state)
        return logits[0, 0], masks, state

    def body(carry, pick_key):
        tokens, states = carry
        logits, masks, states = jax.vmap(advance)(keys, tokens, states)
        return (pick(pick_key, logits), states), (tokens, logits, masks)

    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(keys), *x.shape)), state)
    start = jnp.zeros(len(keys), jnp.int32), states
    picks = jax.random.split(jax.random.key(3), LENGTH)
    _, outputs = jax.lax.scan(body, start, picks)
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), outputs)


def loops(program):
    """The bodies of the loops of a compiled program."""
    names = {part.split(",")[0] for part in program.split("body=")[1:]}
    parts = program.split("\n\n")
    return [part for part in parts if part.split(" ", 1)[0].strip() in names]


PICKS = {
    "greedy": lambda key, logits: logits.argmax(-1),
    "sampled": lambda key, logits: jax.random.categorical(key, 3 * logits),
}


@pytest.mark.parametrize(
    ("framework", "pick"),
    [("linen", "greedy"), ("nnx", "sampled"), ("linen", "sampled"), ("nnx", "greedy")],
)
def test_steps_are_the_pass_over_all_tokens(framework, pick):
    """Every sub-network: equal masks at every position, bit for bit, and so equal logits."""
    whole, step, state = decoders(framework)
    keys = jax.random.split(key(1), K)
    run = jax.jit(lambda keys: decode(step, state, keys, PICKS[pick])).lower(keys).compile()
    tokens, logits, masks = run(keys)
    at_once = jax.jit(jax.vmap(lambda key, tokens: whole(key, tokens[None])))
    expected, same = at_once(keys, tokens)
    np.testing.assert_allclose(logits, expected[:, 0], atol=1e-5)
    for one, other in zip(jax.tree.leaves(masks), jax.tree.leaves(same)):
        steps, other = one[:, :, 0, 0], other[:, 0]  # (K, LENGTH, FEATURES)
        assert_same_bits(steps, jnp.broadcast_to(other, steps.shape))
        assert (steps == steps[:, :1]).all()
        assert all((steps[0] != steps[k]).any() for k in range(1, K))
    first, last = jax.tree.leaves(masks)
    assert (first != last).any()
    if pick == "greedy":  # masks are drawn before the loop: what is in it has no loop
        bodies = loops(run.as_text())
        assert len(bodies) > 1 and not any(" while(" in body for body in bodies)
    # A shorter sequence is the beginning of it, if it is padded to the length of the cache.
    padded = jnp.where(jnp.arange(LENGTH) < 3, tokens, 0)
    np.testing.assert_allclose(at_once(keys, padded)[0][:, 0, :3], logits[:, :3], atol=1e-5)


@pytest.mark.parametrize("framework", ["nnx", "linen"])
def test_each_example_of_a_batch_is_a_sub_network_of_its_own(framework):
    whole, step, state = decoders(framework, batch=3)
    tokens = jnp.tile(jax.random.randint(key(2), (1, 3), 0, VOCABULARY), (3, 1))
    outputs, run = [], jax.jit(lambda token, state: step(key(1), token, state=state))
    for token in tokens.T:
        (logits, masks), state = run(token[:, None], state)
        outputs.append(logits[:, 0])
    expected, same = jax.jit(whole.__call__)(key(1), jnp.pad(tokens, ((0, 0), (0, LENGTH - 3))))
    np.testing.assert_allclose(jnp.stack(outputs, 1), expected[:, :3], atol=1e-5)
    for one, other in zip(jax.tree.leaves(masks), jax.tree.leaves(same)):
        assert_same_bits(other, jnp.broadcast_to(one, other.shape))
        assert (other[0] != other[1]).any()


@pytest.mark.parametrize("framework", ["nnx", "linen"])
def test_a_state_is_taken_and_returned_and_all_else_stays(framework):
    _, step, state = decoders(framework, broadcast_dims=None)
    run, token = jax.jit(lambda state: step(key(1), token, state=state)), jnp.ones((1, 1), int)
    before = jax.tree.map(np.asarray, state)
    output, after = run(state)
    assert_equal(run(None), (output, after))  # from the first state, too
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert_equal(state, before)
    report = mc.audit(step, key(), token, state=state)
    assert not report.changes and len(report.sites) == 4 and all(s.live for s in report.sites)
    for number, counted in ((1, after), (2, run(after)[1])):
        counters = [int(x) for x in jax.tree.leaves(counted) if x.ndim == 0]
        assert counters == [number, number]
    # Samples of `predict` have a state each, beside their outputs.
    samples = mc.predict(
        step,
        key(4),
        token,
        state=after,
        num_samples=3,
        summary=mc.samples(),
        output=lambda output: (output[0][0], output[1]),
    )
    folded = jax.random.fold_in(key(4), 2)
    (logits, _), last = jax.jit(lambda state: step(folded, token, state=state))(after)
    for x, y in zip(jax.tree.leaves(samples), jax.tree.leaves((logits, last)), strict=True):
        np.testing.assert_allclose(x[2], y, atol=1e-5)


class Writes(nn.Module):
    """Writes to two collections, and counts examples in a norm."""

    @nn.compact
    def __call__(self, x):
        for name in ("steps", "averages"):
            count = self.variable(name, "count", jnp.zeros, ())
            if self.is_mutable_collection(name) or name == "averages":
                count.value += 1.0
        return nn.Dropout(RATE)(nn.BatchNorm()(x, use_running_average=False), deterministic=False)


class NnxSteps(nnx.Variable):
    """A kind of variable of the user's."""


class NnxWrites(nnx.Module):
    def __init__(self, rngs):
        self.steps, self.averages = NnxSteps(jnp.zeros(())), nnx.Variable(jnp.zeros(()))
        self.norm, self.drop = nnx.BatchNorm(16, rngs=rngs), nnx.Dropout(RATE, rngs=rngs)

    def __call__(self, x):
        self.steps[...] += 1
        self.averages[...] += 1
        return self.drop(self.norm(x))


def test_what_is_not_named_is_refused():
    x = data((5, 16))
    variables = Writes().init({"params": key(), "dropout": key()}, x)
    fn = functools.partial(mc.from_linen, Writes(), variables)
    for mutable in ((), ("steps",), "steps"):
        with pytest.raises(errors.ModifyScopeVariableError):
            fn(mutable=mutable)(key(), x)
    _, state = fn(mutable=["averages", "steps", "batch_stats"])(key(), x)
    assert state["averages"]["count"] == state["steps"]["count"] == 2  # one is of `init`
    assert_equal(state["batch_stats"], variables["batch_stats"])
    model = NnxWrites(nnx.Rngs(0))
    for mutable in (None, NnxSteps, [NnxSteps, nnx.BatchStat]):
        with pytest.raises(ValueError, match=r"changes averages \(Variable\), which|, steps"):
            mc.from_nnx(model, mutable=mutable)(key(), x)
    fn = mc.from_nnx(model, mutable=[nnx.Variable])
    _, state = jax.jit(fn.__call__)(key(), x)
    assert int(state["steps"][...]) == int(state["averages"][...]) == 1
    for name in ("mean", "var"):
        assert_equal(state["norm"][name], nnx.state(model)["norm"][name])


# Axes that sites share.


class Sites(nn.Module):
    """Layers that share their decisions along time: by an option, or anyway."""

    @nn.compact
    def __call__(self, x):
        own = linen.MCDropout(RATE, broadcast_dims=(-1,), name="own")(x)
        layers = (
            nn.Dropout(RATE, name="plain"),
            linen.GaussianDropout(RATE, name="noise"),
            linen.DropPath(RATE, name="path"),
            linen.SpatialDropout(RATE, name="spatial"),
        )
        return own, *(layer(x, deterministic=True) for layer in layers)


class NnxSites(nnx.Module):
    def __init__(self):
        ours, rngs = jaxdrop.nnx, nnx.Rngs(0)
        self.own = ours.MCDropout(RATE, broadcast_dims=(-1,), rngs=rngs)
        self.plain = nnx.Dropout(RATE, rngs=rngs)
        self.noise = ours.GaussianDropout(RATE, rngs=rngs)
        self.path = ours.DropPath(RATE, rngs=rngs)
        self.spatial = ours.SpatialDropout(RATE, rngs=rngs)

    def __call__(self, x):
        layers = self.own, self.plain, self.noise, self.path, self.spatial
        return tuple(layer(x) for layer in layers)


ADAPTED = {
    "linen": lambda **options: mc.from_linen(Sites(), {}, **options),
    "nnx": lambda **options: mc.from_nnx(NnxSites(), **options),
}


@pytest.mark.parametrize("framework", ADAPTED)
def test_sites_share_along_their_axes_and_no_others(framework):
    x = jnp.ones((16, 24, 40))
    fn = ADAPTED[framework](broadcast_dims={"own": (0,), "*": -2})
    own, plain, noise, path, spatial = (np.asarray(y) for y in fn(key(1), x))
    for y in (plain, noise, path, spatial):
        assert (y == y[:, :1]).all() and (y != y[:1]).any()
    assert (own == own[:1, :, :1]).all() and (own != own[:, :1]).any()  # the first pattern
    assert (path == path[:, :, :1]).all()
    assert all((y != y[:, :, :1]).any() for y in (plain, noise, spatial))
    some = ADAPTED[framework](broadcast_dims={"noise": 1})
    _, plain, noise, *_ = some(key(1), x)
    assert (plain != plain[:, :1]).any() and (noise == noise[:, :1]).all()
    off = ADAPTED[framework](broadcast_dims={"*": -2}, rate=0.0)
    assert_same_bits(off(key(1), x)[1], x)
    # Without the option, bits are those of before.
    assert_equal(ADAPTED[framework](broadcast_dims={})(key(1), x), ADAPTED[framework]()(key(1), x))


class Attending(nn.Module):
    attention_fn: object = nn.dot_product_attention

    @nn.compact
    def __call__(self, query, x):
        layer = nn.MultiHeadDotProductAttention(
            2, dropout_rate=RATE, attention_fn=self.attention_fn, name="attention"
        )
        return layer(query, x, deterministic=True)


def attending(framework, attention_fn=None, **options):
    if framework == "linen":
        model = Attending(attention_fn or nn.dot_product_attention)
        variables = model.init(key(), data((2, 6, 16)), data((2, 6, 16)))
        return mc.from_linen(model, variables, **options)
    model = nnx.MultiHeadAttention(
        2,
        16,
        dropout_rate=RATE,
        decode=False,
        attention_fn=attention_fn or nnx.dot_product_attention,
        rngs=nnx.Rngs(0),
    )
    return mc.from_nnx(model, **options)


@pytest.mark.parametrize("framework", ["nnx", "linen"])
def test_attention_shares_its_weights_along_queries(framework):
    """As if the user's own function did, beside the axes and at the rate that it has."""
    x, module = data((2, 7, 16)), getattr(jaxdrop, framework)
    inputs = jnp.broadcast_to(x[:, :1], (2, 6, 16)), x
    of = functools.partial(functools.partial, module.attention_fn)
    run = jax.jit(lambda fn: fn(key(1), *inputs))
    for given, same, options in (
        (None, of(broadcast_dims=(2,)), {"rate": 0.5}),
        (of(broadcast_dims=(1,)), of(broadcast_dims=(1, 2)), {}),
    ):
        y = run(attending(framework, given, broadcast_dims=SHARED, **options))
        np.testing.assert_allclose(y, jnp.broadcast_to(y[:, :1], y.shape), atol=1e-5)
        np.testing.assert_allclose(y, run(attending(framework, same, **options)), atol=1e-5)
    theirs = lambda query, key, value, **_: query  # noqa: E731
    with pytest.raises(ValueError, match="expected an attention function with this argument at"):
        attending(framework, theirs, broadcast_dims=SHARED)(key(1), *inputs)


class Alone(nn.Module):
    """Drops by a function and a key of its own."""

    @nn.compact
    def __call__(self, x, train=False):
        return jaxdrop.dropout(self.make_rng("dropout"), x, RATE) if train else x


class NnxAlone(nnx.Module):
    def __init__(self):
        self.rngs = nnx.Rngs(0)

    def __call__(self, x, train=False):
        return jaxdrop.dropout(self.rngs.dropout(), x, RATE) if train else x


def linen_fn(model, **options):
    return mc.from_linen(nn.Sequential([model]), {}, **options)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda: linen_fn(linen.AlphaDropout(RATE), broadcast_dims=SHARED), r"layers_0 \(Alpha"),
        (lambda: linen_fn(linen.DropPath(RATE), broadcast_dims={"*": 0}), r"layers_0 \(DropPath"),
        (
            lambda: linen_fn(linen.VariationalDropout(RATE, time_axis=2), broadcast_dims=SHARED),
            r"layers_0 \(VariationalDropout\), which cannot; name",
        ),
        (lambda: linen_fn(linen.TokenDropout(RATE), broadcast_dims=SHARED), r"layers_0 \(Token"),
        (lambda: linen_fn(nn.Dropout(RATE), broadcast_dims={"x": 1}), "'x', which matches none of"),
        (lambda: linen_fn(nn.Dropout(RATE), broadcast_dims={"*": 3}), "at layers_0: expected an"),
        (lambda: linen_fn(Alone(), broadcast_dims=SHARED), "got 'layers_0', which draws by a"),
        (
            lambda: mc.from_nnx(nnx.Sequential(NnxAlone()), broadcast_dims=SHARED),
            "got 'layers/0/?.*', which draws by a",
        ),
        (
            lambda: mc.from_nnx(jaxdrop.nnx.AlphaDropout(RATE), broadcast_dims=SHARED),
            r" \(AlphaDropout\), which cannot; name",
        ),
    ],
)
def test_sites_that_cannot_share_are_refused(fn, message):
    fn = fn()
    for call in (fn, jax.jit(fn.__call__), functools.partial(mc.predict, fn)):
        with pytest.raises(ValueError, match=message):
            call(key(), jnp.ones((2, 3, 4)))


TOKEN = jnp.zeros((1, 1), jnp.int32)


def step(framework, **options):
    return decoders(framework, **options)[1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: linen_fn(nn.Dropout(0.5), broadcast_dims=-2), TypeError, "a dict from patterns"),
        (lambda: linen_fn(nn.Dropout(0.5), broadcast_dims={1: -2}), TypeError, "patterns of sites"),
        (lambda: linen_fn(nn.Dropout(0.5), broadcast_dims={"*": "1"}), TypeError, "an axis or a"),
        (lambda: linen_fn(nn.Dropout(0.5), broadcast_dims={"*": ()}), TypeError, "an axis or a"),
        (lambda: linen_fn(nn.Dropout(0.5), mutable=True), TypeError, "names of collections that"),
        (lambda: linen_fn(nn.Dropout(0.5), mutable=[1]), TypeError, "names of collections that"),
        (
            lambda: linen_fn(nn.Dropout(0.5), mutable="cache", shared_masks=True),
            ValueError,
            "shared_masks: expected False beside mutable=",
        ),
        (
            lambda: mc.from_nnx(nnx_model(), mutable=nnx.Cache, shared_masks=True),
            ValueError,
            "shared_masks: expected False beside mutable=",
        ),
        (
            lambda: mc.from_nnx(NnxWrites(nnx.Rngs(0)), mutable=nnx.Cache),
            ValueError,
            "which matches none; make them first, for example by init_cache",
        ),
        (
            lambda: linen_fn(nn.Dropout(0.5), mutable="cache")(key(), TOKEN),
            ValueError,
            "expected the collection 'cache' that mutable= names",
        ),
        (lambda: step("linen")(key(), TOKEN, state=3), ValueError, "got int; pass what the last"),
        (
            lambda: step("linen")(key(), TOKEN, state={"params": {}}),
            ValueError,
            r"the collections that mutable= names, \['cache'\], got \['params'\]",
        ),
        (lambda: step("nnx")(key(), TOKEN, state={}), ValueError, "an nnx.State of .*got dict"),
        (
            lambda: step("nnx")(key(), TOKEN, state=nnx.state(nnx_model(), nnx.Param)),
            ValueError,
            "an nnx.State of the variables that mutable= names, .*place, got one of",
        ),
    ],
)
def test_refused_with_a_message_that_teaches(call, error, message):
    with pytest.raises(error, match=message):
        call()
