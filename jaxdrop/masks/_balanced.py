"""Keys of passes that share their drops out evenly, and what a block of passes has in common.

Passes come in blocks of S = 2**m. In a block every decision has another rank in each pass: that of
pass s is a * s + b in GF(2**m), where a != 0 and b are drawn for the decision. The uniform number
that is compared with the rate is (rank + U) / S, with a U that is drawn for the decision. So an
element is dropped in floor(rate * S) or ceil(rate * S) passes of the block, and in each pass with
exactly the probability rate. Two passes get a pair of different ranks as from a random permutation.
The distance from that is below 2**-2m: a is drawn twice, and is 1 if it is 0 both times.

Bit-sliced: a and b are m planes of words each, and adding is XOR. The planes of U are compared with
the rate before, once for the block.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import define_prng_impl

# Irreducible polynomials over GF(2) of degrees 1 to 7, by their coefficients.
_POLYNOMIALS = (0b11, 0b111, 0b1011, 0b10011, 0b100101, 0b1000011, 0b10000011)
MOST_BITS = len(_POLYNOMIALS)  # larger blocks gain little more
AXIS = "jaxdrop.passes"  # the name of the axis of passes of a block that run side by side
_WORDS = 2  # of the key of a block, before the number of the pass


class Kind(NamedTuple):
    """What passes a key belongs to.

    Attributes:
        bits: a block has 2**bits passes.
        together: whether passes of one block run side by side, along a mapped axis named `AXIS`.
    """

    bits: int
    together: bool


def pass_key(words: tuple[Any, Any], number: Any, kind: Kind) -> jax.Array:
    """The key of a pass of a block; it goes through splits, streams and transforms.

    Args:
        words: two words that key the block.
        number: of the pass in its block.
        kind: the same for all passes of the block.
    """
    data = jnp.stack([*words, jnp.asarray(number, jnp.uint32)])
    return jax.random.wrap_key_data(data, impl=_implementation(kind))


def kind_of(key: jax.Array) -> Kind | None:
    """The kind of a typed key, or None for one whose draws are independent."""
    return _KINDS.get(key.dtype)


def independent(key: jax.Array) -> jax.Array:
    """A typed key of JAX's own: itself, or one that differs in every pass of a block."""
    return key if kind_of(key) is None else _of_pass(jax.random.key_data(key))


_KINDS: dict[Any, Kind] = {}


@functools.cache
def _implementation(kind: Kind) -> Any:
    """JAX's threefry on the words of the block; the number of the pass is handed on."""

    def split(words: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        new = jax.random.key_data(jax.random.split(_of_block(words), shape))
        number = jnp.broadcast_to(words[_WORDS:], (*new.shape[:-1], 1))
        return jnp.concatenate([new, number], axis=-1)

    def fold_in(words: jax.Array, data: int) -> jax.Array:
        new = jax.random.key_data(jax.random.fold_in(_of_block(words), data))
        return jnp.concatenate([new, words[_WORDS:]])

    def random_bits(words: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.bits(_of_pass(words), shape, dtype=np.dtype(f"uint{width}"))

    def seed(number: jax.Array) -> jax.Array:
        new = jax.random.key_data(jax.random.key(number, impl="threefry2x32"))
        return jnp.concatenate([new, jnp.zeros(1, jnp.uint32)])

    name = f"jaxdrop_{'together' if kind.together else 'alone'}_{2**kind.bits}"
    implementation = define_prng_impl(
        key_shape=(_WORDS + 1,),
        seed=seed,
        split=split,
        random_bits=random_bits,
        fold_in=fold_in,
        name=name,
        tag=name,
    )
    one = jax.eval_shape(
        lambda: jax.random.wrap_key_data(jnp.zeros(_WORDS + 1, jnp.uint32), impl=implementation)
    )
    _KINDS[one.dtype] = kind
    return implementation


def _of_block(words: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(words[:_WORDS], impl="threefry2x32")


def _of_pass(words: jax.Array) -> jax.Array:
    return jax.random.fold_in(_of_block(words), words[_WORDS])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CipherKey:
    """What the decisions of a draw come from.

    Attributes:
        words: two words that key the cipher.
        number: of the pass in its block, or None if draws are independent.
        bits: a block has 2**bits passes; 0 if draws are independent.
    """

    words: tuple[Any, Any]
    number: Any = None
    bits: int = dataclasses.field(default=0, metadata={"static": True})


def cipher_key_of_block(words: list[Any], kind: Kind) -> CipherKey:
    """From the words of a key of `pass_key`: what passes share does not depend on which it is."""
    pair, number = jnp.stack(words[:_WORDS]), words[_WORDS]
    mesh = jax.sharding.get_abstract_mesh()
    # Inside shard_map JAX does not reduce over a mapped axis around it, and on an Explicit mesh
    # jax 0.12 gives the result a sharding with an axis too many: each pass then draws all.
    if kind.together and not (mesh.manual_axes or mesh.explicit_axes):
        pair = lax.pmax(pair, AXIS)  # they are equal; so what is drawn by them is drawn once
    return CipherKey((pair[0], pair[1]), number, kind.bits)


def slopes(planes: list[Any]) -> list[Any]:
    """Planes of a number a != 0 of GF(2**m), from 2 m planes of random bits."""
    first, second = planes[: len(planes) // 2], planes[len(planes) // 2 :]
    zero = ~functools.reduce(jnp.bitwise_or, first)
    planes = [a | (zero & b) for a, b in zip(first, second)]
    zero = ~functools.reduce(jnp.bitwise_or, planes)
    return [planes[0] | zero, *planes[1:]]


def ranks(slope: list[Any], offset: list[Any], number: Any) -> list[Any]:
    """Planes of the ranks of pass ``number``: as many as there are of ``offset``."""
    products = _products(jnp.asarray(number, jnp.uint32), len(slope))
    planes = []
    for place, plane in enumerate(offset):
        for product, a in zip(products, slope):
            plane = plane ^ a & _spread(product, place)
        planes.append(plane)
    return planes


def _products(number: jax.Array, bits: int) -> list[jax.Array]:
    """The products of a number of GF(2**bits) with x**0, x**1, ..., as many as bits."""
    products, polynomial = [number], np.uint32(_POLYNOMIALS[bits - 1])
    for _ in range(bits - 1):
        last = products[-1]
        products.append(last << np.uint32(1) ^ _spread(last, bits - 1) & polynomial)
    return products


def _spread(number: jax.Array, place: int) -> jax.Array:
    """A word of ones if the number has a 1 at that place, else of zeros."""
    return np.uint32(0) - (number >> np.uint32(place) & np.uint32(1))
