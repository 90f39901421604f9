"""A user's program passes a strict type checker, and a wrong one does not."""

import json
import pathlib
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import jaxdrop

_USER = pathlib.Path(__file__).parent / "user.py"


def _complaints(folder, programs):
    """What strict pyright says of programs, by the name of each."""
    for name, text in programs.items():
        (folder / name).write_text(text, encoding="utf-8")
    package = pathlib.Path(jaxdrop.__file__).parents[1]
    config = {"typeCheckingMode": "strict", "extraPaths": [str(package)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    run = subprocess.run([*command, *programs], cwd=folder, capture_output=True, text=True)
    report = json.loads(run.stdout)
    assert report["summary"]["filesAnalyzed"] == len(programs), run.stderr
    found = {name: [] for name in programs}
    for entry in report["generalDiagnostics"]:
        found[pathlib.Path(entry["file"]).name].append(entry["message"])
    return found


@pytest.mark.slow
def test_a_users_program_is_typed_strictly(tmp_path):
    right = _USER.read_text("utf-8")
    wrong = right.replace("num_samples=4", 'num_samples="4"').replace("unpack()", "unpacked()")
    found = _complaints(tmp_path, {"right.py": right, "wrong.py": wrong})
    assert found["right.py"] == []
    assert any("num_samples" in message for message in found["wrong.py"])
    assert any("unpacked" in message for message in found["wrong.py"])


def test_the_program_runs():
    user = runpy.run_path(str(_USER))
    x, labels = jnp.ones((4, 8)), jnp.zeros(4, int)
    variables = user["Model"]().init(jax.random.key(1), x)
    assert user["functions"](jax.random.key(0), x).shape == x.shape
    assert user["modules"](jax.random.key(0), x).shape == x.shape
    score, sites = user["uncertainty"](jax.random.key(0), x, labels, variables)
    assert 0 <= float(score) <= 1 and sites == ("Dropout_0",)
