"""``python -m benchmarks.active``: how many labels does active learning need on MNIST?

Gal, Islam & Ghahramani, "Deep Bayesian active learning with image data", 2017, section 5.1 and
table 1 (its figures are not checked against the paper). A convolutional net starts with two
labelled images per class. It learns from nothing, scores unlabelled images by Monte-Carlo passes,
gets the labels of the ten best, and learns from nothing again. Each round scores a random part of
the pool, as the authors' own program does.

What differs from the paper, so that it runs on a CPU: the first convolution has a stride of 2;
there are 32 balanced passes, not 100 independent ones; the test error is that of the whole net on
every second test image; weight decay is chosen once per repetition, from the first labels, and
falls as their number grows. It trains in a fixed number of steps; ``--program`` trains as the
authors' program does: 50 epochs of batches of 128, and a penalty on the weights of one layer.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from tqdm import tqdm

from benchmarks import _report, mnist
from benchmarks._report import count
from jaxdrop import linen, mc

# Images for a test error of 10 % and of 5 %, not checked against the paper's table 1.
PUBLISHED = {"BALD": (145, 335), "variation ratios": (120, 295), "random": (255, 835)}
_LIMITS = (10, 5)  # per cent
_SHOWN = (50, 100, 150, 200, 300)  # labelled images, of the curve that is printed
_PER_CLASS, _MORE, _VALIDATION = 2, 10, 100
_BATCH, _LEARNING_RATE = 32, 2e-3
_DECAYS = (0.1, 1.0, 10.0)  # at the first labels
# Of the authors' program: github.com/Riashat/Active-Learning-Bayesian-Convolutional-Neural-Networks
_EPOCHS, _PROGRAM_BATCH, _PROGRAM_RATE, _PENALTY = 50, 128, 1e-3, 2.5


class Net(nn.Module):
    """Two convolutions, then two dense layers with dropout before each of them."""

    @nn.compact
    def __call__(self, x, deterministic=True):
        side = round(x.shape[1] ** 0.5)
        x = x.reshape(-1, side, side, 1)
        x = nn.relu(nn.Conv(32, (4, 4), strides=2, padding="VALID")(x))
        x = nn.relu(nn.Conv(32, (4, 4), padding="VALID")(x))
        # A pool of 2 x 2. On a CPU the gradient of `nn.max_pool` takes as long as a convolution.
        x = jnp.maximum(x[:, ::2], x[:, 1::2])
        x = jnp.maximum(x[:, :, ::2], x[:, :, 1::2]).reshape(len(x), -1)
        x = linen.Dropout(0.25)(x, deterministic=deterministic)
        x = nn.relu(nn.Dense(128)(x))
        x = linen.Dropout(0.5)(x, deterministic=deterministic)
        return nn.Dense(10)(x)


def main(arguments=None):
    """Runs every repetition, prints the numbers of images, and returns the curves."""
    options = _options(arguments)
    train, test = _digits() if options.quick else mnist.read(options.data)
    if not options.quick:
        test = mnist.Digits(test.images[::2], test.labels[::2])
    _report.print_context(_report.context())
    names = "quick", "program", "steps", "passes", "pool", "most", "error"
    saved = _report.Saved(options.json, {name: getattr(options, name) for name in names})
    train = mnist.Digits(*map(jnp.asarray, train))
    found = {way: [] for way in PUBLISHED}
    rounds = 1 + (options.most - 10 * _PER_CLASS) // _MORE
    with tqdm(total=rounds, unit="round", ncols=78, leave=False) as bar:
        for seed in range(options.seeds):
            parts = _split(seed, train)
            choose = functools.partial(_choose, seed, train, parts, options)
            decay = None if options.program else saved(f"decay, seed {seed}", choose)
            for way in found:  # in turns, so that a run that is stopped has a bit of all
                bar.reset()
                bar.set_description(f"{way}, seed {seed}")
                learn = functools.partial(
                    _learn, way, seed, decay, train, test, parts, options, bar
                )
                found[way].append(saved(f"{way}, seed {seed}", learn))
    _print_tables(found, options)
    return found


def _options(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.active",
        description="Labelled images that active learning needs for an error of 10 % and of 5 %.",
    )
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="holds mnist.npz")
    parser.add_argument("--seeds", type=count, metavar="N", help="repetitions (3)")
    parser.add_argument("--steps", type=count, metavar="N", help="of each training (600)")
    parser.add_argument(
        "--program", action="store_true", help="train as the authors' program, not in --steps"
    )
    parser.add_argument("--passes", type=count, metavar="N", help="Monte-Carlo passes (32)")
    parser.add_argument("--pool", type=count, metavar="N", help="images scored per round (2000)")
    parser.add_argument("--most", type=count, metavar="N", help="labelled images (600)")
    parser.add_argument(
        "--error", type=float, default=5.0, metavar="E", help="per cent, to stop at (5)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="digits of scikit-learn, a few short rounds"
    )
    _report.add_json(parser)
    options = parser.parse_args(arguments)
    if not options.quick:
        mnist.check_data(parser, options)
    full = {"seeds": 3, "steps": 600, "passes": 32, "pool": 2000, "most": 600}
    quick = {"seeds": 2, "steps": 150, "passes": 16, "pool": 200, "most": 60}
    _report.fill(options, quick if options.quick else full)
    room = (1200 if options.quick else 60_000) - _VALIDATION - 10 * _PER_CLASS - _MORE
    if not 10 * _PER_CLASS <= options.most <= room:
        parser.error(f"--most: expected {10 * _PER_CLASS} to {room}, got {options.most}")
    return options


def _digits():
    """Digits of scikit-learn, each pixel four times, because two convolutions need the room."""

    def larger(part):
        images = part.images.reshape(-1, 8, 8).repeat(2, 1).repeat(2, 2)
        return mnist.Digits(images.reshape(len(images), -1), part.labels)

    return tuple(map(larger, mnist.small()))


def _split(seed, train):
    """Rows of the first images, as many of each class; of the validation part; and of the pool."""
    order = np.random.default_rng(seed).permutation(len(train.labels))
    labels = np.asarray(train.labels)[order]
    first = np.concatenate([order[labels == c][:_PER_CLASS] for c in range(10)])
    rest = order[~np.isin(order, first)]
    return first, rest[:_VALIDATION], rest[_VALIDATION:]


def _choose(seed, train, parts, options):
    """The weight decay with the lowest loss on the validation images, from the first ones."""
    first, validation, _ = parts

    def loss(decay):
        key, chosen = jax.random.key(seed), np.resize(np.int32(first), options.most)
        variables = _fit(options, train, key, decay, chosen, len(first))
        logits = _whole(Net(), variables, train.images[validation])
        labels = train.labels[validation]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return min(_DECAYS, key=loss)


def _learn(way, seed, decay, train, test, parts, options, bar):
    """Test errors by labelled images of one repetition, and which those are, in their order."""
    net, rng, (first, _, pool) = Net(), np.random.default_rng((seed, 1)), parts
    # Arrays keep their sizes as the labelled images grow and the others dwindle, so that nothing
    # is compiled again.
    chosen, number = np.resize(np.int32(first), options.most), len(first)
    scored = min(options.pool, len(pool) - options.most)
    found = {"decay": decay, "images": [], "errors": []}
    while True:
        key = jax.random.fold_in(jax.random.key(seed), number)
        if options.program:
            variables = _fit_as_program(train, key, chosen, number)
        else:
            # The more images, the less the prior of the weights counts beside them.
            used = decay * len(first) / number
            variables = _fit(options, train, key, used, chosen, number)
        found["images"].append(number)
        found["errors"].append(mnist.error_of(_whole(net, variables, test.images), test.labels))
        bar.update()
        if found["errors"][-1] <= options.error or number + _MORE > options.most:
            return found | {"chosen": chosen[:number].tolist()}
        some = rng.choice(pool, scored, replace=False)
        if way != "random":
            doubt = _doubt(net, way, options.passes, variables, key, train.images[some])
            some = some[np.argsort(-np.asarray(doubt), kind="stable")]
        chosen[number : number + _MORE] = some[:_MORE]
        pool = pool[~np.isin(pool, some[:_MORE])]
        number += _MORE


def _fit(options, train, key, decay, chosen, number):
    """Variables after some steps on the first ``number`` images of ``chosen``."""
    state, counted = _start(jax.random.fold_in(key, 0), train.images[:1]), np.ones(_BATCH, "f4")
    # A loop of Python: XLA's CPU backend takes about 30 times as long for the gradient of a
    # convolution inside of a loop of its own.
    for step in range(options.steps):
        rate = _LEARNING_RATE * (1 - step / options.steps)
        used = jax.random.fold_in(key, step + 1)
        rows = _draw(jax.random.fold_in(used, 0), chosen, number)
        state = _step(state, used, rate, decay, 0.0, train, rows, counted)
    return state[0]


def _fit_as_program(train, key, chosen, number):
    """The same as the authors' program trains: whole epochs, Adam at one rate, a penalty."""
    state = _start(jax.random.fold_in(key, 0), train.images[:1])
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    step, penalty = 0, _PENALTY / number
    for _ in range(_EPOCHS):
        order = chosen[rng.permutation(number)]
        for start in range(0, number, _PROGRAM_BATCH):
            step += 1
            used, rows = jax.random.fold_in(key, step), order[start : start + _PROGRAM_BATCH]
            counted = np.float32(np.arange(_PROGRAM_BATCH) < len(rows))  # the last one is filled up
            rows = np.resize(rows, _PROGRAM_BATCH)
            state = _step(state, used, _PROGRAM_RATE, 0.0, penalty, train, rows, counted)
    return state[0]


