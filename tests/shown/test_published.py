"""The benchmarks of published figures, on small made-up data: they run, and compute what they say.

Their own tables need the data and minutes.
"""

import argparse
import contextlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import special, stats

from benchmarks import (
    _corpus,
    _report,
    _uci_nets,
    active,
    drop_connect,
    ensemble,
    helps,
    mnist,
    recurrent,
    sparse,
    thinned,
    uci,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def loose():
    """Optax promotes dtypes and ranks silently; each epoch folds its number into one key."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(jax.debug_key_reuse(False))
        yield


def write_sets(folder):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4))
    y = 5 + 3 * x[:, 0] + 0.5 * rng.normal(size=90)
    np.savez(folder / "some.npz", **{"energy/X": x, "energy/y": y[:, None], "mine/X": x[:60]})
    np.savez(folder / "more.npz", **{"other/X": x[:60], "other/y": y[:60]})


def test_splits_are_the_published_ones():
    """Of Gal & Ghahramani 2016: NumPy's generator with seed 1, nine tenths to train on."""
    rng = np.random.RandomState(1)
    for train, test in uci.splits(57, 3):
        order = rng.choice(range(57), 57, replace=False)
        assert len(train) == 51
        np.testing.assert_array_equal([*train, *test], order)


def test_data_are_standardised_by_the_training_part():
    x = np.c_[np.arange(10.0), np.ones(10)]
    y = 7 * np.arange(10.0)
    data = _uci_nets.standardise(x, y, np.arange(8), np.arange(8, 10))
    np.testing.assert_allclose(data.x[:, 0].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(data.x[:, 0].std(), 1, rtol=1e-6)
    np.testing.assert_array_equal(data.x[:, 1], 0)  # never changes: deviation 0 counts as 1
    np.testing.assert_allclose(data.y * data.deviation + data.mean, y[:8], rtol=1e-5)
    np.testing.assert_array_equal(data.y_test, y[8:])


def test_scores_are_those_of_the_samples():
    """RMSE of the mean, and the logarithm of the mean density, in the targets' own unit."""
    rng = np.random.default_rng(1)
    number, features = 5, 4
    data = _uci_nets.Scaled(
        *(np.float32(rng.normal(size=(2, *shape))) for shape in ((9, features), (9,))),
        *(np.float32(rng.normal(size=(2, *shape))) for shape in ((number, features), (number,))),
        np.float32([3.0, -2.0]),
        np.float32([2.0, 0.5]),
    )
    rates, precisions = np.float32([0.1, 0.3]), np.float32([0.5, 4.0])
    keys = jax.random.split(jax.random.key(0), 2)
    params = jax.vmap(lambda key: _uci_nets._init(key, dims=features))(keys)
    options = {"num_samples": 30}
    key = jax.random.key(1)
    error, likelihood = _uci_nets.ask(
        jax.random.clone(key), params, data, rates, precisions, **options
    )
    drawn = []
    for i in range(30):
        used = jax.random.split(jax.random.fold_in(key, i), 2)
        one = jax.vmap(_uci_nets.net)(used, params, data.x_test, rates)
        drawn.append(np.asarray(one) * data.deviation[:, None] + data.mean[:, None])
    drawn = np.float64(drawn)
    expected = np.sqrt(np.square(drawn.mean(0) - data.y_test).mean(1))
    np.testing.assert_allclose(error, expected, rtol=1e-4)
    logs = stats.norm.logpdf(data.y_test, drawn, 1 / np.sqrt(precisions)[:, None])
    expected = (special.logsumexp(logs, axis=0) - np.log(30)).mean(1)
    np.testing.assert_allclose(likelihood, expected, rtol=1e-4)


@pytest.mark.parametrize("protocol", ["icml", "grid", "concrete", "inject"])
def test_uci_runs_on_known_and_unknown_sets(capsys, tmp_path, protocol):
    write_sets(tmp_path)
    options = ["--splits", "2", "--samples", "20", "--epochs", "20", "--protocol", protocol]
    file = tmp_path / "rows.json"
    rows = uci.main(["--data", str(tmp_path), "--json", str(file), *options])
    assert [row["set"] for row in rows] == ["other", "energy"]
    for row in rows:
        assert len(row["rmse"]) == len(row["rate"]) == 2
        assert np.isfinite(row["log_likelihood"]).all()
    known = uci.PUBLISHED["energy"]
    chosen = set(rows[1]["precision"])
    if protocol == "icml":
        assert chosen == {float(np.float32(known.precision))}
    elif protocol == "concrete":
        assert np.shape(rows[1]["rate"]) == (2, 2) and len(chosen) == 2
        assert np.all((np.array(rows[1]["rate"]) > 0) & (np.array(rows[1]["rate"]) != 0.1))
    else:
        assert chosen <= {float(np.float32(p)) for p in known.grid}
    assert uci.main(["--data", str(tmp_path), "--json", str(file), *options]) == rows  # as saved
    with pytest.raises(SystemExit, match=r"expected figures of {'protocol': .*'samples': 7}, got"):
        uci.main(["--data", str(tmp_path), "--json", str(file), *options, "--samples", "7"])
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, (line for line in printed if "rows:" not in line))) <= 80
    with pytest.raises(SystemExit, match="expected some of other, energy, got 'boston'"):
        uci.main(["--data", str(tmp_path), "--sets", "boston"])


