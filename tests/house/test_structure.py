"""The house keeps its floors, every public name is explained, and every example runs."""

import ast
import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from tests.support import cases, selection

_ROOT = pathlib.Path(__file__).parents[2]
_PACKAGE = pathlib.Path(jaxdrop.__file__).parent
_FLOORS = {
    "masks": set(),
    "functional": {"masks"},
    "linen": {"masks", "functional"},
    "nnx": {"masks", "functional"},
    "uncertainty": set(),
    "mc": {"masks", "functional", "linen", "nnx", "uncertainty"},
    "plots": {"masks", "uncertainty"},
}
_WITH_DOORS = ("masks", "functional", "linen", "uncertainty")
_OPTIONAL = {"matplotlib", "optax", "sklearn", "tqdm", "scipy", "chex"}
_PROGRAM = {"__main__.py", "_demo.py"}
_OF_FLAX = {"self", "parent", "name", "args", "kwargs"}  # every module's
_AS_FLAX = {  # arguments that an attention_fn explains only where it differs
    name
    for function in (nn.dot_product_attention, nnx.dot_product_attention)
    for name in inspect.signature(function).parameters
}
_MODULES = sorted(
    name
    for _, name, _ in pkgutil.walk_packages([str(_PACKAGE)], "jaxdrop.")
    if name not in ("jaxdrop.__main__", "jaxdrop._demo")
)
_PUBLIC = sorted(
    {
        f"jaxdrop.{floor}.{name}"
        for floor in _FLOORS
        for name in importlib.import_module(f"jaxdrop.{floor}").__all__
    }
)


