"""What the README shows runs, and what it names is there."""

import pathlib
import re

import pytest

import jaxdrop
from tests.support.blocks import blocks

_README = pathlib.Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("code", blocks(_README, "python"))
def test_block_runs(code, capsys):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    for expected in re.findall(r"^print\(.*\)  # (\(.*)$", code, re.MULTILINE):
        assert expected in printed


def test_there_is_a_block():
    assert blocks(_README, "python")


def test_first_screen_holds_the_picture_of_the_floors():
    picture = next(block for block in blocks(_README, "") if "masks" in block)
    assert [line.strip() for line in picture.splitlines() if line] == [
        line.strip() for line in jaxdrop.__doc__.split("::")[1].splitlines()[2:5]
    ]


def test_family_in_the_table_is_complete():
    """Every function of floor 2 is named there, by itself or by its ending."""
    table = _README.read_text("utf-8").split("## The family")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", table))
    for name in jaxdrop.functional.__all__:
        assert name in named or any(e.startswith("_") and name.endswith(e) for e in named), name


def test_table_names_what_exists():
    rows = re.findall(r"^\| (`jaxdrop.*?) \| (.*?) \|$", _README.read_text("utf-8"), re.MULTILINE)
    assert len(rows) >= 6
    for modules, contents in rows:
        for path in re.findall(r"`(.*?)`", modules):
            module = jaxdrop
            for name in path.split(".")[1:]:
                module = getattr(module, name)
            for name in re.findall(r"`(\w+)`", contents.split("; needs")[0]):
                assert hasattr(module, name), (path, name)