def test_more_epochs_fit_better(tmp_path):
    write_sets(tmp_path)
    options = ["--data", str(tmp_path), "--sets", "energy", "--splits", "2", "--samples", "50"]
    short, long = (
        np.mean(uci.main([*options, "--epochs", str(epochs)])[0]["rmse"]) for epochs in (1, 300)
    )
    assert long < 0.6 * short


def write_digits(folder):
    """Stripes in place of digits, as mnist.npz has them."""
    rng = np.random.default_rng(0)
    labels = np.arange(512) % 10
    images = rng.integers(0, 60, (512, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels):
        image[2 * label : 2 * label + 4] += 90
    parts = {"x_train": images, "y_train": labels, "x_test": images[:100], "y_test": labels[:100]}
    np.savez(folder / "mnist.npz", **parts)


def test_mnist_runs_and_its_curve_falls_towards_weight_scaling(capsys, tmp_path):
    write_digits(tmp_path)
    options = ["--epochs", "8", "--hidden", "32", "--layers", "1", "--repeats", "2"]
    out = mnist.main(["--data", str(tmp_path), "--picture", str(tmp_path / "curve.png"), *options])
    assert list(out["errors"]) == list(mnist.PUBLISHED)
    assert out["errors"]["no dropout"] < 50  # of 90 by guessing
    passes = {number: np.mean(errors) for number, errors in out["passes"].items()}
    assert passes[100] < passes[1]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, (line for line in printed if "picture:" not in line))) <= 80


