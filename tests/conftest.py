"""Eight CPU devices for the sharding laws, and JAX's strict modes; both before JAX starts.

And a cache of compiled programs on disk, since compiling them is most of the time of the tests: the
workers share it, and so do later runs and the processes that tests start. And how many calls
Hypothesis draws: the same ones in every run, others in a thorough one.
"""

import ctypes
import gc
import os
import pathlib

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "programs"),
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import hypothesis
import jax
import pytest

from tests.support import selection

# A user may switch on any of these, so none of them may find fault with the library.
if not jax.config.jax_enable_x64:  # then the tests' data are float64, beside float32 parameters
    jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

_C_LIBRARY = ctypes.CDLL(None)
_ENOUGH = 1.2 * 2**30

hypothesis.settings.register_profile(
    "fast", max_examples=8, derandomize=True, database=None, deadline=None
)
hypothesis.settings.register_profile(
    "thorough", max_examples=336, database=None, deadline=None, print_blob=True
)
hypothesis.settings.load_profile("fast")


def pytest_addoption(parser):
    parser.addoption("--every-row", action="store_true", help="leave no row to the slow run")
    parser.addoption("--part", metavar="K/N", help="of the slow tests only the K-th of N parts")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if not config.getoption("every_row"):
        selection.mark(items)
    if part := config.getoption("part"):
        number, parts = map(int, part.split("/"))
        others = set(selection.other_parts(items, number, parts))
        config.hook.pytest_deselected(items=list(others))
        items[:] = [item for item in items if item not in others]


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """What modules have compiled is on disk, so a worker that holds much of it lets it go."""
    yield
    if _resident_bytes() > _ENOUGH:
        jax.clear_caches()
        gc.collect()
        _C_LIBRARY.malloc_trim(0)  # glibc keeps what is freed, in an arena per thread


def _resident_bytes():
    """Memory of this process; 0 if the system does not tell."""
    path = pathlib.Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


@pytest.fixture
def nan_on_purpose():
    """For a test that makes NaN, also where ``jax_debug_nans`` looks for it in all the others."""
    with jax.debug_nans(False):
        yield


@pytest.fixture
def jitted():
    """For a test of what is traced or compiled, or of long loops, also with ``JAX_DISABLE_JIT``."""
    with jax.disable_jit(False):
        yield
