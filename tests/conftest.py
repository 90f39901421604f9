"""Eight CPU devices for the sharding laws, and JAX's strict modes; both before JAX starts.

And how many calls Hypothesis draws: the same ones in every run, others in a thorough one.
"""

import gc
import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import hypothesis
import jax
import pytest

# A user may switch on any of these, so none of them may find fault with the library.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

hypothesis.settings.register_profile(
    "fast", max_examples=8, derandomize=True, database=None, deadline=None
)
hypothesis.settings.register_profile(
    "thorough", max_examples=336, database=None, deadline=None, print_blob=True
)
hypothesis.settings.load_profile("fast")


@pytest.fixture(autouse=True, scope="module")
def settled():
    """What a module leaves behind lives on in JAX's caches: later collections pass over it."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def nan_on_purpose():
    """For a test that makes NaN, also where ``jax_debug_nans`` looks for it in all the others."""
    with jax.debug_nans(False):
        yield