def test_thinned_layers_learn_beside_the_others(capsys, tmp_path):
    write_digits(tmp_path)
    options = ["--epochs", "8", "--batch", "128", "--hidden", "64", "--layers", "2"]
    options += ["--seeds", "2"]
    found = thinned.main(["--data", str(tmp_path), *options])
    assert list(found) == ["no dropout", "dropout", "thinned"]
    assert all(len(row["errors"]) == len(row["seconds"]) == 2 for row in found.values())
    assert np.mean(found["thinned"]["errors"]) < 50  # of 90 by guessing
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_an_ensemble_is_compared_and_goes_on_from_its_file(capsys, tmp_path):
    file = tmp_path / "found.json"
    options = ["--epochs", "4", "--hidden", "32", "--json", str(file)]
    first = ensemble.main([*options, "--seeds", "1"])["digits"]
    both = ensemble.main([*options, "--seeds", "2"])["digits"]
    assert list(both) == list(first) and len(both) == 6
    for row, scores in both.items():
        assert all(len(values) == 2 for values in scores.values())
        assert {name: values[:1] for name, values in scores.items()} == first[row]
    errors = {row: np.mean(scores["error 0°, %"]) for row, scores in both.items()}
    assert errors["one net, 5 x epochs"] < 40  # of 90 by guessing
    assert errors["ensemble of 5"] < errors["one net"]
    assert both["one net"]["AUROC 30°, MI"] == [0.5, 0.5]  # a single net does not disagree
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_drop_connect_is_compared_and_goes_on_from_its_file(capsys, tmp_path, monkeypatch):
    options = ["--quick", "--epochs", "8", "--passes", "5", "--seeds", "1"]
    options += ["--json", str(tmp_path / "found.json")]
    found = drop_connect.main(options)
    assert list(found) == [*drop_connect.PUBLISHED, "DropConnect, 4 masks"]
    for row, errors in found.items():
        assert list(errors) == ["whole", "passes"][: 1 + (row != "no dropout")]
        assert all(len(values) == 1 and values[0] < 50 for values in errors.values())
    monkeypatch.delattr(mnist, "train_net")  # everything is in the file
    assert drop_connect.main(options) == found
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    with pytest.raises(SystemExit, match="--json: expected figures of"):
        drop_connect.main([*options, "--hidden", "32"])


def test_sparse_weights_are_cut_and_learn_all_the_same(capsys, tmp_path, monkeypatch):
    options = ["--quick", "--seeds", "1", "--json", str(tmp_path / "found.json")]
    found = sparse.main(options)
    (before,), (error,) = (found["sparse"][f"error{w}, %"] for w in (" before pruning", ""))
    assert found["dense"]["error, %"][0] < 15
    assert error < 40 and abs(error - before) < 3  # of 90 by guessing
    assert found["sparse"]["layer 1, %"][0] > 80
    assert 4 < found["sparse"]["times fewer"][0] < 40
    monkeypatch.delattr(mnist, "train_net")  # everything is in the file
    assert sparse.main(options) == found
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("cut", [False, True])
def test_cut_weights_count_as_0_in_training_too_and_are_not_moved(cut):
    layer = sparse.SparseDense(3, threshold=3.0, cut=cut)
    weights = {"kernel": jnp.float32([[1, 2, 4], [3, 3, 3]]), "bias": jnp.zeros(3)}
    params = weights | {"log_variance": jnp.full((2, 3), 4.0)}  # only the first is cut
    draw = lambda key: layer.apply(  # noqa: E731
        {"params": params}, jnp.ones((1, 2)), False, rngs={"dropout": key}
    )
    means = jax.vmap(draw)(jax.random.split(jax.random.key(0), 20_000)).mean((0, 1))
    whole = weights["kernel"].sum(0) - (np.float32([1, 0, 0]) if cut else 0)
    np.testing.assert_allclose(means, whole, atol=6 * 10 / np.sqrt(20_000))
    slopes = jax.grad(lambda p: sparse.penalty({"params": {"a": p}}, 20, examples=9, cut=cut))(
        params
    )
    assert (np.asarray(slopes["log_variance"])[0, 0] == 0) == cut


def test_noise_of_sums_is_that_of_their_weights():
    """One draw of each weight, and of their sums: equal means and variances."""
    layer = sparse.SparseDense(3, threshold=3.0)
    x = jax.random.normal(jax.random.key(0), (2, 5))
    params = layer.init(jax.random.key(1), x)["params"]
    kernel, levels = jax.random.normal(jax.random.key(2), (2, 5, 3))
    params |= {"kernel": kernel, "log_variance": 2 * levels + 1}
    keys = jax.random.split(jax.random.key(3), 20_000)

    def of_sums(key):
        return layer.apply({"params": params}, x, False, rngs={"dropout": key})

    def of_weights(key):
        noise = jax.random.normal(key, (2, 5, 3)) * np.exp(params["log_variance"] / 2)
        return (x[:, :, None] * (params["kernel"] + noise)).sum(1) + params["bias"]

    sums, weights = (np.asarray(jax.vmap(draw)(keys)) for draw in (of_sums, of_weights))
    spread = weights.std(0)
    np.testing.assert_array_less(abs(sums.mean(0) - weights.mean(0)), 0.05 * spread)
    np.testing.assert_allclose(sums.std(0), spread, rtol=0.04)
    # The whole net: means, but 0 where the noise is twenty times as large.
    drowned = np.exp(params["log_variance"]) > np.exp(3) * params["kernel"] ** 2
    assert drowned.any() and not drowned.all()
    kept = x @ np.where(drowned, 0, params["kernel"]) + params["bias"]
    np.testing.assert_allclose(layer.apply({"params": params}, x), kept, rtol=1e-5)


