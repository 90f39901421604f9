"""Rows of a benchmark: printed, saved, drawn."""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import textwrap
from typing import NamedTuple

import jax
import numpy as np

_PACKAGES = (
    "jaxdrop",
    "jax",
    "flax",
    "equinox",
    "dm-haiku",
    "keras",
    "torch",
    "torch-uncertainty",
    "baal",
)


class Row(NamedTuple):
    """One measured figure.

    Attributes:
        section: what is measured.
        case: array, rate and so on.
        name: the library or function that the figure belongs to.
        value: the figure.
        unit: its unit.
        ratio: value divided by that of ``against``; None for ``against`` itself.
        against: name of the row that the ratio is taken against.
        spread: lower and upper quartile, if the figure is a median; for a ratio of error variances,
            one standard error to both sides.
    """

    section: str
    case: str
    name: str
    value: float
    unit: str
    ratio: float | None
    against: str
    spread: tuple[float, float] | None = None


def count(text):
    """A count from the command line, at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


class Saved:
    """Figures of a long run: each is saved as soon as it is known, so a stopped run goes on.

    Args:
        file: JSON with what is known; None saves nothing.
        settings: all that the figures depend on but their names; strings and numbers.
    """

    def __init__(self, file, settings):
        self.file, self.settings, self.found = file, settings, {}
        if file and file.exists():
            saved = json.loads(file.read_text(encoding="utf-8"))
            if saved["settings"] != settings:
                raise SystemExit(
                    f"--json: expected figures of {settings}, got those of {saved['settings']} "
                    f"in {file}; give another file, or the options of that run"
                )
            self.found = saved["found"]

    def __call__(self, name, compute):
        """The figures of a name, which ``compute`` gives if the file does not have them."""
        if name not in self.found:
            self.found[name] = compute()
            if self.file:
                saved = {"context": context(), "settings": self.settings, "found": self.found}
                self.file.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
        return self.found[name]


def add_json(parser):
    """The option of every run that `Saved` continues."""
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="save the figures, and continue from them"
    )


def fill(options, defaults):
    """Sets what the command line left out."""
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)


def gather(lists, figures):
    """Appends each figure to the list of its name: what seeds found, one after another."""
    for name, figure in figures.items():
        lists.setdefault(name, []).append(figure)


def mean_and_error(values):
    """Mean and standard error over seeds or splits, as text."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{np.mean(values):.3f} ± {error:.3f}"


def print_each_seed(rows):
    """All figures by title, so that none is chosen."""
    print("\nOf each seed")
    for title, figures in rows.items():
        first, rest = f"{title:<34}", " " * 34
        each = " ".join(f"{figure:.2f}" for figure in figures)
        print(textwrap.fill(each, 80, initial_indent=first, subsequent_indent=rest))


def rows_of(section, case, values, unit, against):
    """Rows from figures by name: numbers, or `Times`, whose median is taken."""

    def median(value):
        return getattr(value, "median", value)

    limit = median(values[against])
    for name, value in values.items():
        ratio = None if name == against or not limit else median(value) / limit
        spread = (value.low, value.high) if hasattr(value, "low") else None
        yield Row(section, case, name, median(value), unit, ratio, against, spread)


def context():
    """Machine, versions and date. A figure means nothing without them."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return {
        "date": datetime.date.today().isoformat(),
        "device": " ".join(dict.fromkeys((device.platform, device.device_kind))),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }


def print_context(facts):
    """One line of facts, then the versions."""
    print(
        f"{facts['date']}  {facts['device']}, {facts['cores']} cores, {facts['machine']}, "
        f"Python {facts['python']}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print(textwrap.fill(versions, 80))


def print_rows(rows):
    """A table of one section's rows, in 80 columns."""
    heading = None
    for row in rows:
        if (row.section, row.case) != heading:
            heading = row.section, row.case
            print(f"\n{row.section}: {row.case}")
        ratio = "" if row.ratio is None else f"{row.ratio:7.3f} x {row.against}"
        spread = "" if row.spread is None else f" ({row.spread[0]:.4g} to {row.spread[1]:.4g})"
        value = f"{row.value:.4g} {row.unit}{spread}"
        print(f"  {row.name + ' ':20}{value:34}{ratio}".rstrip())


def save_json(path, facts, rows):
    """All rows and their context as JSON."""
    table = [row._asdict() for row in rows]
    path.write_text(json.dumps({"context": facts, "rows": table}, indent=1) + "\n")


def draw(path, facts, rows):
    """A bar for each library and each case that is compared with a copy, on a logarithmic axis."""
    from jaxdrop import plots

    ours = {(row.section, row.case) for row in rows if row.name == "jaxdrop" and row.unit == "ms"}
    chosen = [row for row in rows if row.against == "copy" and row.ratio]
    chosen = [row for row in chosen if (row.section, row.case) in ours]
    if not chosen:
        return False
    cases = list(dict.fromkeys(_label(row) for row in chosen))
    names = list(dict.fromkeys(row.name for row in chosen))
    figure, (axes,) = plots.figure(1, width=2.2 * len(cases) + 2, height=4.5)
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        own = {_label(row): row.ratio for row in chosen if row.name == name}
        places = [cases.index(case) + (number - len(names) / 2 + 0.5) * width for case in own]
        axes.bar(places, list(own.values()), width * 0.92, label=name)
    axes.axhline(1, color="0.4", linewidth=1, linestyle="--")
    axes.set_yscale("log")
    axes.set_ylim(0.5, 1.2 * max(row.ratio for row in chosen))
    axes.set_yticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    axes.set(xticks=range(len(cases)), ylabel="time, in copies of the array")
    axes.set_xticklabels(cases, fontsize=8)
    axes.set_title(f"{facts['device']}, {facts['date']}, jax {facts['versions']['jax']}")
    axes.legend(frameon=False, ncols=2)
    figure.savefig(path, dpi=110)
    return True


def _label(row):
    return "\n".join([row.section, *row.case.split(", ")])
