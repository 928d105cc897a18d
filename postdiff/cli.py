"""The command `postdiff`: arguments in, exit code out. What it does is in `postdiff.lab`, imported when needed.

A user's mistake ends in one line on stderr and exit code 2; Ctrl-C in one line and 130.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

__all__ = ["entry", "main"]

EXTRA = ("lightning", "omegaconf", "torchmetrics", "tqdm", "PIL", "yaml")


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
    except (ValueError, OSError, ModuleNotFoundError) as error:
        message = _foreseen(error)
        if debug or message is None:
            raise
        return _tell(message, 2)
    return 0


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="postdiff", description="Accelerate diffusion models and measure what it costs.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, act: Callable[[argparse.Namespace], None], about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
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
    bench = command("bench", _bench, "measure the speed of an experiment's rows in turns")
    on_experiment(bench)
    for added in (run, bench):
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
    listing = command("list", _list, "list what there is")
    listing.add_argument("kind", nargs="?", metavar="KIND", help="models, methods, experiments, data or metrics")
    _add_format(listing, ("text", "json"))
    return parser


def _add_format(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    parser.add_argument("--format", default="text", choices=formats, help="default: text")


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
    from postdiff.lab import folders, quiet, run, tables
    from postdiff.lab.data import Shard

    quiet.quiet()
    shard = Shard.parse(given.shard) if given.shard else None
    experiment = _experiment(given)
    picture = run.run(experiment, _say, shard, given.fresh)
    print(tables.render(experiment))
    print()
    if picture:
        print(f"pictures: {picture}")
    print(f"records:  {folders.outputs() / 'records' / experiment.name}")


def _bench(given: argparse.Namespace) -> None:
    from postdiff.lab import quiet, run, tables

    quiet.quiet()
    experiment = _experiment(given)
    run.bench(experiment)
    print(tables.render(experiment))


def _table(given: argparse.Namespace) -> None:
    from postdiff.lab import tables

    print(tables.render(_experiment(given), given.format))


def _macs(given: argparse.Namespace) -> None:
    from postdiff.lab import counting_table, quiet

    quiet.quiet()
    print(counting_table.render(_experiment(given), given.convention, given.format, given.by, given.branches))


def _list(given: argparse.Namespace) -> None:
    import json

    from postdiff.lab.listing import KINDS, listing

    entries = [entry for kind in ([given.kind] if given.kind else KINDS) for entry in listing(kind)]
    if given.format == "json":
        print(json.dumps(entries, indent=1))
        return
    width = max((len(entry["name"]) for entry in entries), default=0)
    kind = None
    for entry in entries:
        if entry["kind"] != kind and not given.kind:
            print(("" if kind is None else "\n") + entry["kind"])
        kind = entry["kind"]
        print(f"  {entry['name']:{width}}  {entry['summary']}".rstrip())


def _experiment(given: argparse.Namespace):  # type: ignore[no-untyped-def]  # its type would load the lab
    from postdiff.lab import experiment
    from postdiff.lab.schema import from_words

    rows = None if given.rows is None else [name.strip() for name in given.rows.split(",") if name.strip()]
    if rows == []:
        raise _usage_error("--rows names no row; write --rows A,B, or leave it out for all")
    return experiment.load(given.experiment or "demo", from_words(given.overrides)).select(rows)


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
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{place}; free or change the folder, POSTDIFF_OUTPUTS says where results go"
    return None


def _say(message: str) -> None:
    print(f"postdiff: {message}", file=sys.stderr)


def _tell(message: str, code: int) -> int:
    print(f"postdiff: error: {message}" if code == 2 else f"postdiff: {message}", file=sys.stderr)
    return code