def test_groups_of_a_batch_have_keys_of_their_own_and_a_penalty_counts():
    digits = mnist.Digits(np.ones((8, 3), np.float32), np.zeros(8, np.int32))
    options = argparse.Namespace(seed=0, epochs=2, limit=None)
    drawn = []

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, deterministic=True):
            if not deterministic:
                number = jax.random.uniform(self.make_rng("dropout"))
                jax.debug.callback(lambda number: drawn.append((len(x), float(number))), number)
            return x[:, :1] * self.param("weights", nn.initializers.zeros, (10,))

    def pull(variables, epoch):
        return (epoch == 1) * jax.numpy.square(variables["params"]["weights"] - 1).sum()

    def trained(**how):
        drawn.clear()
        weights = mnist.train_net("", Net(), digits, options, batch=4, **how)["params"]["weights"]
        jax.effects_barrier()
        return weights, {length for length, _ in drawn}, len({number for _, number in drawn})

    plain, *seen = trained()
    assert seen == [{4}, 4]  # two epochs of two steps
    pulled, *seen = trained(groups=2, penalty=pull)
    assert seen == [{2}, 8]
    assert (pulled - plain > 0.02).all()


def test_rivals_of_dropout_get_equal_time_and_go_on_from_their_file(capsys, tmp_path, monkeypatch):
    seconds = {"nothing": 2.0, "weight decay": 2.0, "dropout": 4.0, "dropout and decay": 4.0}
    monkeypatch.setattr(helps, "_time", lambda *_: seconds | {"thinned layers": 1.0})
    options = ["--quick", "--json", str(tmp_path / "found.json")]
    first, both = helps.main([*options, "--seeds", "1"]), helps.main(options)
    assert list(first) == list(both) == ["digits", "diabetes"]
    for task, rows in both.items():
        assert len(rows) == 10
        for row, scores in rows.items():
            assert {name: values[:1] for name, values in scores.items()} == first[task][row]
            assert all(len(values) == 2 for values in scores.values())
    nothing, dropout, thin = (
        both["digits"][f"{name}, last epoch"] for name in ("nothing", "dropout", "thinned layers")
    )
    assert np.mean(nothing["error %, equal epochs"]) < 25  # of 90 by guessing
    assert nothing["NLL, equal time"] == nothing["NLL, equal epochs"]
    assert np.mean(dropout["NLL, equal time"]) > np.mean(dropout["NLL, equal epochs"])  # 5 epochs
    assert np.mean(thin["NLL, equal time"]) < np.mean(thin["NLL, equal epochs"])  # 20 epochs
    numbers = both["diabetes"]["nothing, last epoch"]
    assert np.mean(numbers["RMSE, equal epochs"]) < 77  # their deviation
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) <= 80
    epochs = [line.split()[-1] for line in printed if line.startswith("dropout   ")]
    assert epochs[0] == "5"


