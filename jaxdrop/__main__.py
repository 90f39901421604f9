"""``python -m jaxdrop demo`` and ``python -m jaxdrop --version``."""

import argparse
import importlib.util
import pathlib
from collections.abc import Sequence

import jaxdrop

_REQUIRED = ("matplotlib", "optax", "sklearn", "tqdm")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and runs the command that it names."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxdrop", description="Dropout for JAX and Flax."
    )
    parser.add_argument("--version", action="version", version=f"jaxdrop {jaxdrop.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="train a digit classifier and ask it how sure it is",
        description="Trains a small convolutional network with dropout on the 8x8 handwritten "
        "digits that ship inside scikit-learn, then compares one pass of it (weight averaging) "
        "with Monte-Carlo dropout: accuracy and calibration, what happens while a digit is turned "
        "upside down, and how accuracy grows when the most uncertain predictions are refused. "
        "Prints a table and saves one picture. Takes less than a minute on two cores.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--seed", type=int, default=0, help="same seed, same numbers")
    demo.add_argument("--epochs", type=_positive, default=40, help="passes over the training set")
    demo.add_argument("--samples", type=_positive, default=100, help="Monte-Carlo passes")
    demo.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("jaxdrop-demo"),
        metavar="DIR",
        help="folder to save the picture in; created if it does not exist",
    )
    options = parser.parse_args(arguments)

    missing = [name for name in _REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        parser.exit(2, f"The demo needs {', '.join(missing)}. Write: pip install 'jaxdrop[demo]'\n")
    # Imported here, because it imports what the line above asks for.
    from jaxdrop import _demo

    _demo.run(options.seed, options.epochs, options.samples, options.output)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


if __name__ == "__main__":
    main()
