"""Prose is plain English: the habits that it once had do not come back."""

import io
import json
import pathlib
import re
import tokenize

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_PAGES = [
    path
    for pattern in ("*.md", "docs/**/*.md", "notebooks/*.ipynb", "benchmarks/*.md")
    for path in sorted(_ROOT.glob(pattern))
]
_SOURCES = [
    path
    for pattern in ("benchmarks/*.py", "docs/*.py", "jaxdrop/**/*.py")
    for path in sorted(_ROOT.glob(pattern))
]
# Each with what to write instead.
_HABITS = {
    r"(?<!there )\b(is|are|was|were) no (?!longer|more|less)": "is not a",
    r"(?<!there )\b(is|are) (?-i:none)\b": "is not one",
    r"\bof (ours|theirs)\b": "jaxdrop's, their",
    r"\blest\b": "so that ... not, because",
    r"\bin place of\b": "instead of",
    r"\bwhatever (it|they|the)\b": "for every",
    r"\bwhere nothing\b": "if nothing",
    r"\banew\b": "again, a new",
    r"\bas (it|they) came\b": "unchanged",
    r"\bentr(y|ies)\b": "element",
    r"\b(one|a|an|\d+) (bit|byte|decision|key|launch|mask|rate|row)s? an? \w": "per",
}
# On pages, where a reader does not know the house.
_HABITS_OF_PAGES = {
    r"\b(is|are) told\b": "the page says, the program gets",
    r"\b(as|than) one (asks|writes)\b": "you ask, you write",
    r"\btakes? off you\b": "stays yours",
    r"\b(says?|tells?) (nothing|nearly|by itself)\b": "what it shows or does not show",
    r"\bcrosswise\b": "would broadcast to (N, N)",
    r"\bdo not meet\b": "do not interact",
    r"\bthat (is|are) to go\b": "deprecated",
}
# Users read of packages and guarantees; these words are for those who build the house.
_HOUSE_WORDS = r"\b(floor(?!\()|law)s?\b"  # the function aside
_FOR_MAINTAINERS = {"design.md", "CONTRIBUTING.md"}


def _prose(path):
    """What a file says: comments and strings of a program, Markdown without what it printed."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        spoken = [each.string for each in tokens if _is_spoken(each.type)]
    elif path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        spoken = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    else:
        spoken = [re.sub(r"^```\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)]
    return [re.sub(r"\s+(# )?", " ", each) for each in spoken]


def _is_spoken(kind):
    # From Python 3.12 on the text of an f-string is a token of another kind.
    return tokenize.tok_name[kind] in ("COMMENT", "STRING", "FSTRING_MIDDLE")


def _found(path, text):
    habits = dict(_HABITS) | (_HABITS_OF_PAGES if path.suffix == ".md" else {})
    if path.name not in _FOR_MAINTAINERS:
        habits[_HOUSE_WORDS] = "package, what always holds"
    for pattern, better in habits.items():
        for hit in re.finditer(pattern, text, re.IGNORECASE):
            shown = text[max(0, hit.start() - 30) : hit.end() + 30]
            yield f"{path.relative_to(_ROOT)}: ...{shown}...: write {better}"


def test_prose_has_lost_its_habits():
    found = [
        line for path in _PAGES + _SOURCES for text in _prose(path) for line in _found(path, text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.md", "A mask is\nno array."),
        ("page.md", "Which one to choose is told family by family."),
        ("page.md", "```python\nmask  # one bit an entry\n```"),
        ("code.py", '"""It stays as it came."""'),
        ("code.py", "x = 1  # drawn anew"),
        ("code.py", 'print(f"{1}: in place of {2}")'),
        ("book.ipynb", '{"cells": [{"cell_type": "markdown", "source": ["a ", "law"]}]}'),
    ],
)
def test_a_habit_is_seen(monkeypatch, tmp_path, name, text):
    monkeypatch.setitem(globals(), "_ROOT", tmp_path)
    (tmp_path / name).write_text(text)
    assert [line for each in _prose(tmp_path / name) for line in _found(tmp_path / name, each)]


def test_words_that_look_alike_are_no_habits(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("There is no key. It is no longer drawn; it is None.\n```\nB/entry\n```\n")
    assert not [line for text in _prose(page) for line in _found(page, text)]
