"""What each command does: a few lines each, which import of the lab what they need and only then."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from postdiff.cli.mistakes import foreseen, line
from postdiff.engine.errors import UsageError

__all__ = [
    *(
        "app",
        "bench",
        "data_prepare",
        "data_statistics",
        "export",
        "launch",
        "list_",
        "macs",
        "plan",
        "profile",
        "report",
    ),
    *("run", "score", "table"),
]


def run(given: argparse.Namespace) -> None:
    """Run the missing rows, print the table, say where images and records are."""
    from postdiff.lab import run
    from postdiff.lab.data.samples import Shard
    from postdiff.lab.files import folders
    from postdiff.lab.tables.table import render

    shard = Shard.parse(given.shard) if given.shard else None
    experiment = _experiment(given)
    image = run.run(experiment, _say, shard, given.fresh, timed=not given.no_bench)
    print(f"{render(experiment)}\n")
    if image:
        print(f"images: {image}")
    print(f"records:  {folders.outputs() / 'records' / experiment.name}")


def score(given: argparse.Namespace) -> None:
    """Measure stored images anew and print the table."""
    from postdiff.lab import run
    from postdiff.lab.tables.table import render

    experiment = _experiment(given)
    run.score(experiment, _say)
    print(render(experiment))


def launch(given: argparse.Namespace) -> None:
    """Start rows as jobs; once they are waited for, print the table."""
    from postdiff.lab import launch
    from postdiff.lab.tables.table import render

    given.overrides, resources = launch.split(given.overrides)
    experiment = _experiment(given, silent=False)
    options = launch.LaunchOptions(given.shards, resources, given.dry_run, given.wait)
    if launch.launch(experiment, given.overrides, options, print):
        print(render(experiment))


def bench(given: argparse.Namespace) -> None:
    """Time all rows in turns and print what became of the saved work."""
    from postdiff.lab import run
    from postdiff.lab.bench import speed_table

    experiment = _experiment(given)
    run.bench(experiment)
    print(speed_table.render(experiment, given.format))


def profile(given: argparse.Namespace) -> None:
    """Time rows by group of modules; print the table, write it and its chart."""
    from postdiff.lab.bench import profile

    table, files = profile.profile(_experiment(given), given.format)
    print(table)
    for file in files:
        _say(f"wrote {file}")


def table(given: argparse.Namespace) -> None:
    """Print the table of the records that are there."""
    from postdiff.lab.tables.table import render

    print(render(_experiment(given, silent=False), given.format))


def report(given: argparse.Namespace) -> None:
    """Write an experiment's report as one HTML file and say where it is."""
    from pathlib import Path

    from postdiff.lab.report import page, recorded

    experiment = _experiment(given)
    experiment = experiment if given.overrides else recorded.as_recorded(experiment, given.experiment or "demo")
    print(f"report: {page.write(experiment, Path(given.out) if given.out else None)}")


def macs(given: argparse.Namespace) -> None:
    """Count on structure twins and print."""
    from postdiff.lab.macs import macs_table

    print(macs_table.render(_experiment(given), given.convention, given.format, given.by, given.branches))


def data_prepare(given: argparse.Namespace) -> None:
    """Freeze a data set in a manifest and say what it holds."""
    from postdiff.lab.data import preparation

    names = ("source", "count", "seed", "choose", "column", "seed_column", "classes", "seeds", "out")
    print(preparation.prepare(given.name, preparation.PrepareOptions(**{name: getattr(given, name) for name in names})))


def data_statistics(given: argparse.Namespace) -> None:
    """Make reference statistics and say where they are."""
    from postdiff.lab import quiet
    from postdiff.lab.metrics import reference_statistics

    quiet.quiet()
    names = ("images", "extractor", "mode", "crop", "device", "batch_size")
    request = reference_statistics.StatisticsRequest(**{name: getattr(given, name) for name in names})
    print(reference_statistics.statistics(given.name, request))


def export(given: argparse.Namespace) -> None:
    """Write a row's images as one .npz file."""
    from postdiff.lab import export as adm

    print(adm.export(_experiment(given), given.out))


def plan(given: argparse.Namespace) -> int:
    """Find the best setting within a budget; print it, and write it as an experiment. 1 if nothing is within."""
    from postdiff.lab import quiet
    from postdiff.lab.config.layers import from_words
    from postdiff.lab.planner import asked, bench_check, listed, planning

    quiet.quiet()
    names = ("model", "budget", "data", "objective", "space", "prompts", "device")
    given.data = given.data or asked.usual_data(given.model)
    options = asked.PlanOptions(**{name: getattr(given, name) for name in names})
    file = asked.out_file(options, given.out)
    ours = planning.Planning(options, from_words(given.overrides), _say)
    if given.resume:
        ours.trials.must_be_begun()
    try:
        if given.dry_run:
            print(listed.costs(ours, given.format))
            return 0
        answer = ours.answer()
    except planning.Beyond as beyond:
        print(line("postdiff: ", str(beyond)), file=sys.stderr)
        return 1
    print(f"{answer.table(given.format)}\n")
    answer.write(file)
    print(f"{answer.sentence()}\n{answer.carry()}\n\n{answer.python()}\n\nplan: {file} (postdiff run {file})")
    if answer.budget.kind == "seconds":
        print(bench_check.check(file, answer.budget, answer.predicted()))
    return 0


def app(given: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    from postdiff.lab import quiet
    from postdiff.lab.app import server

    quiet.quiet()
    server.serve(server.AppOptions(given.model, given.host, given.port), foreseen, _say)


def list_(given: argparse.Namespace) -> None:
    """Print what there is."""
    from postdiff.lab import listing

    print(listing.render(given.kind, given.format, _say))


def _experiment(given: argparse.Namespace, silent: bool = True) -> Any:  # an Experiment, whose type would load the lab
    """The experiment and the rows that are asked for; `silent` takes hints of libraries off, and loads those."""
    from postdiff.lab import quiet
    from postdiff.lab.config import experiment
    from postdiff.lab.config.layers import from_words

    if silent:
        quiet.quiet()
    rows = None if given.rows is None else [name.strip() for name in given.rows.split(",") if name.strip()]
    if rows == []:
        raise UsageError("--rows names no row; write --rows A,B, or leave it out for all")
    return experiment.load(
        "demo" if given.experiment is None else given.experiment, from_words(given.overrides)
    ).select(rows)


def _say(message: str) -> None:
    print(line("postdiff: ", message, 2000), file=sys.stderr)