def test_stopping_early_keeps_the_lowest_loss_of_the_validation_part():
    task = helps._tasks(helps._options(["--quick"]))[0]._replace(epochs=1)
    learn, watch, test = task.split(0)
    assert [len(part.y) for part in (learn, watch, test)] == [1078, 359, 360]
    np.testing.assert_allclose(learn.x.mean(0), 0, atol=1e-5)  # standardised by this part alone
    assert abs(test.x.mean(0)).max() > 0.01
    net, key = mnist.Net(32, 2, (0.0, 0.0)), jax.random.key(0)

    def losses(labels):
        fits = helps._fit(10, 32, net, key, 10, 0.0, learn[:2], (watch.x, labels))
        return [helps._losses(10, net.apply(each, watch.x), labels).mean() for each in fits]

    last, best = losses(watch.y)
    assert best <= last < 1  # of 2.3 by guessing
    last, best = losses(np.roll(watch.y, 1))  # wrong, so the loss rises with every epoch
    assert best < 0.9 * last
    taken = helps._time(task, {"one": (net, False), "same": (net, True)})
    assert taken["one"] == taken["same"] > 0


def test_active_learning_as_the_authors_program_sees_each_image_once_per_epoch(monkeypatch):
    seen, train = [], active._digits()[0]

    def step(state, key, rate, decay, penalty, train, rows, counted):
        assert (rate, decay, penalty, len(rows)) == (1e-3, 0.0, 2.5 / 150, 128)
        seen.append(rows[counted > 0])
        return state

    monkeypatch.setattr(active, "_step", step)
    active._fit_as_program(train, jax.random.key(0), np.arange(600), 150)
    assert [*map(len, seen)] == 50 * [128, 22]
    epochs = np.concatenate(seen).reshape(50, 150)
    assert (np.sort(epochs) == np.arange(150)).all() and len({*map(bytes, epochs)}) == 50


def test_active_learning_as_the_authors_program_learns(capsys):
    found = active.main(["--quick", "--program", "--seeds", "1"])
    for (curve,) in found.values():
        assert curve["decay"] is None and curve["errors"][-1] < curve["errors"][0] < 90
    assert "50 epochs, batch 128" in capsys.readouterr().out


def test_active_learning_asks_for_what_it_doubts_and_compiles_once(capsys, tmp_path):
    programs = active._step._cache_size(), active._doubt._cache_size()
    options = ["--quick", "--pool", "1040", "--json", str(tmp_path / "found.json")]
    first, both = active.main([*options, "--seeds", "1"]), active.main(options)
    assert {way: curves[:1] for way, curves in both.items()} == first
    assert active._step._cache_size() == programs[0] + 1  # the labelled images grow
    assert active._doubt._cache_size() == programs[1] + 2
    (pixels, labels), _ = train, _ = active._digits()
    for curves in both.values():
        for curve in curves:
            assert curve["images"] == [20, 30, 40, 50, 60]
            assert curve["errors"][-1] < curve["errors"][0] < 90
            assert sorted(labels[curve["chosen"][:20]]) == sorted([*range(10)] * 2)
            assert len(set(curve["chosen"])) == 60
    # The images after the first twenty are those that the first net doubts most.
    curve, key = both["BALD"][0], jax.random.fold_in(jax.random.key(0), 20)
    chosen, settings = np.resize(np.int32(curve["chosen"]), 60), types.SimpleNamespace(steps=150)
    variables = active._fit(settings, train, key, curve["decay"], chosen, 20)
    doubt = np.asarray(active._doubt(active.Net(), "BALD", 16, variables, key, pixels))
    assert doubt[chosen[20:30]].mean() > np.quantile(doubt, 0.9)  # other masks than then
    curve = {"images": [20, 30, 40, 50], "errors": [12.0, 9.0, 11.0, 10.0]}
    assert active.images_for(curve, 10) == 30 and active.images_for(curve, 5) is None
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    "program",
    [uci, mnist, thinned, drop_connect, sparse, active],
    ids=["uci", "mnist", "thinned", "drop_connect", "sparse", "active"],
)
def test_without_data_it_says_where_they_are(capsys, program):
    with pytest.raises(SystemExit):
        program.main([])
    assert "--data: expected a folder" in capsys.readouterr().err


def test_every_seed_is_shown(capsys):
    _report.print_each_seed({"sparse": [10 + seed / 4 for seed in range(20)]})
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[2:]).split()[1:] == [f"{10 + seed / 4:.2f}" for seed in range(20)]
    assert max(map(len, lines)) <= 80