@jax.jit
def _start(key, images):
    variables = Net().init(key, images)
    return variables, optax.scale_by_adam().init(variables)


@jax.jit
def _draw(key, chosen, number):
    return chosen[jax.random.randint(key, (_BATCH,), 0, number)]


@functools.partial(jax.jit, donate_argnums=0)
def _step(state, key, rate, decay, penalty, train, rows, counted):
    """A step of Adam with decoupled weight decay, or a penalty on the first dense layer."""
    variables, moments = state

    def loss(variables):
        rngs = {"dropout": jax.random.fold_in(key, 1)}
        logits = Net().apply(variables, train.images[rows], deterministic=False, rngs=rngs)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, train.labels[rows])
        kernel = variables["params"]["Dense_0"]["kernel"]
        return jnp.vdot(each, counted) / counted.sum() + penalty * jnp.vdot(kernel, kernel)

    updates, moments = optax.scale_by_adam().update(jax.grad(loss)(variables), moments)
    updates, _ = optax.add_decayed_weights(decay).update(updates, optax.EmptyState(), variables)
    updates = jax.tree.map(lambda leaf: -rate * leaf, updates)
    return optax.apply_updates(variables, updates), moments


@functools.partial(jax.jit, static_argnums=0)
def _whole(net, variables, images):
    return net.apply(variables, images)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _doubt(net, way, passes, variables, key, images):
    """What an image is chosen by: mutual information, or 1 less the largest mean probability."""
    # What lies before the first dropout does not depend on the key, so it runs once per image.
    fn = mc.from_linen(net, variables)
    settings = {"num_samples": passes, "chunk_size": 8, "summary": mc.classification()}
    out = mc.predict(fn, key, images, **settings)
    return out.mutual_information if way == "BALD" else 1 - out.probabilities.max(-1)


