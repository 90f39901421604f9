"""What the pages show runs, what they name is there, and the readme says the same in Chinese."""

import contextlib
import importlib.util
import pathlib
import re
import types
import warnings

import jax
import pytest

import jaxdrop
from tests.support.blocks import blocks, imported

_ROOT = pathlib.Path(__file__).parents[2]
_DOCS = _ROOT / "docs"
_PAGES = sorted(_DOCS.rglob("*.md"))
_READMES = _ROOT / "README.md", _ROOT / "README.zh.md"
# Packages that jaxdrop does not need and that a page may show.
_OTHERS = {
    *("attnax", "equinox", "grain", "haiku", "jraph"),
    *("mapie", "optax", "orbax", "tensorflow", "torch"),
}
_FLOORS = ("masks", "functional", "linen", "nnx", "mc", "uncertainty", "plots")


def _name(path):
    return str(path.relative_to(_ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in _PAGES if blocks(p, "python")], ids=_name)
def test_blocks_run(page):
    """In order, as one program, but for blocks whose packages are not there.

    Home first shows what to do with what its second block makes.
    """
    names, missing, used = {"__name__": "page"}, set(), set()
    codes = list(enumerate(blocks(page, "python"), 1))
    if page.name == "index.md":
        codes = [*codes[1:], codes[0]]
    for number, code in codes:
        others = imported(code) & _OTHERS
        used |= others
        absent = {name for name in others if importlib.util.find_spec(name) is None}
        missing |= absent
        if not absent:
            with _as_others_are_used(used):
                exec(compile(code, f"{_name(page)}, block {number}", "exec"), names)
    if missing:
        pytest.skip(f"all but the blocks that import {', '.join(sorted(missing))}")


@contextlib.contextmanager
def _as_others_are_used(others):
    """Their warnings are theirs, and they rely on what JAX does if nobody asks it to be strict."""
    if not others:
        yield
        return
    with (
        warnings.catch_warnings(),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_key_reuse(False),
    ):
        warnings.simplefilter("ignore")
        yield


def test_a_block_that_may_be_left_out_is_seen():
    pages = _DOCS / "recipes.md", _DOCS / "mc_recipes.md"
    recipes = "".join(code for page in pages for code in blocks(page, "python"))
    assert imported(recipes) >= _OTHERS
    assert imported("import a.b as c\nfrom d.e import f") == {"a", "d"}


@pytest.mark.parametrize("page", [p for p in _PAGES if blocks(p, "python")], ids=_name)
def test_code_is_as_wide_as_a_page_shows(page):
    """On a desktop; ``ruff format --isolated --line-length 68`` formats the code of a page."""
    wide = [line for code in blocks(page, "python") for line in code.splitlines() if line[68:]]
    assert not wide, "\n".join(wide)


def test_tables_of_a_family_say_when_in_their_second_column():
    heads = [
        re.findall(r"^\| (?:function|what) \|.*$", page.read_text("utf-8"), re.MULTILINE)
        for page in (_DOCS / "family").glob("*.md")
    ]
    assert all(heads)
    assert all(head.split(" | ")[1] == "when" for found in heads for head in found)


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_what_a_page_names_exists(page):
    for path in re.findall(r"`jaxdrop\.([\w.]+)", page.read_text("utf-8")):
        thing = jaxdrop
        for name in path.split("."):
            thing = getattr(thing, name)


def test_most_pages_show_something():
    assert sum(bool(blocks(page, "python")) for page in _PAGES) > len(_PAGES) / 2


def test_every_function_has_a_page_that_says_when():
    pages = "".join(page.read_text("utf-8") for page in _DOCS.rglob("*.md"))
    named = set(re.findall(r"`(?:jaxdrop\.)?(\w+)", pages))
    assert set(jaxdrop.functional.__all__) <= named


@pytest.mark.parametrize("floor", _FLOORS)
def test_the_reference_takes_in_each_floor(floor):
    """All of its ``__all__``: the build fails where one is not there, see ``docs/hooks.py``."""
    page = (_DOCS / "api" / f"{floor}.md").read_text("utf-8")
    assert re.search(rf"^::: jaxdrop\.{floor}$", page, re.MULTILINE)