def test_units_stay_within_their_ball():
    variables = {"params": {"Dense_0": {"kernel": np.full((4, 2), 3.0), "bias": np.full(2, 9.0)}}}
    bound = mnist._bound(variables)["params"]["Dense_0"]
    np.testing.assert_allclose(np.linalg.norm(bound["kernel"], axis=0), 2, rtol=1e-6)
    np.testing.assert_array_equal(bound["bias"], 9)


# The language model.


def test_every_word_but_the_first_is_predicted_once():
    text = np.arange(103)
    inputs, targets, weights = _corpus.windows(text, batch=4, steps=7)
    assert inputs.shape == targets.shape == weights.shape == (4, 4, 7)
    np.testing.assert_array_equal(np.sort(targets[weights > 0]), np.arange(1, 103))
    np.testing.assert_array_equal(inputs[weights > 0] + 1, targets[weights > 0])
    # A stretch goes on in the next window.
    np.testing.assert_array_equal(inputs[1:3, :, 0], inputs[:2, :, -1] + 1)


def test_words_that_training_lacks_are_unknown(tmp_path):
    for part, text in (("train", "a b a\nc"), ("valid", "a d"), ("test", "b\n\nb")):
        (tmp_path / f"{part}.txt").write_text(text)
    corpus = _corpus.read(tmp_path)
    assert set(corpus.words) == {"a", "b", "c", "<eos>", "<unk>"}
    read = [[corpus.words[number] for number in part] for part in corpus[1:]]
    assert read[0] == ["a", "b", "a", "<eos>", "c", "<eos>"]
    assert read[1] == ["a", "<unk>", "<eos>"]
    assert read[2] == ["b", "<eos>", "<eos>", "b", "<eos>"]
    (tmp_path / "test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected train.txt, .*found no test.txt"):
        _corpus.read(tmp_path)


def test_a_mixture_of_passes_is_averaged_before_the_logarithm():
    """Perplexity of the mean probability: less than that of the mean logarithm."""
    corpus = _corpus.Corpus(list("abcd"), *3 * [np.arange(60, dtype=np.int32) % 4])
    model = recurrent.LanguageModel(4, 8, 1, recurrent.Rates(output=0.5), False)
    learner = recurrent.start(model, jax.random.key(0), 1.0)
    found = recurrent._perplexity(model, learner, corpus.test, samples=3)
    windows = _corpus.windows(corpus.test, 10, 35)
    reader = recurrent.make_reader(model)
    key = jax.random.fold_in(jax.random.key(0), 0x4D43)
    logs = [reader(learner.best, jax.random.fold_in(key, i), windows) for i in range(3)]
    mean = np.log(np.mean(np.exp(logs), axis=0))[windows[-1] > 0].mean()
    np.testing.assert_allclose(found, np.exp(-mean), rtol=1e-4)
    assert np.abs(logs[0] - logs[1]).max() > 1e-3


def test_the_language_model_learns_and_goes_on_from_its_checkpoints(capsys, tmp_path):
    options = ["--cells", "24", "--samples", "3", "--layers", "2", "--seed", "1"]
    whole = recurrent.main([*options, "--epochs", "2"])
    assert list(whole) == [*recurrent.KINDS, "variational, 3 MC samples"]
    for kind, values in whole.items():
        assert values["test"] < 60, kind  # of 94 words, were each as likely
    folder = ["--checkpoints", str(tmp_path)]
    recurrent.main([*options, "--epochs", "1", *folder])
    assert len(list(tmp_path.iterdir())) == len(recurrent.KINDS)
    capsys.readouterr()
    resumed = recurrent.main([*options, "--epochs", "2", *folder])
    printed = capsys.readouterr().out
    assert "goes on after epoch 1" in printed
    assert resumed == whole
    lines = (line for line in printed.splitlines() if "goes on" not in line)
    assert max(map(len, lines)) <= 80
