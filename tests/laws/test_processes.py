"""Two processes under ``jax.distributed`` get what one gets that has all the devices."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

from tests.support import processes

_ROOT = pathlib.Path(__file__).parents[2]
_COUNT = 2


def saved_by_each(folder):
    """What each process saved."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu"}
    files = [folder / f"{number}.npz" for number in range(_COUNT)]
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.processes",
                str(n),
                str(_COUNT),
                str(port),
                str(file),
            ],
            cwd=_ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n, file in enumerate(files)
    ]
    try:
        for process in running:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
    finally:
        for process in running:
            process.kill()
    return [dict(np.load(file)) for file in files]


def test_two_processes_get_what_one_gets(tmp_path):
    expected, found = processes.results(), saved_by_each(tmp_path)
    assert set.union(*map(set, found)) == set(expected)
    dropped = [{name for name in saved if name.startswith("dropped")} for saved in found]
    assert not set.intersection(*dropped)  # each process holds its part of a mask
    for name, value in (item for saved in found for item in saved.items()):
        if name.startswith(("dropped", "samples")):
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
        else:  # sums over devices round as they come
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    masks = {value.tobytes() for name, value in expected.items() if name.startswith("dropped")}
    assert len(masks) == 4 * processes.STEPS  # other ones on each part of the batch, at each step
