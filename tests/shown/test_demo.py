"""``python -m jaxdrop demo``, in miniature."""

import contextlib
import io
import re

import jax
import pytest

from jaxdrop import __main__ as program


@pytest.fixture(autouse=True)
def optax_promotes():
    """Optax's Adam raises a float to an integer power, which the strict modes refuse."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _run(folder, seed):
    options = ["--epochs", "1", "--samples", "3", "--seed", str(seed), "--output", str(folder)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        program.main(["demo", *options])
    return printed.getvalue()


def _numbers(text):
    """All that is printed but for the time and the path in the last line."""
    return text.rsplit("\n\n", 1)[0]


def test_demo_prints_its_tables_and_saves_the_picture(tmp_path):
    text = _run(tmp_path / "new" / "folder", 0)
    assert max(map(len, text.rsplit("\n\n", 1)[0].splitlines())) <= 80
    for heading in ("accuracy", "brier_score", "mutual information", "share kept", "AUROC", "Next"):
        assert heading in text
    assert len(re.findall(r"^ *\d+°", text, re.MULTILINE)) == 13
    path = text.split("Picture: ")[1].splitlines()[0]
    with open(path, "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_same_seed_same_numbers(tmp_path):
    first, second, other = (_run(tmp_path, seed) for seed in (3, 3, 4))
    assert _numbers(first) == _numbers(second)
    assert _numbers(first) != _numbers(other)


@pytest.mark.parametrize("option", ["--samples", "--epochs"])
def test_counts_below_one_are_refused(capsys, option):
    with pytest.raises(SystemExit):
        program.main(["demo", option, "0"])
    assert "expected at least 1, got 0" in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        program.main(["demo", "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for option in ("--seed", "--epochs", "--samples", "--output DIR"):
        assert option in text


def test_missing_packages_are_named(capsys, monkeypatch):
    monkeypatch.setattr(program, "_REQUIRED", ("optax", "no_such_package"))
    with pytest.raises(SystemExit):
        program.main(["demo"])
    assert "no_such_package" in capsys.readouterr().err
