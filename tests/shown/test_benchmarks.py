"""``python -m benchmarks`` in its quick form: it runs, and its figures mean what they say."""

import contextlib
import json

import jax
import numpy as np
import pytest

from benchmarks import __main__ as program
from benchmarks import _passes, scaling, serving
from benchmarks._report import rows_of


def _run(capsys, folder, *options):
    file = folder / "rows.json"
    # Other libraries promote dtypes and ranks silently, and all are timed with one key.
    modes = (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_key_reuse(False),
    )
    with contextlib.ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        program.main(["--quick", "--json", str(file), *options])
    return capsys.readouterr().out, json.loads(file.read_text())


def test_bytes_kept_are_those_of_one_bit(capsys, tmp_path):
    text, saved = _run(capsys, tmp_path, "--only", "kept")
    kept = {row["name"]: row["value"] for row in saved["rows"]}
    assert kept["jaxdrop"] == pytest.approx(1 / 8)
    assert kept["flax linen"] >= 1
    assert saved["context"]["versions"]["jax"] == jax.__version__
    assert max(map(len, text.split("\nrows: ")[0].splitlines())) <= 80


def test_ratios_are_taken_against_the_named_row():
    rows = list(rows_of("section", "case", {"copy": 2.0, "ours": 3.0}, "ms", "copy"))
    assert [(row.name, row.ratio) for row in rows] == [("copy", None), ("ours", 1.5)]


@pytest.mark.parametrize(("target", "unit"), [(2.0, "times"), (3.0, "times, missed")])
def test_a_saving_below_its_target_is_called_missed(target, unit):
    twice, once = 2 * np.ones((4, 3)), np.ones((4, 3))
    row = _passes._saving("net", "mean", twice, once, target)
    assert (row.value, row.unit, row.ratio) == (2, unit, 2 / target)
    assert row.spread == (2, 2)  # all repetitions are alike


def test_unknown_sections_are_named(capsys):
    with pytest.raises(SystemExit):
        program.main(["--only", "forwards"])
    assert "expected some of forward, backward" in capsys.readouterr().err


def test_a_folder_without_data_is_told_what_it_lacks(capsys, tmp_path):
    with pytest.raises(SystemExit, match="an npz with energy/X and energy/y"):
        _run(capsys, tmp_path, "--only", "passes", "--data", str(tmp_path))


@pytest.mark.parametrize("chips", ["abc", "2", "8,,64", ""])
def test_unknown_numbers_of_chips_are_named(capsys, chips):
    with pytest.raises(SystemExit):
        scaling.main(["--chips", chips])
    assert "expected some of 1, 8, 64, 256, with commas between" in capsys.readouterr().err


@pytest.mark.slow
def test_every_section_runs_and_the_picture_is_drawn(capsys, tmp_path):
    picture = tmp_path / "ratios.png"
    x = np.random.default_rng(0).normal(size=(120, 4))
    np.savez(tmp_path / "set.npz", **{"energy/X": x, "energy/y": x[:, :1]})
    _, saved = _run(capsys, tmp_path, "--picture", str(picture), "--data", str(tmp_path))
    assert {"forward", "kept for backward", "training step"} <= {
        row["section"] for row in saved["rows"]
    }
    assert all(row["value"] > 0 for row in saved["rows"])
    means = [r for r in saved["rows"] if (r["section"], r["name"]) == ("error variance", "mean")]
    assert len(means) == 2 and "energy" in means[1]["case"]
    assert all(row["value"] > 1 for row in means)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.slow
def test_a_program_is_served_beside_its_model(capsys):
    medians = serving.main(["--starts", "1"])
    assert list(medians) == ["model", "program"]
    for steps in medians.values():
        assert {"imports", "load", "first answer", "start to first answer"} <= set(steps)
        wall, processor = np.array(list(steps.values())).T
        assert (wall > 0).all() and (processor > 0).all()
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