def _print_tables(found, options):
    steps, decays = f"{options.steps} steps of {_BATCH}", ""
    if options.program:
        steps = f"{_EPOCHS} epochs, batch {_PROGRAM_BATCH}"
    else:
        chosen = (f"{curve['decay']:g}" for curve in found["BALD"])
        decays = f"; decays chosen: {', '.join(chosen)}"
    print(
        f"\n{options.seeds} repetitions, {steps} per training, {options.passes} passes over "
        f"{options.pool}\nimages{decays}"
    )
    print("Labelled images, the first 20 included, until the test error is")
    titles = (f"{limit} % (published)" for limit in _LIMITS)
    print(f"\n{'':<18}" + "".join(f"{title:>30}" for title in titles))
    for way, curves in found.items():
        cells = []
        for limit, published in zip(_LIMITS, PUBLISHED[way]):
            numbers = [images_for(curve, limit) for curve in curves]
            reached = f"> {options.most}"
            if limit < options.error:
                reached = "not asked"
            elif None not in numbers:
                reached = _report.mean_and_error(numbers)
            cells.append(f"{reached} ({published})")
        print(f"{way:<18}" + "".join(f"{cell:>30}" for cell in cells))
    print("\nIn each repetition")
    for way, curves in found.items():
        cells = (
            ", ".join(str(images_for(curve, limit) or "-") for curve in curves) for limit in _LIMITS
        )
        print(f"{way:<18}" + "".join(f"{cell:>30}" for cell in cells))
    print("\nTest error in per cent, by labelled images")
    shown = [number for number in _SHOWN if number <= options.most]
    print(f"{'':<18}" + "".join(f"{number:>12}" for number in shown))
    for way, curves in found.items():
        cells = []
        for number in shown:
            errors = [dict(zip(c["images"], c["errors"])).get(number) for c in curves]
            # A repetition that has reached its last error has stopped.
            cells.append("-" if None in errors else f"{np.mean(errors):.2f}")
        print(f"{way:<18}" + "".join(f"{cell:>12}" for cell in cells))


def images_for(curve, limit):
    """The first number of labelled images whose test error is at most the limit, or None."""
    pairs = zip(curve["images"], curve["errors"])
    return next((number for number, error in pairs if error <= limit), None)


if __name__ == "__main__":
    main()
