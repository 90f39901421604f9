"""Texts of words: read from three files, or a small generated one."""

import collections
import pathlib
from typing import NamedTuple

import numpy as np

UNKNOWN, END = "<unk>", "<eos>"
_PARTS = ("train", "valid", "test")


class Corpus(NamedTuple):
    """A text as numbers.

    Attributes:
        words: the vocabulary; a number is a position in it.
        train: int32 array, the text to learn from.
        valid: int32 array, the text that decides.
        test: int32 array, the text whose score is reported.
    """

    words: list[str]
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def read(folder):
    """The text in ``train.txt``, ``valid.txt`` and ``test.txt``: words separated by white space.

    The end of a line is a word too. Words that the training text does not contain are unknown.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a file holds no words.
    """
    texts = {}
    for part in _PARTS:
        file = pathlib.Path(folder) / f"{part}.txt"
        if not file.is_file():
            raise FileNotFoundError(
                f"--data: expected {', '.join(f'{p}.txt' for p in _PARTS)} in {folder}, found no "
                f"{file.name}; Penn Treebank and WikiText come in this form"
            )
        lines = file.read_text(encoding="utf-8").splitlines()
        texts[part] = [word for line in lines for word in (*line.split(), END)]
        if not any(word != END for word in texts[part]):
            raise ValueError(f"--data: expected words in {file}, found none; check the file")
    counts = collections.Counter(texts["train"])
    words = [word for word, _ in counts.most_common()]
    words += [word for word in (UNKNOWN,) if word not in counts]
    numbers = {word: number for number, word in enumerate(words)}
    unknown = numbers[UNKNOWN]
    parts = (np.array([numbers.get(w, unknown) for w in texts[p]], np.int32) for p in _PARTS)
    return Corpus(words, *parts)


def write_small(folder, seed=0):
    """Writes a generated text: sentences of a grammar whose verbs agree with their subjects."""
    rng = np.random.default_rng(seed)
    nouns = [f"noun{i}" for i in range(60)]
    verbs = [f"verb{i}" for i in range(30)]
    for part, number in zip(_PARTS, (600, 120, 120)):
        sentences = []
        for _ in range(number):
            subject, other = rng.zipf(1.5, 2) % len(nouns)
            verb = verbs[(subject * 7 + rng.integers(3)) % len(verbs)]
            adverbs = ["very"] * rng.integers(3) + ["slowly"] * rng.integers(2)
            sentences.append(" ".join(["the", nouns[subject], *adverbs, verb, "a", nouns[other]]))
        (pathlib.Path(folder) / f"{part}.txt").write_text("\n".join(sentences), encoding="utf-8")


def windows(text, batch, steps):
    """Inputs and targets in the order of reading, and which targets count.

    The text is cut into ``batch`` stretches that are read side by side, ``steps`` words at a time.

    Returns:
        Inputs, targets and weights, arrays of shape ``(number, batch, steps)``. The weight of the
        padding in the last window is 0, so every word but the first is predicted once.
    """
    predicted = len(text) - 1
    length = -(-predicted // batch)
    number = -(-length // steps)
    place = np.arange(batch)[:, None] * length + np.arange(number * steps)[None]
    inside = (np.arange(number * steps) < length)[None] & (place < predicted)
    place = np.where(inside, place, 0)

    def cut(values):
        return values.reshape(batch, number, steps).swapaxes(0, 1)

    return cut(text[place]), cut(text[place + 1]), cut(inside.astype(np.float32))
