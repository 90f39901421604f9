"""Plants a sample of faults, one at a time, and counts those that a test sees.

    python -m tests.mutation --module jaxdrop/masks --sample 100

In a clone of its own, whose files it changes and restores; needs ``pip install cosmic-ray``, whose
settings are in ``pyproject.toml``. Stopped, it goes on where it was if the session is kept.
"""

import argparse
import pathlib
import random
import re
import tomllib

from cosmic_ray import commands
from cosmic_ray.config import ConfigDict
from cosmic_ray.modules import find_modules
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import WorkerOutcome, WorkResult

_SKIPPED = WorkResult(worker_outcome=WorkerOutcome.SKIPPED)


def plant(session, config, module, sample, seed):
    """Fills an empty session with all faults of a module, of which all but a sample are skipped."""
    commands.init(find_modules([pathlib.Path(module)]), session, {})
    excluded = re.compile("|".join(config["excluded-operators"]))
    items = {}
    for item in session.pending_work_items:
        (fault,) = item.mutations
        name = (str(fault.module_path), fault.operator_name, fault.occurrence)
        items[name] = item.job_id
    asked = sorted(name for name in items if not excluded.fullmatch(name[1]))
    chosen = set(random.Random(seed).sample(asked, min(sample, len(asked))))
    skipped = [job for name, job in items.items() if name not in chosen]
    session.set_multiple_results(skipped, _SKIPPED)
    print(f"{module}: {len(chosen)} of {len(asked)} faults, seed {seed}")


def report(session):
    """Prints the faults that no test saw, and how many were seen."""
    planted = seen = 0
    for _, result in session.completed_work_items:
        if result.worker_outcome == WorkerOutcome.SKIPPED:
            continue
        planted, seen = planted + 1, seen + result.is_killed
        if not result.is_killed:
            print(result.diff)
    print(f"{seen} of {planted} planted faults were seen")


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--module", default="jaxdrop/masks", help="a file or a folder")
    parser.add_argument("--sample", type=int, default=100, help="number of faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--session", default="mutation.sqlite")
    parser.add_argument("--report", action="store_true", help="of the session, and nothing else")
    arguments = parser.parse_args()
    config = tomllib.loads(pathlib.Path("pyproject.toml").read_text("utf-8"))["tool"]["cosmic-ray"]
    with use_db(arguments.session) as session:
        if not session.num_work_items:
            plant(session, config, arguments.module, arguments.sample, arguments.seed)
        if not arguments.report:
            commands.execute(session, ConfigDict(config))
        report(session)


if __name__ == "__main__":
    main()
