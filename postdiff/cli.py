"""The command `postdiff`: arguments in, exit code out. What it does is in `postdiff.lab`, imported when needed.

A user's mistake ends in one line on stderr and exit code 2; Ctrl-C in one line and 130.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

__all__ = ["entry", "main"]

EXTRA = (
    *("lightning", "omegaconf", "torchmetrics", "torchvision", "cleanfid", "numpy", "tqdm", "PIL", "yaml"),
    *("matplotlib", "pyarrow", "requests", "filelock"),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _usage_error(f"{message}; see '{self.prog} --help'")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        words: command-line words without the program's name; those of the process if omitted.

    Returns:
        0 when what was asked is done, 2 after a mistake, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in words
    # Whoever ends the process politely gets what Ctrl-C gets; signals are the main thread's business alone.
    in_charge = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _interrupted) if in_charge else None
    try:
        given, rest = _parser().parse_known_args(words)
        given.overrides = _overrides(given, rest)
        given.command(given)
    except KeyboardInterrupt:
        if debug:
            raise
        return _tell("interrupted; finished rows and pictures are kept, the same command goes on from there", 130)
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; nothing is left to tell it.
        sys.stderr.close()
        return 0
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError, MemoryError) as error:
        message = _foreseen(error)
        if debug or message is None:
            raise
        return _tell(message, 2)
    finally:
        if in_charge:
            signal.signal(signal.SIGTERM, before)
    return 0


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main())


def _interrupted(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="postdiff", description="Accelerate diffusion models and measure what it costs.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, act: Callable[[argparse.Namespace], None], about: str, among: Any = commands
    ) -> argparse.ArgumentParser:
        added = among.add_parser(name, help=about, description=about)
        added.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
        added.set_defaults(command=act, takes_overrides=False, experiment=None)
        return added

    def on_experiment(added: argparse.ArgumentParser) -> None:
        added.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help="default: demo")
        added.add_argument("--rows", metavar="A,B", help="only these rows")

    run = command("run", _run, "run the missing rows of an experiment and print its table")
    on_experiment(run)
    run.add_argument("--shard", metavar="I/N", help="make only part I of N of the pictures")
    run.add_argument("--fresh", action="store_true", help="make records again that are there already")
    run.add_argument("--no-bench", action="store_true", help="do not measure speed")
    bench = command("bench", _bench, "measure the speed of an experiment's rows in turns")
    on_experiment(bench)
    _add_format(bench, ("text", "markdown", "latex", "csv", "json"))
    profile = command("profile", _profile, "time an experiment's rows by step and group of modules, beside their MACs")
    on_experiment(profile)
    profile.add_argument("--by", default="group", choices=("group", "step"), help="default: group")
    _add_format(profile, ("text", "markdown", "latex", "csv", "json"))
    score = command("score", _score, "measure the stored pictures of an experiment anew, without drawing")
    on_experiment(score)
    launch = command("launch", _launch, "run the rows of an experiment as jobs of their own, here or on SLURM")
    on_experiment(launch)
    _add_launch(launch)
    for added in (run, bench, profile, score, launch):
        added.set_defaults(takes_overrides=True)
        added.epilog = "key=value words change the configuration of all rows, for instance: steps=10 seeds=[0,1]"
    table = command("table", _table, "print the table of an experiment from its records")
    on_experiment(table)
    _add_format(table, ("text", "markdown", "latex", "csv", "json"))
    macs = command("macs", _macs, "count multiply-accumulates of an experiment's rows, without weights")
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
    data = commands.add_parser("data", help=about_data, description=about_data)
    actions = data.add_subparsers(metavar="ACTION", required=True)
    prepare = command("prepare", _data_prepare, "freeze a data set, or a choice of its lines, in a manifest", actions)
    _add_prepare(prepare)
    about_statistics = "features of real pictures, which FID and its kin compare with"
    _add_statistics(command("statistics", _data_statistics, about_statistics, actions))
    export = command("export", _export, "write a row's pictures as one .npz file for the ADM evaluator")
    on_experiment(export)
    export.set_defaults(takes_overrides=True)
    export.add_argument("--out", metavar="FILE", help="default: outputs/exports/EXPERIMENT/ROW.npz")
    listing = command("list", _list, "list what there is")
    listing.add_argument("kind", nargs="?", metavar="KIND", help="models, methods, experiments, data or metrics")
    _add_format(listing, ("text", "json"))
    return parser


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
    parser.add_argument("--classes", type=int, metavar="N", help="what the file names are N classes, not prompts")
    parser.add_argument("--seeds", metavar="A,B", help="what runs draw with that set no seeds; default: 0")
    parser.add_argument("--out", metavar="FILE", help="default: outputs/data/NAME.parquet")


def _add_statistics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME_OR_FOLDER", help="a data set, or a folder of pictures")
    parser.add_argument("--images", metavar="FOLDER", help="the data set's pictures; default: what its card names")
    parser.add_argument("--mode", default="clean", help="clean, legacy_pytorch, legacy_tensorflow or clip")
    where = "the network: a file, or for mode clip a folder or repository; default: what the environment names"
    parser.add_argument("--extractor", metavar="PLACE", help=where)
    parser.add_argument("--crop", type=int, metavar="SIZE", help="shorter side to SIZE and the middle square cut out")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; default: auto")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="pictures at once; default: 32")


def _add_launch(parser: argparse.ArgumentParser) -> None:
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
        raise _usage_error(f"unexpected '{found[0]}'; see 'postdiff --help'")
    for word in found:
        if word.startswith("-") or "=" not in word:
            raise _usage_error(f"unexpected '{word}'; options are listed by --help, settings are written key=value")
    return found


def _run(given: argparse.Namespace) -> None:
    from postdiff.lab import quiet, run
    from postdiff.lab.files import folders
    from postdiff.lab.inputs.data import Shard
    from postdiff.lab.records import tables

    quiet.quiet()
    shard = Shard.parse(given.shard) if given.shard else None
    experiment = _experiment(given)
    picture = run.run(experiment, _say, shard, given.fresh, timed=not given.no_bench)
    print(tables.render(experiment))
    print()
    if picture:
        print(f"pictures: {picture}")
    print(f"records:  {folders.outputs() / 'records' / experiment.name}")


def _score(given: argparse.Namespace) -> None:
    from postdiff.lab import quiet
    from postdiff.lab.records import tables
    from postdiff.lab.runs import scoring

    quiet.quiet()
    experiment = _experiment(given)
    scoring.score(experiment, _say)
    print(tables.render(experiment))


def _launch(given: argparse.Namespace) -> None:
    from postdiff.lab import launch
    from postdiff.lab.records import tables

    given.overrides, resources = launch.split(given.overrides)
    experiment = _experiment(given)
    wish = launch.Wish(given.shards, given.executor, resources, given.dry_run, given.wait, given.jobs)
    finished = launch.launch(experiment, given.overrides, wish, print)
    if finished:
        print(tables.render(experiment))


def _bench(given: argparse.Namespace) -> None:
    from postdiff.lab import quiet, run
    from postdiff.lab.timing import speed_table

    quiet.quiet()
    experiment = _experiment(given)
    run.bench(experiment)
    print(speed_table.render(experiment, given.format))


def _profile(given: argparse.Namespace) -> None:
    from postdiff.lab import quiet
    from postdiff.lab.timing import profile_table

    quiet.quiet()
    table, files = profile_table.profile(_experiment(given), given.format, given.by)
    print(table)
    for file in files:
        _say(f"wrote {file}")


def _table(given: argparse.Namespace) -> None:
    from postdiff.lab.records import tables

    print(tables.render(_experiment(given), given.format))


def _macs(given: argparse.Namespace) -> None:
    from postdiff.lab import quiet
    from postdiff.lab.macs import counting_table

    quiet.quiet()
    print(counting_table.render(_experiment(given), given.convention, given.format, given.by, given.branches))


def _data_prepare(given: argparse.Namespace) -> None:
    from postdiff.lab.inputs import preparing

    names = ("source", "count", "seed", "choose", "column", "classes", "seeds", "out")
    wish = preparing.Wish(**{name: getattr(given, name) for name in names})
    print(preparing.prepare(given.name, wish))


def _data_statistics(given: argparse.Namespace) -> None:
    from postdiff.lab import quiet
    from postdiff.lab.scores import statistics_command

    quiet.quiet()
    names = ("images", "extractor", "mode", "crop", "device", "batch_size")
    wish = statistics_command.Wish(**{name: getattr(given, name) for name in names})
    print(statistics_command.statistics(given.name, wish))


def _export(given: argparse.Namespace) -> None:
    from postdiff.lab import quiet
    from postdiff.lab.runs import adm

    quiet.quiet()
    print(adm.export(_experiment(given), given.out))


def _list(given: argparse.Namespace) -> None:
    from postdiff.lab import listing

    print(listing.render(given.kind, given.format))


def _experiment(given: argparse.Namespace):  # type: ignore[no-untyped-def]  # its type would load the lab
    from postdiff.lab.settings import experiment
    from postdiff.lab.settings.schema import from_words

    rows = None if given.rows is None else [name.strip() for name in given.rows.split(",") if name.strip()]
    if rows == []:
        raise _usage_error("--rows names no row; write --rows A,B, or leave it out for all")
    return experiment.load(
        "demo" if given.experiment is None else given.experiment, from_words(given.overrides)
    ).select(rows)


def _usage_error(message: str) -> ValueError:
    from postdiff.engine.errors import UsageError

    return UsageError(message)


def _foreseen(error: Exception) -> str | None:
    """One line for an error that a user can mend, or None for one that only we can."""
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA:
            return None
        return f'this command needs {missing}, which is not installed; pip install "postdiff[lab]"'
    from postdiff.engine.errors import UsageError

    if isinstance(error, UsageError):
        return " ".join(str(error).split())
    if _out_of_memory(error):
        reason = " ".join(str(error).split()).rpartition("Allocator: ")[2].partition(". ")[0][:160]
        return (
            f"memory is full ({reason or type(error).__name__}); use a smaller batch_size or picture, or "
            "dtype=float16; what is made is kept"
        )
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{place}; free or change the folder, POSTDIFF_OUTPUTS says where results go"
    return None


def _out_of_memory(error: Exception) -> bool:
    """Whether a device or the machine has no memory left; torch, which need not be loaded, has two errors for it."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (type(error) is RuntimeError and "can't allocate memory" in str(error))


def _say(message: str) -> None:
    print(f"postdiff: {message}", file=sys.stderr)


def _tell(message: str, code: int) -> int:
    print(f"postdiff: error: {message}" if code == 2 else f"postdiff: {message}", file=sys.stderr)
    return code
