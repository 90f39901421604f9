"""Runs the tests that are meant to see a fault in the one file that differs from the last commit.

    python -m tests.mutation.chosen

Those that are likeliest to fail, and quickest, come first; the run ends with the first failure.
Rows that the fast run leaves out are asked last, and only in the files that are meant to see it.
"""

import pathlib
import subprocess
import sys

import pytest

_MASKS = (
    "test_masks",
    "test_laws",
    "test_laws_batch",
    "test_laws_program",
    "test_symbolic_sizes",
    "test_errors",
)
_FUNCTIONS = ("test_laws", "test_errors", "test_laws_program")
_NOISE = ("test_gaussian", "test_laws_noise", "test_errors")
_ATTENTION = ("test_dot_product_attention", "test_drop_key", "test_errors")
_MODELS = ("test_mc_adapters", "test_mc_insert", "test_models_of_others")
_FOLDERS = {"masks": ("laws",), "functional": ("laws", "variants"), "mc": ("mc",)}
# Files that have no test of their own name, or whose functions are not in the table of the laws.
_TESTS = {
    "__init__.py": _ATTENTION,
    "arguments.py": _ATTENTION,
    "blocks.py": _ATTENTION,
    "dropping.py": _ATTENTION,
    "logits.py": _ATTENTION,
    "flax_call.py": ("test_attention_fn", "test_errors"),
    "_cells.py": ("test_cells", "test_cells_linen", "test_cells_nnx"),
    "_recurrent.py": ("test_cells", "test_cells_linen", "test_cells_nnx"),
    "_drop_key.py": ("test_drop_key", "test_precision", "test_errors"),
    "_fold_in_axes.py": ("test_fold_in_axes",),
    "_layer_drop.py": ("test_layer_drop", "test_errors"),
    "_low_rank.py": ("test_lora",),
    "_losses.py": ("test_losses", "test_errors"),
    "_subset_residual.py": ("test_subset_residual", "test_errors"),
    "_skipping.py": ("test_thinned_mlp", "test_subset_residual", "test_symbolic_sizes"),
    "_thinned_mlp.py": ("test_thinned_mlp", "test_errors"),
    "_token_dropout.py": ("test_token_dropout", "test_symbolic_sizes", "test_errors"),
    "_word_dropout.py": ("test_word_dropout", "test_errors"),
    "_concrete_dropout.py": ("test_concrete_dropout", "test_laws_noise", "test_errors"),
    "_variational_gaussian_dropout.py": (
        "test_variational_gaussian_dropout",
        "test_laws_noise",
        "test_errors",
    ),
    "_gaussian_dropout.py": _NOISE,
    "_gaussian_noise.py": _NOISE,
    "_neftune_noise.py": ("test_neftune_noise", "test_laws_noise", "test_errors"),
    "_noisy.py": _NOISE,
    "_noise.py": (*_NOISE, "test_token_dropout", "test_subset_residual", "test_thinned_mlp"),
    "_drop_block_seeds.py": ("test_drop_block", "test_laws", "test_laws_sharding"),
    "_pairs.py": ("test_edge_dropout", "test_laws", "test_laws_sharding"),
    "_balanced.py": ("test_balanced", "test_mc_balanced"),
    "_taps.py": ("test_mc_delta",),
    "_fingerprint.py": ("test_mc_same_program", "test_mc_closures"),
    "_program.py": (
        "test_mc_same_program",
        "test_mc_closures",
        "test_mc_program",
        "test_mc_balanced",
    ),
    "_examples.py": ("test_mc_delta", "test_mc_tune"),
    "_adaptive.py": ("test_mc_balanced", "test_mc_batches"),
    "_summary.py": ("test_mc_summaries", "test_mc_balanced", "test_mc_mesh"),
    "_passes.py": ("test_mc_balanced", "test_mc_predict"),
    "_jaxpr.py": ("test_mc_program", "test_mc_sites"),
    "_model_fn.py": ("test_mc_decide", "test_mc_insert", "test_mc_tune", "test_mc_unreached"),
    "_audit.py": ("test_mc_audit", "test_mc_adapters", "test_mc_unreached"),
    "_decide.py": ("test_mc_decide", "test_mc_insert", "test_models_of_others"),
    "_classification.py": ("test_mc_classification", "test_results"),
    "_linen.py": _MODELS,
    "_nnx.py": _MODELS,
    "_nnx_modules.py": _MODELS,
    "_nnx_streams.py": _MODELS,
    "_marks.py": ("test_mc_audit", "test_mc_unreached", *_MODELS),
    "_sharing.py": ("test_mc_insert", "test_mc_adapters"),
    "_predict_batches.py": ("test_mc_batches", "test_mc_mesh", "test_mc_balanced"),
    "_samples.py": ("test_mc_predict", "test_mc_mesh"),
    "_pytrees.py": ("test_mc_predict", "test_mc_batches", "test_mc_export"),
    "_checks.py": ("test_errors", "test_inputs", "test_mc_messages", "test_mc_options"),
    "_sharding.py": ("test_laws_sharding", "test_drop_block", "test_windows"),
    "_slice.py": ("test_windows", "test_dot_product_attention"),
}


def tests_for(path):
    """The files of tests for a file of the package, as paths: those meant for it, and others."""
    file, tests = pathlib.PurePath(path), pathlib.Path(__file__).parents[1]
    package, own = file.parts[1], file.stem
    defaults = {"masks": _MASKS, "mc": (f"test_mc{own}", "test_mc_adapters")}
    wanted = _TESTS.get(file.name, defaults.get(package, (f"test{own}", *_FUNCTIONS)))
    files = [path for test in wanted for path in tests.rglob(f"{test}.py")]
    rest = [
        path for folder in _FOLDERS.get(package, ()) for path in (tests / folder).rglob("test_*.py")
    ]
    return [str(path) for path in files], [str(path) for path in sorted({*rest} - {*files})]


def main():
    changed = subprocess.run(
        ["git", "diff", "--name-only", "jaxdrop"], check=True, capture_output=True, text=True
    ).stdout.split()
    if not changed:
        return pytest.ExitCode.OK
    own, others = tests_for(changed[0])
    failed = pytest.main(["-x", "-q", "--numprocesses=0", *own, *others])
    return failed or pytest.main(
        ["-x", "-q", "--numprocesses=0", "--every-row", "-m", "not shown", *own]
    )


if __name__ == "__main__":
    sys.exit(main())
