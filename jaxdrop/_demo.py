"""The demo: a digit classifier with dropout, and how sure it is."""

import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from scipy import ndimage
from sklearn.datasets import load_digits
from tqdm import tqdm

from jaxdrop import linen, mc, plots, uncertainty

_BATCH = 64
_ANGLES = range(0, 181, 15)
_SLANT = 30
_UNLIKE = (_SLANT, 90)  # angles at which all digits are turned
_KEPT_SHARES = (1.0, 0.9, 0.8, 0.5)
_Data = tuple[np.ndarray, np.ndarray]  # images and labels
_Predictions = dict[str, jax.Array]  # probabilities by name


class _Network(nn.Module):
    """Two convolutions and two dense layers, with dropout after each of the first three."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(nn.Conv(32, (3, 3))(images))
        x = linen.SpatialDropout(0.1, deterministic=not train)(x)
        x = nn.relu(nn.Conv(64, (3, 3), strides=2)(x))
        x = linen.SpatialDropout(0.1, deterministic=not train)(x)
        x = nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))
        x = linen.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(10)(x)


def run(seed: int, epochs: int, num_samples: int, output: pathlib.Path) -> None:
    """Trains, predicts, prints the tables and saves the picture."""
    started = time.perf_counter()
    train, (images, labels) = _data(seed)
    model = _Network()
    key = jax.random.key(seed)
    variables = _train(model, jax.random.fold_in(key, 0), train, epochs)
    forward = jax.jit(model.apply)
    fn = mc.from_linen(model, variables)

    def predict(number: int, images: np.ndarray) -> tuple[_Predictions, mc.Classification]:
        """Probabilities of one pass and of many by name, and the whole summary of the many."""
        key_ = jax.random.fold_in(key, number)
        summary = mc.classification()
        sampled = mc.predict(fn, key_, images, num_samples=num_samples, summary=summary)
        one_pass = jax.nn.softmax(forward(variables, images))
        return {"one pass": one_pass, f"{num_samples} MC samples": sampled.probabilities}, sampled

    print(f"\nDropout sites that are live in Monte-Carlo prediction\n{mc.audit(fn, key, images)}")
    upright, sampled = predict(1, images)
    slanted, _ = predict(2, _turn(images, _SLANT))
    print(f"\nTest digits as they are\n{uncertainty.report(upright, labels)}")
    print(_familiar(upright, labels))
    title = f"The same digits turned by {_SLANT}°, as never seen in training"
    print(f"\n{title}\n{uncertainty.report(slanted, labels)}")
    print(_unfamiliar(slanted, labels))
    _print_detecting(upright, [slanted, predict(4, _turn(images, _UNLIKE[1]))[0]])

    chosen = _most_certain(sampled, labels)
    turned = np.concatenate([_turn(images[chosen : chosen + 1], angle) for angle in _ANGLES])
    turning = predict(3, turned)
    _print_turning(*turning, int(labels[chosen]))
    print(_fooled(turning[1], int(labels[chosen])))
    _print_refusing(slanted, labels)
    path = _draw(output, slanted, labels, turned, turning[1])
    print(f"\n{time.perf_counter() - started:.0f} s. Picture: {path}")
    print("Next: your own model. Write mc.predict(mc.from_linen(model, variables), key, x).")


def _data(seed: int) -> tuple[_Data, _Data]:
    """Training and test set, half of the digits each."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16.0).astype(np.float32).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(seed).permutation(len(images))
    half = len(images) // 2
    first, second = order[:half], order[half:]
    labels = labels.astype(np.int32)
    return (images[first], labels[first]), (images[second], labels[second])


