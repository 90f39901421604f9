"""Which rows of a test run with the fast tests; the others are marked slow.

The fast run asks every law of one function per family, and every other value of an argument once.
The slow run asks the rest, but for what is marked `combination`. A new function needs no line here:
the laws in `EVERY_FUNCTION` run over it with the fast tests, all others with the slow ones. With
``--every-row`` nothing is marked.
"""

import collections
import zlib

import pytest

# Names of rows in `cases`: for each family, one of each table that has it. And models of users.
FAMILIES = {
    "element-wise": ("dropout",),
    "structured": ("drop_block",),
    "noise": ("gaussian",),
    "sequence and cell": ("zoneout",),
    "attention": ("attention", "attention_keys_3"),
    "weights": ("drop_connect",),
    "residual, tokens and layers": ("drop_path", "token_dropout", "layer_drop"),
    "models": ("Mixer", "nnx Mixer"),
}
_REPRESENTATIVES = {name for names in FAMILIES.values() for name in names}

# The bits of every function.
EVERY_FUNCTION = {
    "test_decisions_are_those_of_the_reference",
    "test_equation_of_the_paper_on_the_noise_of_the_reference",
}

# Files of hundreds of rows that together take a second.
_CHEAP = {"test_errors", "test_english", "test_order", "test_structure", "test_mc_messages"}

# Files whose laws take seconds per row: they ask these three.
_FEW = {"dropout", "drop_block", "gaussian"}
_FEW_IN = {
    *("test_disable_jit", "test_inputs", "test_moments", "test_transforms"),
    *("test_laws_batch", "test_laws_sharding"),
}

# Files whose other tests take about a second per row: they run on their first.
ONE_ROW = {
    *_FEW_IN,
    *("test_laws_gradient", "test_laws_program", "test_fold_in_axes"),
    *("test_windows", "test_costs", "test_modules", "test_attention_fn", "test_linen_replace"),
    *("test_cells", "test_cells_linen", "test_cells_nnx", "test_cells_mc", "test_models_of_others"),
    *("test_linen", "test_vit", "test_lora", "test_edge_dropout", "test_neftune_noise"),
    "test_mc_decode",
    *("test_mc_adapters", "test_mc_attention", "test_mc_batches", "test_mc_classification"),
    *("test_mc_closures", "test_mc_decide", "test_mc_mesh", "test_mc_options", "test_mc_predict"),
    *("test_mc_insert", "test_mc_tune"),
    *("test_mc_own_functions", "test_mc_program", "test_mc_regression", "test_mc_same_program"),
    *("test_mc_sites", "test_mc_summaries", "test_mc_unreached"),
    *("test_attention_dropout", "test_dot_product_attention", "test_drop_block", "test_drop_key"),
    *("test_drop_connect", "test_layer_drop", "test_subset_residual", "test_thinned_mlp"),
    *("test_token_dropout", "test_word_dropout"),
    *("test_uncertainty", "test_uncertainty_acquisition", "test_uncertainty_regression"),
}

# Tests that take three seconds or many more on any row: they leave even that to the slow run.
SLOW = {
    # Processes that import JAX, and trainings.
    "test_two_processes_get_what_one_gets",
    "test_flax_nnx_is_loaded_by_whoever_uses_it",
    "test_names_of_the_nnx_floor_arrive_in_every_form",
    "test_functions_of_models_that_pickle_pickle",
    "test_more_data_find_a_smaller_rate",
    "test_a_curriculum_compiles_once_and_learns",
    "test_nnx_model_switches_and_trains",
    # Whole models, under options or transforms that the fast run asks of smaller ones.
    "test_class_token_stays_and_every_token_keeps_its_own_position",
    "test_operations_of_a_step_fall_as_the_tokens_do",
    "test_nnx_modules_in_transforms_of_jax_with_a_key_in_the_call",
    "test_layers_that_a_scan_leaves_alone_are_not_refused",
    "test_one_sub_network_a_sequence_and_another_for_each_pass",
    "test_adapters_turn_it_on_and_dropout_of_the_base",
    "test_options_of_the_rnn_give_what_they_give_without_dropout",
    "test_an_override_reaches_recurrent_cells_where_they_drop",
    "test_options_hold_in_predict_and_its_transforms",
    "test_outputs_of_a_network_agree_to_rounding",
    "test_summaries_of_a_network_agree",
    "test_with_a_key_an_example_cuts_do_not_matter",
    # Derivatives of second order, which differences check.
    "test_gradients",
    "test_gradients_of_entropies",
    "test_second_derivatives_in_blocks_stay_small",
    # Calls that Hypothesis draws: the fast run asks `test_calls` alone.
    "test_logits_that_the_reference_drops_are_infinite",
    "test_noise_is_that_of_the_reference",
    "test_tokens_that_stay_are_those_of_the_reference",
}

