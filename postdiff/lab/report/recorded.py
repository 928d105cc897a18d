"""An experiment with the settings that its records were made with."""

from __future__ import annotations

from postdiff.engine.errors import UsageError
from postdiff.lab.config import experiment as experiments
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.records.record import find
from postdiff.lab.tables import rows

__all__ = ["ASIDE", "as_recorded"]

# Keys that change where and how a row is run, not what comes out.
ASIDE = (*rows.ASIDE, "trainer")


def as_recorded(experiment: Experiment, source: str) -> Experiment:
    """The experiment with the settings that its records were made with, where all of them changed the same.

    So a report tells of what was run without being given the words of that run once more.

    Args:
        experiment: as its file has it.
        source: the name or file that it was loaded by.
    """
    changed = []
    for row in experiment.rows:
        try:
            record = find(experiment.name, row.name)
        except UsageError:
            continue  # damaged, and told so where its values are wanted
        if record is not None:
            changed.append({key: value for key, value in record.changed.items() if key not in ASIDE})
    if not changed or not changed[0] or any(each != changed[0] for each in changed):
        return experiment
    return experiments.load(source, changed[0]).select([row.name for row in experiment.rows])