def _train(model: nn.Module, key: jax.Array, data: _Data, epochs: int) -> Any:
    """Variables of the model after training."""
    images, labels = data
    steps = len(images) // _BATCH
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, epochs * steps))
    variables = model.init(jax.random.fold_in(key, 0), images[:1])

    def loss(variables: Any, key: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits: Any = model.apply(variables, images, train=True, rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    # Not a scan over the steps: on a CPU, XLA takes ten times as long for the gradient of a
    # convolution inside a loop.
    @jax.jit
    def step(
        state: Any, key: jax.Array, images: np.ndarray, labels: np.ndarray
    ) -> tuple[Any, jax.Array]:
        variables, memory = state
        value, gradient = jax.value_and_grad(loss)(variables, key, images, labels)
        updates, memory = optimizer.update(gradient, memory)
        return (optax.apply_updates(variables, updates), memory), value

    state = variables, optimizer.init(variables)
    with tqdm(range(1, epochs + 1), desc="training", unit="epoch", ncols=78) as bar:
        for number in bar:
            order_key, step_key = jax.random.split(jax.random.fold_in(key, number))
            order = np.asarray(jax.random.permutation(order_key, len(images)))
            batches = order[: steps * _BATCH].reshape(steps, _BATCH)
            losses = []
            for key_, batch in zip(jax.random.split(step_key, steps), batches):
                state, value = step(state, key_, images[batch], labels[batch])
                losses.append(value)
            bar.set_postfix(loss=f"{np.mean(losses):.3f}")
    return state[0]


def _turn(images: np.ndarray, angle: float) -> np.ndarray:
    turned = ndimage.rotate(images, angle, axes=(1, 2), reshape=False, order=1)
    return turned.clip(0, 1).astype(np.float32)


def _most_certain(sampled: mc.Classification, labels: np.ndarray) -> int:
    """Index of the digit that the model is right and most certain about."""
    # Those that do not look like a digit when they are upside down.
    right = (sampled.probabilities.argmax(-1) == labels) & np.isin(labels, (2, 3, 4, 7))
    return int(np.argmin(np.where(right, sampled.mutual_information, np.inf)))


def _better(predictions: _Predictions, labels: np.ndarray, score: Any) -> str:
    """Name of the predictions with the lower score."""
    return min(predictions, key=lambda name: float(score(predictions[name], labels)))


def _familiar(predictions: _Predictions, labels: np.ndarray) -> str:
    if _better(predictions, labels, uncertainty.negative_log_likelihood) == "one pass":
        return "Digits like those of training: one pass is enough. Its log-likelihood is better."
    return "Digits like those of training: many passes have the better log-likelihood."


def _unfamiliar(predictions: _Predictions, labels: np.ndarray) -> str:
    better = _better(predictions, labels, uncertainty.expected_calibration_error)
    return f"Digits unlike those: the smaller calibration error is that of {better}."


def _print_detecting(upright: _Predictions, turned: list[_Predictions]) -> None:
    """How often a turned digit has a larger entropy than an upright one."""
    print("\nAUROC of the entropy: how often a turned digit has more of it than an upright")
    print(f"{'turned by':22}" + "".join(f"{angle:9d}°" for angle in _UNLIKE))
    values = {name: [_auroc(upright[name], unlike[name]) for unlike in turned] for name in upright}
    for name, row in values.items():
        print(f"{name:22}" + "".join(f"{value:10.4f}" for value in row))
    one_pass, many = (row[-1] for row in values.values())
    print(
        f"0.5 is a guess, 1 is perfect. At {_UNLIKE[1]}° many passes change it by "
        f"{many - one_pass:+.2f}."
    )


def _auroc(upright: jax.Array, turned: jax.Array) -> float:
    doubt = uncertainty.entropy(jnp.concatenate([upright, turned]))
    return float(uncertainty.auroc(doubt, jnp.arange(len(doubt)) >= len(upright)))


def _fooled(sampled: mc.Classification, digit: int) -> str:
    """Where a wrong class is taken for certain; the demo shows this limit too."""
    classes = sampled.probabilities.argmax(-1)
    if (classes == digit).all():
        return "It is right at every angle."
    worst = int(jnp.where(classes == digit, 0, sampled.probabilities.max(-1)).argmax())
    sure = f"a {classes[worst]} with probability {sampled.probabilities[worst].max():.2f}"
    return f"At {_ANGLES[worst]}° it is fooled: {sure}. Doubt misses some mistakes."


def _print_turning(predictions: _Predictions, sampled: mc.Classification, digit: int) -> None:
    one_pass, many = predictions.values()
    print(f"\nA {digit}, turned: class and its probability, and what the model does not know")
    print("angle  one pass  MC samples  mutual information, nats")
    for angle, one, mean, information in zip(_ANGLES, one_pass, many, sampled.mutual_information):
        first = f"{int(one.argmax())}  {float(one.max()):.2f}"
        second = f"{int(mean.argmax())}  {float(mean.max()):.2f}"
        bar = "#" * round(30 * float(information))
        print(f"{angle:4d}°   {first}     {second}       {information:.3f} {bar}".rstrip())


def _print_refusing(predictions: _Predictions, labels: np.ndarray) -> None:
    print(f"\nTurned by {_SLANT}°: accuracy of those kept when the least certain are refused")
    print(f"{'share kept':22}" + "".join(f"{share:10.0%}" for share in _KEPT_SHARES))
    gains = []
    for name, probabilities in predictions.items():
        wrong = probabilities.argmax(-1) != labels
        curve = uncertainty.risk_coverage(uncertainty.entropy(probabilities), wrong)
        last = [round(share * len(curve.risk)) - 1 for share in _KEPT_SHARES]
        print(f"{name:22}" + "".join(f"{float(1 - curve.risk[i]):10.4f}" for i in last))
        gains.append(float(curve.risk[-1] - curve.risk[last[-1]]))
    print(f"Keeping half changes accuracy by {gains[0]:+.2f} (one pass), {gains[1]:+.2f} (many).")


def _draw(
    output: pathlib.Path,
    predictions: _Predictions,
    labels: np.ndarray,
    turned: np.ndarray,
    turning: mc.Classification,
) -> pathlib.Path:
    """Saves the picture and returns its path."""
    figure, (left, *others) = plots.figure(4)
    left.plot(_ANGLES, turning.mutual_information, "o-", label="mutual information, nats")
    left.plot(_ANGLES, turning.probabilities.max(-1), "s--", label="highest probability")
    for angle, image, row in zip(_ANGLES, turned, turning.probabilities):
        place = left.inset_axes((angle - 7, 1.12, 14, 0.16), transform=left.transData)
        place.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1, aspect="auto")
        place.set(xticks=[], yticks=[])
        left.text(angle, 1.05, str(int(row.argmax())), ha="center", va="center")
    left.set(xlabel="turned by, degrees", title="A digit turned, and what it is taken for")
    left.set(ylim=(0, 1.32), xlim=(-10, 190), xticks=_ANGLES[::2])
    left.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncol=2)
    plots.overview(predictions, labels, axes=others)
    figure.suptitle(f"One digit while it turns, and all digits turned by {_SLANT}°")
    output.mkdir(parents=True, exist_ok=True)
    path = output / "uncertainty.png"
    figure.savefig(path, dpi=110)
    return path