# Laws over functions and over sizes, dtypes or meshes. The fast and the slow run together ask them
# of every function and of every size, but not of every pair: those are marked `combination`.
COMBINATIONS = {
    "test_a_batch_over_devices_draws_the_same_and_each_device_its_part",
    "test_a_batch_whose_size_is_not_known_gets_the_masks_of_one_that_is",
    "test_a_numpy_array_counts_as_what_jax_makes_of_it",
    "test_decisions_are_those_of_every_dtype",
    "test_mean_over_keys",
    "test_rates_may_be_an_array",
    "test_the_mask_of_an_example_does_not_depend_on_the_size_of_the_batch",
    "test_values_and_gradients_are_those_of_one_device",
    "test_values_and_gradients_on_a_mesh_are_those_of_one_device",
    "test_whatever_numbers_there_are_are_drawn",
}


def mark(items):
    """Marks what the fast run leaves out, and of that what the slow run leaves out."""
    tests = collections.defaultdict(list)
    for item in items:
        if "shown" not in item.path.parts:
            tests[item.path, item.originalname].append(item)
    for (path, name), rows in tests.items():
        quick = [row for row in rows if not any(row.iter_markers("slow"))]
        fast = _fast_rows(path.stem, name, quick) if quick else []
        for row in quick:
            if row not in fast:
                row.add_marker(pytest.mark.slow)
        if name in COMBINATIONS:
            enough = _each_value_once(rows, fast)
            for row in rows:
                if row not in enough:
                    row.add_marker(pytest.mark.combination)


def other_parts(items, number, parts):
    """The slow tests that are not in a part, for 1 <= number <= parts; a part is a fair sample."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    slow = [item for item in slow if not item.get_closest_marker("shown")]
    return [item for item in slow if zlib.crc32(item.nodeid.encode()) % parts != number - 1]


def _fast_rows(file, name, rows):
    if name in SLOW:
        return []
    if name in EVERY_FUNCTION or file in _CHEAP or not hasattr(rows[0], "callspec"):
        return rows
    wanted = _FEW if file in _FEW_IN else _REPRESENTATIVES
    laws = [row for row in rows if _names(row) & wanted]
    return rows[:1] if file in ONE_ROW and not laws else _each_value_once(laws or rows)


def _names(row):
    """The names that the arguments of a row have, or are."""
    values = row.callspec.params.values()
    return {name for value in values if isinstance(name := getattr(value, "name", value), str)}


def _each_value_once(rows, kept=()):
    """The kept rows, and so many more that every value of every argument is among them.

    Values are used in turns, so that a row for a function is not always that with the first mesh.
    """
    values = {row: {(k, id(v)) for k, v in row.callspec.params.items()} for row in rows}
    kept = list(kept)
    used = collections.Counter(value for row in kept for value in values[row])
    while missing := set().union(*values.values()) - used.keys():

        def gain(row):
            return len(missing & values[row]), -sum(used[value] for value in values[row])

        best = max((row for row in rows if row not in kept), key=gain)
        kept.append(best)
        used.update(values[best])
    return kept