def _imported(path):
    """Dotted names that a file imports, with the names taken from each module."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _floor_of(dotted):
    parts = dotted.split(".")
    return parts[1] if parts[0] == "jaxdrop" and len(parts) > 1 else None


@pytest.mark.parametrize("floor", _FLOORS)
def test_a_floor_imports_only_from_floors_below(floor):
    for path in (_PACKAGE / floor).rglob("*.py"):
        used = {_floor_of(name) for name in _imported(path)} - {None, floor}
        assert used <= _FLOORS[floor], path


@pytest.mark.parametrize("floor", _FLOORS)
def test_a_package_is_entered_by_its_inner_door(floor):
    """Its underscored files are its own; ``_internal``, if it has one, lists what others use."""
    for path in (_PACKAGE / floor).rglob("*.py"):
        for name in _imported(path):
            package, *inner = name.split(".")[1:] if name.startswith("jaxdrop.") else [None]
            if package in _FLOORS and package != floor and inner and inner[0][0] == "_":
                assert name == f"jaxdrop.{package}._internal", path


@pytest.mark.parametrize("package", _WITH_DOORS)
def test_an_inner_door_lists_what_is_used_and_no_more(package):
    door = vars(importlib.import_module(f"jaxdrop.{package}._internal"))
    listed = {name for name in door if not name.startswith("__")}
    text = "".join(
        path.read_text("utf-8")
        for floor in set(_FLOORS) - {package}
        for path in (_PACKAGE / floor).rglob("*.py")
    )
    assert listed == set(re.findall(rf"(?<![\w.])(?:{package}|_internal)\.(\w+)", text)) & listed


def test_the_import_reader_sees_each_form(tmp_path):
    file = tmp_path / "file.py"
    file.write_text("import jaxdrop.mc\nfrom jaxdrop import nnx\nfrom jaxdrop.masks._rate import f")
    assert [_floor_of(name) for name in _imported(file)] == ["mc", "nnx", "masks"]


def test_every_folder_is_a_floor():
    folders = {path.name for path in _PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(_FLOORS)


def test_only_plots_and_the_demo_import_what_is_optional():
    for path in _PACKAGE.rglob("*.py"):
        optional = {name.split(".")[0] for name in _imported(path)} & _OPTIONAL
        if path.parent.name == "plots":
            assert optional <= {"matplotlib"}, path
        elif path.name == "_predict_batches.py":
            assert optional == {"tqdm"}, path  # does without it where it is not installed
        elif path.name not in _PROGRAM:
            assert not optional, path


def test_matplotlib_is_imported_lazily():
    for path in (_PACKAGE / "plots").glob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "matplotlib" not in ast.unparse(node), path


def test_the_package_holds_names_and_nothing_else():
    """And a door, behind which ``flax.nnx`` is imported if it is asked for."""
    body = ast.parse((_PACKAGE / "__init__.py").read_text("utf-8")).body
    assert ast.get_docstring(ast.Module(body, []))
    names = ast.Import | ast.ImportFrom | ast.Assign | ast.AugAssign | ast.Expr | ast.If
    others = [node for node in body if not isinstance(node, names)]
    assert [getattr(node, "name", None) for node in others] == ["__getattr__"]
    assert set(jaxdrop.__all__) == set(_FLOORS) | set(jaxdrop.functional.__all__)
    for name in jaxdrop.functional.__all__:
        assert getattr(jaxdrop, name) is getattr(jaxdrop.functional, name)


def test_every_public_name_is_explained():
    assert not {path: faults for path in _PUBLIC if (faults := _faults_of(path))}


def _faults_of(path):
    """What the docstring of a public name lacks."""
    module, name = path.rsplit(".", 1)
    thing = getattr(importlib.import_module(module), name)
    text = inspect.getdoc(thing) or ""
    # Flax's metaclass hides the arguments of an nnx class, but not those of its `__init__`.
    arguments = list(
        inspect.signature(thing.__init__ if inspect.isclass(thing) else thing).parameters
    )
    has_short_title = 0 < len(text.split("\n")[0]) <= 100
    if inspect.isclass(thing):
        asked = (("Attributes:", "Args:"),)
        text += "\n" + (inspect.getdoc(thing.__init__) or "")
        arguments = [name for name in arguments if name not in _OF_FLAX]
    else:
        asked = (("Returns:", "Yields:"), ("Example:",))
        if name == "attention_fn":
            arguments = [name for name in arguments if name not in _AS_FLAX]
    faults = [] if has_short_title else ["a first line of at most 100 characters"]
    faults += [" or ".join(ways) for ways in asked if not any(way in text for way in ways)]
    return faults + _unexplained(arguments, text)


def _unexplained(arguments, text):
    return [a for a in arguments if not re.search(rf"^    \*{{0,2}}{a}: ", text, re.MULTILINE)]


@pytest.mark.parametrize("floor", ["linen", "nnx"])
def test_every_call_says_what_goes_in_and_what_comes_out(floor):
    """Shapes are in the text of the call, or in that of the class that the call points to."""
    module = importlib.import_module(f"jaxdrop.{floor}")
    for cls in filter(inspect.isclass, (getattr(module, name) for name in module.__all__)):
        call = inspect.getdoc(cls.__call__)
        arguments = [a for a in inspect.signature(cls.__call__).parameters if a != "self"]
        assert "Returns:" in call and not _unexplained(arguments, call), cls
        shown = inspect.getdoc(cls) if "that the class names" in call else call
        assert re.search(r"\bshape\b|rguments of the", shown), cls


@pytest.mark.slow
@pytest.mark.parametrize("name", _MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    floor = importlib.import_module(".".join(name.split(".")[:2]))
    given = {"jax": jax, "jnp": jnp, "np": np, "nn": nn, "nnx": nnx}
    public = {each: getattr(floor, each) for each in floor.__all__}
    names = {"uncertainty": jaxdrop.uncertainty, **public, **vars(module), **given}
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner()
    for example in finder.find(module, globs=names):
        assert runner.run(example).failed == 0, example.name


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [
        e for name in _MODULES for e in finder.find(importlib.import_module(name)) if e.examples
    ]
    assert len(found) >= len(jaxdrop.functional.__all__) * 3


def test_every_version_is_that_of_the_package():
    version = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert jaxdrop.__version__ == version
    assert f"\nversion: {version}\n" in (_ROOT / "CITATION.cff").read_text()


def test_changelog_is_that_of_the_version():
    top = re.search(r"^## \[(.*?)\]", (_ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert top[1] == jaxdrop.__version__
    assert "### Randomness" in (_ROOT / "CHANGELOG.md").read_text()


def test_files_stay_small():
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in _PACKAGE.rglob("*.py")}
    assert not {str(path): count for path, count in lines.items() if count > 400}


def test_what_the_selection_of_tests_names_is_there():
    """A renamed test or file would silently run at another time."""
    paths = list((_ROOT / "tests").rglob("test_*.py"))
    written = {name for path in paths for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert written >= selection.COMBINATIONS | selection.EVERY_FUNCTION
    assert written >= {test.split("::")[1] for test in selection.SECONDS}
    assert {path.stem for path in paths} >= {test.split("::")[0] for test in selection.SECONDS}
    tables = {case.name for case in (*cases.CASES, *cases.NOISE_CASES, *cases.CALLS)}
    families = {name for names in selection.FAMILIES.values() for name in names}
    assert families - tables == set(selection.FAMILIES["models"])
