"""What `predict` costs: memory that does not grow, and work that is not repeated."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx

from jaxdrop import mc
from tests.support.cases import data, key

pytestmark = pytest.mark.usefixtures("jitted")  # its tests read compiled programs
WIDTH = 64


class Late(nn.Module):
    """Three layers, then dropout, then one that has to run in every pass."""

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.relu(nn.Dense(WIDTH)(x))
        return nn.Dense(10)(nn.Dropout(0.5, deterministic=True)(x))


class NnxLate(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(3)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 10, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(self.dropout(x))


def late(framework):
    if framework == "nnx":
        return mc.from_nnx(NnxLate())
    return mc.from_linen(Late(), Late().init(key(), inputs()))


def inputs():
    return data((16, WIDTH))


def compiled(fn, one=None, **kwargs):
    one = key() if one is None else one
    program = jax.jit(lambda key, x: mc.predict(fn, key, x, **kwargs))
    return program.lower(one, inputs()).compile()


def products(text):
    """Number of matrix products in loops, and outside, of a compiled program."""
    bodies = dict(re.findall(r"^(?:ENTRY )?%(\S+) .*?\{\n(.*?)^\}", text, re.M | re.S))
    called = re.compile(r"(?:calls|to_apply|body|condition)=%([\w.\-]+)")

    def reach(names):
        seen, todo = set(), list(names)
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += called.findall(bodies[name])
        return seen

    def count(names):
        return sum(
            len(re.findall(r" dot\(|custom_call_target=\"\S*matmul", bodies[n])) for n in names
        )

    looped = reach(re.findall(r"body=%([\w.\-]+)", text))
    return count(looped), count(set(bodies) - looped)


@pytest.mark.parametrize(("framework", "chunk_size"), [("linen", 1), ("linen", 10), ("nnx", 10)])
def test_layers_before_the_first_dropout_run_once(framework, chunk_size):
    text = compiled(late(framework), num_samples=80, chunk_size=chunk_size).as_text()
    assert products(text) == (1, 3)


def test_layers_run_once_for_keys_that_are_taken_in_turn():
    text = compiled(late("linen"), jax.random.key(0, impl="rbg"), num_samples=80).as_text()
    assert products(text) == (1, 3)


def test_layers_behind_the_first_dropout_are_counted():
    """The count finds what it should not: early dropout, and all is in the loop."""

    def fn(key, x):
        return late_fn(key, x * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype))

    late_fn = late("linen")
    with jax.debug_key_reuse(False):
        assert products(compiled(fn, num_samples=80).as_text()) == (4, 0)


@pytest.mark.parametrize("name", ["moments", "classification"])
def test_memory_does_not_grow_with_the_number_of_samples(name):
    fn, summary = mc.from_nnx(nnx.Sequential(nnx.Dropout(0.5))), getattr(mc, name)()

    def temporary(num_samples, **kwargs):
        program = compiled(fn, num_samples=num_samples, summary=summary, **kwargs)
        return program.memory_analysis().temp_size_in_bytes

    few, many = temporary(512), temporary(5120)  # blocks of 128, both
    assert few > 0
    assert many == few
    if name == "moments":
        assert temporary(5120, chunk_size=32) > few  # the measure sees what does grow


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_one_program_serves_new_variables(framework):
    """The variables are arguments of it, not constants inside."""
    fn = late(framework)
    program = jax.jit(lambda fn, key, x: mc.predict(fn, key, x, num_samples=20).mean)
    text = program.lower(fn, key(), inputs()).as_text()
    assert max(map(len, re.findall(r"dense<(.*?)>", text)), default=0) < 1000
    other = jax.tree.map(
        lambda leaf: leaf * 2 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, fn
    )
    assert (program(fn, key(), inputs()) != program(other, key(), inputs())).any()
    assert program._cache_size() == 1


# The number of passes side by side, where it is left to the budget.


def test_a_pass_is_counted_by_its_greediest_part():
    """What does not depend on the key costs nothing: 16 x 64 in, 16 x 64 out, in float32."""
    for framework in ("linen", "nnx"):
        report = mc.audit(late(framework), key(), inputs())
        assert 16 * WIDTH * 4 * 2 <= report.bytes_a_pass <= 16 * WIDTH * 4 * 3
    wide = mc.audit(late("linen"), key(), jnp.tile(inputs(), (5, 1)))
    assert wide.bytes_a_pass == 5 * mc.audit(late("linen"), key(), inputs()).bytes_a_pass


@pytest.mark.parametrize(
    ("passes", "num_samples", "expected"),
    [(7.9, 100, 5), (1000, 100, 100), (0.1, 100, 1), (12, 97, 12), (50, 97, 50), (64, 100, 50)],
)
def test_auto_fills_the_budget(passes, num_samples, expected):
    """Rather a little less than a ragged rest, which would be compiled on its own."""
    fn = late("linen")
    budget = int(passes * mc.audit(fn, key(), inputs()).bytes_a_pass)

    def text(**kwargs):
        one = jax.random.key(0)
        program = lambda key, x: mc.predict(fn, key, x, num_samples=num_samples, **kwargs)  # noqa: E731
        return str(jax.make_jaxpr(program)(one, inputs()))

    auto = text(chunk_size="auto", memory_budget=max(budget, 1))
    assert auto == text(chunk_size=expected)


@pytest.mark.parametrize("chunk_size", [8, 80])
def test_arithmetic_is_that_of_the_prefix_and_the_samples(chunk_size):
    """Three layers once, the last for each sample, and little beside the products.

    XLA counts the body of a loop once, hence the passes side by side.
    """

    class Wide(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(3):
                x = nn.relu(nn.Dense(512)(x))
            return nn.Dense(512)(nn.Dropout(0.5, deterministic=True)(x))

    x = data((256, 512))
    fn = mc.from_linen(Wide(), Wide().init(key(), x))
    program = jax.jit(lambda key, x: mc.predict(fn, key, x, num_samples=80, chunk_size=chunk_size))
    product = 2 * 256 * 512 * 512
    flops = program.lower(key(), x).compile().cost_analysis()["flops"]
    assert flops <= 1.05 * (3 + chunk_size) * product
