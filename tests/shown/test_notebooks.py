"""Every notebook runs, and what is committed of it is what it gave, and small."""

import importlib.util
import json
import re
import sys

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

import jaxdrop
from tests.support import notebooks

_MOST_BYTES = 1_000_000
# A path from the root of a machine, and a duration; neither is the same on the next one.
_PATH = re.compile(r"(?<![\w.~)\]])/\w[\w.-]*/\w|[A-Z]:\\")
_DURATION = re.compile(r"\d ?(ns|us|µs|ms|s|sec|seconds|minutes|it/s)\b")

every = pytest.mark.parametrize("path", notebooks.PATHS, ids=lambda path: path.stem)


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _printed(notebook):
    """All text that the cells gave."""
    for cell in _code(notebook):
        for output in cell.outputs:
            yield output.get("text", "") + output.get("data", {}).get("text/plain", "")


@every
def test_notebook_runs_short(path):
    notebooks.execute(notebooks.read(path), quick=True)


@pytest.mark.slow
@every
def test_notebook_runs(path):
    notebooks.execute(notebooks.read(path), quick=False)


@every
def test_committed_notebook_is_as_the_tool_writes_it(path):
    notebook = notebooks.read(path)
    nbformat.validate(notebook)
    assert path.read_text("utf-8") == notebooks.text(notebooks.clean(notebook)), (
        f"write: python -m tests.support.notebooks {path.stem}"
    )
    assert path.stat().st_size < _MOST_BYTES


@every
def test_committed_notebook_was_run_from_top_to_bottom(path):
    notebook = notebooks.read(path)
    counts = [cell.execution_count for cell in _code(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert all(out.output_type != "error" for cell in _code(notebook) for out in cell.outputs)
    assert any(_printed(notebook))


@every
def test_committed_results_are_those_of_any_machine(path):
    for text in _printed(notebooks.read(path)):
        assert not _PATH.search(text), text
        assert not _DURATION.search(text), text
        assert not re.search(r" at 0x[0-9a-f]+", text), text


def test_notebooks_are_numbered():
    numbers = [int(path.name[:2]) for path in notebooks.PATHS]
    assert numbers == list(range(1, len(numbers) + 1))


def test_readme_lists_every_notebook():
    readme = (notebooks.ROOT / "README.md").read_text("utf-8")
    linked = re.findall(r"\(notebooks/(\w+)\.ipynb\)", readme)
    assert linked == [path.stem for path in notebooks.PATHS]


@every
def test_links_between_notebooks_lead_somewhere(path):
    for cell in notebooks.read(path).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#]+)\)", cell.source):
                assert (path.parent / target).exists(), target


@every
def test_notebook_opens_with_its_question_and_the_answer_and_leads_on(path):
    cells = notebooks.read(path).cells
    assert re.match(r"# \d · .*\n\n\*\*[^*]+\?[^*]*\*\*\n\n\*Answer: [^*]+\.\*\n", cells[0].source)
    assert re.search(r"runs in .* minutes? on two CPU cores", cells[0].source.replace("\n", " "))
    number = (int(path.name[:2]) % len(notebooks.PATHS)) + 1
    assert f"]({notebooks.PATHS[number - 1].name})" in cells[-1].source


@every
def test_notebook_becomes_a_page(path):
    place = notebooks.ROOT / "docs" / "notebooks.py"
    spec = importlib.util.spec_from_file_location("pages_of_notebooks", place)
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    page, pictures = hook.page(json.loads(path.read_text("utf-8")), path.stem)
    notebook = notebooks.read(path)
    outputs = [output for cell in _code(notebook) for output in cell.outputs]
    drawn = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == len(drawn) == page.count("![Picture: ")
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    assert ".ipynb)" not in page and "\n%" not in page and page.count("```") % 2 == 0
    for cell in notebook.cells:
        assert cell.source.splitlines()[-1].replace(".ipynb)", ".md)") in page
    for printed in _printed(notebook):
        assert printed.rstrip() in page


def test_gallery_names_every_function():
    text = next(path for path in notebooks.PATHS if "gallery" in path.name).read_text("utf-8")
    missing = [name for name in jaxdrop.functional.__all__ if not re.search(rf"\b{name}\b", text)]
    assert not missing


def _notebook(*sources):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in sources])


_BAR = "import tqdm; _ = list(tqdm.tqdm([1]))"


@pytest.mark.parametrize(("quick", "flags"), [(False, None), (True, notebooks.COMPILE_FAST)])
def test_runner_uses_this_interpreter_and_a_fresh_start(quick, flags):
    source = "import os, sys; print(sys.executable, os.environ.get('XLA_FLAGS'), end='')"
    ran = notebooks.execute(_notebook(source, _BAR), quick=quick)
    assert next(_printed(ran)) == f"{sys.executable} {flags}"
    assert [len(cell.outputs) for cell in notebooks.clean(ran).cells] == [1, 0]


def test_runner_takes_a_warning_for_an_error():
    with pytest.raises(CellExecutionError, match="careful") as stopped:
        notebooks.execute(_notebook("import warnings; warnings.warn('careful')"), quick=True)
    assert stopped.value.ename == "UserWarning"
