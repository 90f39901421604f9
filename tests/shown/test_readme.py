"""What the README shows runs, and what it names is there."""

import pathlib
import re

import jaxdrop
from tests.support.blocks import blocks

_ROOT = pathlib.Path(__file__).parents[2]
_README = _ROOT / "README.md"


def test_blocks_run(capsys):
    """The first one shows what to do with what the second makes."""
    first, program = blocks(_README, "python")
    names = {"__name__": "readme"}
    exec(compile(program, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    for expected in re.findall(r"^print\(.*\)  # (\(.*)$", program, re.MULTILINE):
        assert expected in printed
    exec(compile(first, "README.md, first block", "exec"), names)
    assert names["out"].mutual_information.shape == (32,)


def test_numbers_of_the_first_screen_are_those_of_the_benchmarks():
    """Row by row, rounded as shown; so a new measurement changes both."""
    tables = (_ROOT / "benchmarks" / "README.md").read_text("utf-8")
    names = ("jaxdrop", "flax linen", "equinox", "haiku", "keras")

    def section(title):
        rows = tables.split(f"{title}: float32 4096x4096, rate 0.1\n")[1].split("\n\n")[0]
        return dict(re.findall(r"^  (\S[\w ]*?) {2,}(.*)$", rows, re.MULTILINE))

    def ratios(title):
        found = (re.search(r"([\d.]+) x copy", section(title)[name])[1] for name in names)
        return [f"{float(ratio):.2f}" for ratio in found]

    kept = [section("kept for backward")[name].split()[0] for name in names]
    large = tables.split("| bfloat16 (16384, 8192), rate 0.1 |")[1]
    bound = {
        name: re.search(rf"\| {name} \|.*?([\d.]+) \|$", "|" + large, re.MULTILINE)[1]
        for name in ("copy", "jaxdrop", "flax linen")
    }
    for file in (_README, _ROOT / "docs" / "index.md", _ROOT / "README.zh.md"):
        rows = re.findall(r"^\| (?:CPU|any|任何|H200).*$", file.read_text("utf-8"), re.MULTILINE)
        shown = [row.strip("| ").split(" | ") for row in rows]
        assert [row[1:] for row in shown[:3]] == [
            ratios("forward"), ratios("forward and backward"), kept
        ]  # fmt: skip
        assert shown[3][1:3] == [bound["jaxdrop"], bound["flax linen"]]
        assert bound["copy"] in shown[3][0]


def test_numbers_of_the_comparison_are_those_of_the_benchmarks():
    """Each cell that is a number is one of theirs, rounded as shown."""
    numbers = r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)"
    benchmarks = (_ROOT / "benchmarks" / "README.md").read_text("utf-8")
    measured = {float(number) for number in re.findall(numbers, benchmarks)}
    page = (_ROOT / "docs" / "compare.md").read_text("utf-8")
    cells = re.findall(r"(?<=\| )[\d.]+(?= \|)", page)
    assert len(cells) >= 50
    for cell in cells:
        places = len(cell.partition(".")[2])
        assert any(f"{number:.{places}f}" == cell for number in measured), cell


def test_the_readme_holds_the_picture_of_the_floors():
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
