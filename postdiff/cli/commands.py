"""What each command does: a few lines each, which import of the lab what they need and only then."""

from __future__ import annotations

import argparse
import sys

from postdiff.cli.mistakes import line, usage_error

__all__ = [
    "bench",
    "data_prepare",
    "data_statistics",
    "export",
    "launch",
    "list_",
    "macs",
    "profile",
    "run",
    "score",
    "table",
]


def run(given: argparse.Namespace) -> None:
    """Run the missing rows, print the table, say where pictures and records are."""
    from postdiff.lab import quiet, run
    from postdiff.lab.files import folders
    from postdiff.lab.samples import Shard
    from postdiff.lab.tables.table import render

    quiet.quiet()
    shard = Shard.parse(given.shard) if given.shard else None
    experiment = _experiment(given)
    picture = run.run(experiment, _say, shard, given.fresh, timed=not given.no_bench)
    print(render(experiment))
    print()
    if picture:
        print(f"pictures: {picture}")
    print(f"records:  {folders.outputs() / 'records' / experiment.name}")


def score(given: argparse.Namespace) -> None:
    """Measure stored pictures anew and print the table."""
    from postdiff.lab import quiet, run
    from postdiff.lab.tables.table import render

    quiet.quiet()
    experiment = _experiment(given)
    run.score(experiment, _say)
    print(render(experiment))


def launch(given: argparse.Namespace) -> None:
    """Start rows as jobs; once they are waited for, print the table."""
    from postdiff.lab import launch
    from postdiff.lab.tables.table import render

    given.overrides, resources = launch.split(given.overrides)
    experiment = _experiment(given)
    wish = launch.Wish(given.shards, given.executor, resources, given.dry_run, given.wait, given.jobs)
    finished = launch.launch(experiment, given.overrides, wish, print)
    if finished:
        print(render(experiment))


def bench(given: argparse.Namespace) -> None:
    """Time all rows in turns and print what became of the saved work."""
    from postdiff.lab import quiet, run
    from postdiff.lab.bench import speed_table

    quiet.quiet()
    experiment = _experiment(given)
    run.bench(experiment)
    print(speed_table.render(experiment, given.format))


def profile(given: argparse.Namespace) -> None:
    """Time rows by step and group of modules; print the table, write chart and cells."""
    from postdiff.lab import quiet
    from postdiff.lab.bench import profile_table

    quiet.quiet()
    table, files = profile_table.profile(_experiment(given), given.format, given.by)
    print(table)
    for file in files:
        _say(f"wrote {file}")


def table(given: argparse.Namespace) -> None:
    """Print the table of the records that are there."""
    from postdiff.lab.tables.table import render

    print(render(_experiment(given), given.format))


def macs(given: argparse.Namespace) -> None:
    """Count on structure twins and print."""
    from postdiff.lab import quiet
    from postdiff.lab.macs import counting_table

    quiet.quiet()
    print(counting_table.render(_experiment(given), given.convention, given.format, given.by, given.branches))


def data_prepare(given: argparse.Namespace) -> None:
    """Freeze a data set in a manifest and say what it holds."""
    from postdiff.lab.inputs import preparing

    names = ("source", "count", "seed", "choose", "column", "seed_column", "classes", "seeds", "out")
    wish = preparing.Wish(**{name: getattr(given, name) for name in names})
    print(preparing.prepare(given.name, wish))


def data_statistics(given: argparse.Namespace) -> None:
    """Make reference statistics and say where they are."""
    from postdiff.lab import quiet
    from postdiff.lab.metrics import statistics_command

    quiet.quiet()
    names = ("images", "extractor", "mode", "crop", "device", "batch_size")
    wish = statistics_command.Wish(**{name: getattr(given, name) for name in names})
    print(statistics_command.statistics(given.name, wish))


def export(given: argparse.Namespace) -> None:
    """Write a row's pictures as one .npz file."""
    from postdiff.lab import adm, quiet

    quiet.quiet()
    print(adm.export(_experiment(given), given.out))


def list_(given: argparse.Namespace) -> None:
    """Print what there is."""
    from postdiff.lab import listing

    print(listing.render(given.kind, given.format, _say))


def _experiment(given: argparse.Namespace):  # type: ignore[no-untyped-def]  # its type would load the lab
    from postdiff.lab.config import experiment
    from postdiff.lab.config.layers import from_words

    rows = None if given.rows is None else [name.strip() for name in given.rows.split(",") if name.strip()]
    if rows == []:
        raise usage_error("--rows names no row; write --rows A,B, or leave it out for all")
    return experiment.load(
        "demo" if given.experiment is None else given.experiment, from_words(given.overrides)
    ).select(rows)


def _say(message: str) -> None:
    print(line("postdiff: ", message, 2000), file=sys.stderr)