@pytest.mark.parametrize("floor", _FLOORS)
def test_a_page_of_the_reference_opens_with_a_table_of_its_names(hooks, floor):
    page = types.SimpleNamespace(url="")
    table, members = hooks.on_page_markdown(f"::: jaxdrop.{floor}", page).split("\n\n")
    rows = re.findall(rf"^\| \[`(\w+)`\]\[jaxdrop\.{floor}\.\w+\] \| [\w`].* \|$", table, re.M)
    module = getattr(jaxdrop, floor)
    assert sorted(rows) == sorted(module.__all__) and len(table.splitlines()) == 2 + len(rows)
    assert re.search(r"members: \[(.*)\]", members)[1].split(", ") == rows
    if floor in ("functional", "mc", "linen"):
        assert rows[0] in ("dropout", "predict", "Dropout")


def test_long_names_may_break_in_tables_alone(hooks):
    row = "<td>a <code>jaxdrop.drop_path</code></td><td><code>DropPath(x=1.5)</code></td>"
    broken = hooks.on_page_content(f"{row}<p><code>drop_path</code></p>")
    assert re.findall(r"<code>(.*?)</code>", broken) == [
        "jaxdrop.<wbr>drop_<wbr>path", "Drop<wbr>Path(x=1.5)", "drop_path"
    ]  # fmt: skip
    assert broken.replace("<wbr>", "") == f"{row}<p><code>drop_path</code></p>"


def test_the_design_page_names_what_exists():
    """Paths from the root, and tests by their names."""
    page = (_DOCS / "design.md").read_text("utf-8")
    paths = re.findall(r"`((?:jaxdrop|tests|docs)/[\w./]+)`", page)
    assert paths and not [path for path in paths if not (_ROOT / path).exists()]
    sources = "".join(path.read_text("utf-8") for path in (_ROOT / "tests").rglob("test_*.py"))
    tests = set(re.findall(r"`(test_\w+)`", page))
    assert tests and tests <= set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))


def test_every_page_is_in_the_menu():
    menu = set(re.findall(r": (\S+\.md)$", (_ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    notebooks = {f"notebooks/{path.stem}.md" for path in (_ROOT / "notebooks").glob("*.ipynb")}
    assert menu == {str(page.relative_to(_DOCS)) for page in _PAGES} | notebooks


def test_both_readmes_hold_the_same():
    """Blocks, headings, rows of tables with the names in them, and links, in one order."""
    texts = [path.read_text("utf-8").replace("README.zh", "README") for path in _READMES]
    for part in (r"^```.*?^```$", r"^#+ ", r"^\|", r"\]\((.*?)\)"):
        english, chinese = (re.findall(part, text, re.DOTALL | re.MULTILINE) for text in texts)
        assert english and english == chinese, part
    rows = [re.findall(r"^\| .*$", text, re.MULTILINE) for text in texts]
    for english, chinese in zip(*rows):
        assert re.findall(r"`(.*?)`", english) == re.findall(r"`(.*?)`", chinese)


@pytest.fixture
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", _DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _site(hooks, folder, body):
    for floor in _FLOORS:
        page = folder / "api" / floor / "index.html"
        page.parent.mkdir(parents=True)
        names = hooks.names(floor)
        page.write_text("".join(f'<h2 id="jaxdrop.{floor}.{name}"></h2>' for name in names))
    (folder / "index.html").write_text(body)
    return folder


def test_a_sound_site_passes(hooks, tmp_path):
    body = '<a href="api/mc/#jaxdrop.mc.audit">a</a> <a href="https://jax.dev">b</a>'
    assert hooks.faults(_site(hooks, tmp_path, body)) == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="nowhere/">a</a>', "index.html: broken: nowhere/"),
        ('<a href="api/mc/#jaxdrop.mc.no">a</a>', "index.html: broken: api/mc/#jaxdrop.mc.no"),
        ('<img src="no.png" alt="a mask">', "index.html: broken: no.png"),
        ('<img src="api/mc/index.html">', "picture without a description: api/mc/index.html"),
    ],
)
def test_a_broken_page_fails_the_build(hooks, tmp_path, body, fault):
    (found,) = hooks.faults(_site(hooks, tmp_path, body))
    assert fault in found


def test_a_name_that_the_reference_lacks_fails_the_build(hooks, tmp_path):
    page = _site(hooks, tmp_path, "") / "api" / "mc" / "index.html"
    page.write_text(page.read_text().replace("jaxdrop.mc.audit", "jaxdrop.mc.other"))
    assert hooks.faults(tmp_path) == ["jaxdrop.mc.audit: not in the reference"]


def test_a_call_that_the_reference_lacks_fails_the_build(hooks, tmp_path):
    page = _site(hooks, tmp_path, "") / "api" / "nnx" / "index.html"
    page.write_text(page.read_text().replace("DropPath.__call__", "DropPath.other"))
    assert hooks.faults(tmp_path) == ["jaxdrop.nnx.DropPath.__call__: not in the reference"]
