"""The grammar of the command line: commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from postdiff.cli import commands
from postdiff.cli.mistakes import refuse_hidden, usage_error

__all__ = ["parsed"]


class _Once(argparse.Action):
    """An option with a value, which is given once: of two nobody knows which was meant."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        given = vars(namespace).setdefault("given_options", set())
        if option_string is not None and self.dest in given:
            parser.error(f"{option_string} is given twice")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in (None, "store"):
            self.register("action", name, _Once)

    def error(self, message: str) -> NoReturn:
        raise usage_error(f"{message}; see '{self.prog} --help'")


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """Words as a namespace: `command`, which acts on it, `overrides`, the key=value words, and the command's options.

    Raises:
        UsageError: a word that no command takes.
    """
    refuse_hidden(words)
    given, rest = _parser().parse_known_args(words)
    given.overrides = _overrides(given, rest)
    return given


def _parser() -> argparse.ArgumentParser:
    whole = _Parser(prog="postdiff", description="Accelerate diffusion models and measure what it costs.")
    whole.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = whole.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, act: Callable[[argparse.Namespace], None], about: str, among: Any = verbs
    ) -> argparse.ArgumentParser:
        added = among.add_parser(name, help=about, description=about)
        added.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
        added.set_defaults(command=act, takes_overrides=False, experiment=None)
        return added

    def on_experiment(added: argparse.ArgumentParser) -> None:
        added.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help="default: demo")
        added.add_argument("--rows", metavar="A,B", help="only these rows")

    run = command("run", commands.run, "run the missing rows of an experiment and print its table")
    on_experiment(run)
    run.add_argument("--shard", metavar="I/N", help="make only part I of N of the pictures")
    run.add_argument("--fresh", action="store_true", help="make records again that are there already")
    run.add_argument("--no-bench", action="store_true", help="do not measure speed")
    bench = command("bench", commands.bench, "measure the speed of an experiment's rows in turns")
    on_experiment(bench)
    _add_format(bench, ("text", "markdown", "latex", "csv", "json"))
    profile = command(
        "profile", commands.profile, "time an experiment's rows by step and group of modules, beside their MACs"
    )
    on_experiment(profile)
    profile.add_argument("--by", default="group", choices=("group", "step"), help="default: group")
    _add_format(profile, ("text", "markdown", "latex", "csv", "json"))
    score = command("score", commands.score, "measure the stored pictures of an experiment anew, without drawing")
    on_experiment(score)
    launch = command("launch", commands.launch, "run the rows of an experiment as jobs of their own, here or on SLURM")
    on_experiment(launch)
    _add_launch(launch)
    for added in (run, bench, profile, score, launch):
        added.set_defaults(takes_overrides=True)
        added.epilog = "key=value words change the configuration of all rows, for instance: steps=10 seeds=[0,1]"
    table = command("table", commands.table, "print the table of an experiment from its records")
    on_experiment(table)
    _add_format(table, ("text", "markdown", "latex", "csv", "json"))
    macs = command("macs", commands.macs, "count multiply-accumulates of an experiment's rows, without weights")
    on_experiment(macs)
    macs.set_defaults(takes_overrides=True)
    conventions = ("dense", "fvcore", "all")
    macs.add_argument("--convention", choices=conventions, help="default: that of the reported figures, else dense")
    macs.add_argument("--by", default="row", choices=("row", "step", "group", "part"), help="default: row")
    macs.add_argument(
        "--branches", default="all", choices=("all", "one"), help="all guidance branches or one; default: all"
    )
    _add_format(macs, ("text", "markdown", "latex", "csv", "json"))
    about_data = "prepare data sets"
    data = verbs.add_parser("data", help=about_data, description=about_data)
    actions = data.add_subparsers(metavar="ACTION", required=True)
    prepare = command(
        "prepare", commands.data_prepare, "freeze a data set, or a choice of its lines, in a manifest", actions
    )
    _add_prepare(prepare)
    about_statistics = "features of real pictures, which FID and its kin compare with"
    _add_statistics(command("statistics", commands.data_statistics, about_statistics, actions))
    export = command("export", commands.export, "write a row's pictures as one .npz file for the ADM evaluator")
    on_experiment(export)
    export.set_defaults(takes_overrides=True)
    export.add_argument("--out", metavar="FILE", help="default: outputs/exports/EXPERIMENT/ROW.npz")
    listing = command("list", commands.list_, "list what there is")
    listing.add_argument(
        "kind", nargs="?", metavar="KIND", help="models, methods, experiments, data or metrics, for instance"
    )
    _add_format(listing, ("text", "json"))
    return whole


def _add_format(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    parser.add_argument("--format", default="text", choices=formats, help="default: text")


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a data card, see 'postdiff list data', or with --from any name")
    parser.add_argument("--from", dest="source", metavar="PATH", help="file or folder that holds it; default: fetch it")
    parser.add_argument("--count", type=int, metavar="N", help="lines to choose; default: the card's, or all")
    parser.add_argument("--seed", type=int, metavar="S", help="of the choice; default: the card's, or 0")
    rules = "captions: first, random or captions; prompts: in_order or random; classes: balanced or random"
    parser.add_argument("--choose", metavar="RULE", help=f"{rules}; default: the card's, or the first of these")
    parser.add_argument("--column", metavar="C", help="of the prompts; default: prompt, prompts, caption or text")
    seeds_help = "whole numbers, one a line: drawn with it plus the run's seed, so as it is with seeds=[0], the default"
    parser.add_argument("--seed-column", metavar="C", help=f"of the lines' own seeds, {seeds_help}")
    parser.add_argument("--classes", type=int, metavar="N", help="what the file names are N classes, not prompts")
    parser.add_argument("--seeds", metavar="A,B", help="what runs draw with that set no seeds; default: 0")
    parser.add_argument("--out", metavar="FILE", help="default: outputs/data/NAME.parquet")


def _add_statistics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME_OR_FOLDER", help="a data set, or a folder of pictures")
    parser.add_argument("--images", metavar="FOLDER", help="the data set's pictures; default: what its card names")
    parser.add_argument("--mode", default="clean", help="clean, legacy_pytorch, legacy_tensorflow or clip")
    where = (
        "the network: a TorchScript file, which runs code of its own, so take none that you do not trust; or for mode "
        "clip a folder or repository; default: what the environment names"
    )
    parser.add_argument("--extractor", metavar="PLACE", help=where)
    parser.add_argument("--crop", type=int, metavar="SIZE", help="shorter side to SIZE and the middle square cut out")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; default: auto")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="pictures at once; default: 32")


def _add_launch(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{parser.description}; job files, in outputs/jobs, are pickles that the jobs run: whoever may write there "
        "runs code as you"
    )
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="jobs a row; default: 1")
    parser.add_argument("--executor", default="local", choices=("local", "slurm"), help="default: local")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="jobs at once, here; default: 1")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and start nothing")
    parser.add_argument(
        "--wait", action=argparse.BooleanOptionalAction, help="wait for the jobs and print the table; default: here yes"
    )


def _overrides(given: argparse.Namespace, rest: list[str]) -> list[str]:
    """The key=value words, which argparse hands back since they may stand anywhere."""
    found = list(rest)
    if given.experiment and "=" in given.experiment:
        found.insert(0, given.experiment)
        given.experiment = None
    if found and not given.takes_overrides:
        raise usage_error(f"unexpected '{found[0]}'; see 'postdiff --help'")
    for word in found:
        if word.startswith("-") or "=" not in word:
            raise usage_error(f"unexpected '{word}'; options are listed by --help, settings are written key=value")
    return found
