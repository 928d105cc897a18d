"""The grammar of the command line: one table of commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from postdiff.cli import commands
from postdiff.engine.errors import HIDDEN, UsageError, shown

__all__ = ["COMMANDS", "parsed"]

Options = dict[str, dict[str, Any]]  # {option: arguments of argparse's `add_argument`}


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        act: what it does with what was parsed; gives the exit code, None for 0.
        summary: one line.
        options: its own.
        on_experiment: whether it takes an experiment and rows of it.
        overrides: whether it takes key=value words.
        warning: told by --help beside the summary.
    """

    act: Callable[[argparse.Namespace], int | None]
    summary: str
    options: Options
    on_experiment: bool = True
    overrides: bool = True
    warning: str = ""


ON_EXPERIMENT: Options = {
    "experiment": {"nargs": "?", "metavar": "EXPERIMENT", "help": "default: demo"},
    "--rows": {"metavar": "A,B", "help": "only these rows"},
}
TABLE: Options = {
    "--format": {
        "default": "text",
        "choices": ("text", "markdown", "latex", "csv", "json"),
        "help": "default: text",
    },
}
RUN: Options = {
    "--shard": {"metavar": "I/N", "help": "make only part I of N of the images"},
    "--fresh": {"action": "store_true", "help": "make records again that are there already"},
    "--no-bench": {"action": "store_true", "help": "do not measure speed"},
}
LAUNCH: Options = {
    "--shards": {"type": int, "default": 1, "metavar": "N", "help": "jobs a row; default: 1"},
    "--dry-run": {"action": "store_true", "help": "print the commands and start nothing"},
    "--wait": {"action": "store_true", "help": "wait for the jobs and print the table"},
}
MACS: Options = {
    "--convention": {
        "choices": ("dense", "fvcore", "all"),
        "help": "default: that of the reported values, else dense",
    },
    "--by": {"default": "row", "choices": ("row", "step", "group", "part"), "help": "default: row"},
    "--branches": {
        "default": "all",
        "choices": ("all", "one"),
        "help": "all guidance branches or one; default: all",
    },
}
PREPARE: Options = {
    "name": {"metavar": "NAME", "help": "a data card, see 'postdiff list data', or with --from any name"},
    "--from": {"dest": "source", "metavar": "PATH", "help": "file or folder that holds it; default: fetch it"},
    "--count": {"type": int, "metavar": "N", "help": "lines to choose; default: the card's, or all"},
    "--seed": {"type": int, "metavar": "S", "help": "of the choice; default: the card's, or 0"},
    "--choose": {
        "metavar": "RULE",
        "help": "captions: first, random or captions; prompts: in_order or random; classes: balanced or random; "
        "default: the card's, or the first of these",
    },
    "--column": {"metavar": "C", "help": "of the prompts; default: prompt, prompts, caption or text"},
    "--seed-column": {
        "metavar": "C",
        "help": "of the lines' own seeds, whole numbers, one a line: generated with it plus the run's seed, so as it "
        "is with seeds=[0], the default",
    },
    "--classes": {"type": int, "metavar": "N", "help": "what the file names are N classes, not prompts"},
    "--seeds": {"metavar": "A,B", "help": "what runs generate with that set no seeds; default: 0"},
    "--out": {"metavar": "FILE", "help": "default: outputs/data/NAME.parquet"},
}
STATISTICS: Options = {
    "name": {"metavar": "NAME_OR_FOLDER", "help": "a data set, or a folder of images"},
    "--images": {"metavar": "FOLDER", "help": "the data set's images; default: what its card names"},
    "--mode": {"default": "clean", "help": "clean, legacy_pytorch, legacy_tensorflow, clip or efficientnet"},
    "--extractor": {
        "metavar": "PLACE",
        "help": "the network: a TorchScript file, which runs code of its own, so take none that you do not trust; or "
        "for mode clip a folder or repository; default: what the environment names",
    },
    "--crop": {"type": int, "metavar": "SIZE", "help": "shorter side to SIZE and the middle square cut out"},
    "--device": {"default": "auto", "help": "auto, cpu, cuda or cuda:N; default: auto"},
    "--batch-size": {"type": int, "default": 32, "metavar": "N", "help": "images at once; default: 32"},
}
LIST: Options = {
    "kind": {
        "nargs": "?",
        "metavar": "KIND",
        "help": "models, methods, experiments, plans, data, metrics, schedulers, conditions, loggers or families",
    },
    "--format": {"default": "text", "choices": ("text", "json"), "help": "default: text"},
}
PLAN: Options = {
    "--model": {"required": True, "metavar": "MODEL", "help": "a model card or a pipeline folder"},
    "--budget": {"required": True, "metavar": "B", "help": 'the most an image may cost: 0.4x, "12 TMACs" or "1.5 s"'},
    "--data": {"metavar": "PROMPTS", "help": "prompts to calibrate on; default: those of the model, or emoji"},
    "--objective": {"default": "paired_lpips", "metavar": "METRIC", "help": "what decides; default: paired_lpips"},
    "--space": {"metavar": "SPACE", "help": "a file of configs/plans, or your own; default: the one for the model"},
    "--prompts": {"type": int, "default": 48, "metavar": "N", "help": "the most to calibrate on; default: 48"},
    "--device": {"default": "auto", "help": "auto, cpu, cuda or cuda:N; default: auto"},
    "--out": {"metavar": "FILE", "help": "default: outputs/plans/MODEL-BUDGET.yaml"},
    "--dry-run": {"action": "store_true", "help": "print what settings would cost and generate nothing"},
    "--resume": {
        "action": "store_true",
        "help": "refuse to begin anew; without it a plan goes on too, if model, data and settings are the same",
    },
}
EXPORT: Options = {"--out": {"metavar": "FILE", "help": "default: outputs/exports/EXPERIMENT/ROW.npz"}}
REPORT: Options = {"--out": {"metavar": "FILE", "help": "default: outputs/reports/EXPERIMENT.html"}}
APP: Options = {
    "--model": {"default": "emoji", "metavar": "MODEL", "help": "a model card or a pipeline folder; default: emoji"},
    "--host": {"default": "127.0.0.1", "metavar": "HOST", "help": "address to listen on; default: 127.0.0.1"},
    "--port": {"type": int, "metavar": "P", "help": "default: the first free one from 7860 on"},
}
PICKLES = "job files, in outputs/jobs, are pickles that the jobs run: whoever may write there runs code as you"
GROUPS = {"data": "prepare data sets"}  # commands of two words

COMMANDS = {
    "run": Command(commands.run, "run the missing rows of an experiment and print its table", RUN),
    "bench": Command(commands.bench, "measure the speed of an experiment's rows in turns", TABLE),
    "profile": Command(commands.profile, "time an experiment's rows by group of modules, beside their MACs", TABLE),
    "score": Command(commands.score, "measure the stored images of an experiment anew, without generating", {}),
    "launch": Command(
        commands.launch,
        "run the rows of an experiment as jobs of SLURM, or print their commands",
        LAUNCH,
        warning=PICKLES,
    ),
    "table": Command(commands.table, "print the table of an experiment from its records", TABLE, overrides=False),
    "report": Command(commands.report, "write an experiment as one HTML page: table, frontier, images, steps", REPORT),
    "macs": Command(commands.macs, "count multiply-accumulates of an experiment's rows, without weights", MACS | TABLE),
    "plan": Command(
        commands.plan,
        "find the setting that is nearest to a model's full run within a budget; the same command goes on",
        PLAN | TABLE,
        on_experiment=False,
    ),
    "app": Command(
        commands.app,
        "open a page in the browser to try methods on a pipeline",
        APP,
        on_experiment=False,
        overrides=False,
        warning="with --host another than this machine's own, whoever reaches that address may use the page",
    ),
    "data prepare": Command(
        commands.data_prepare,
        "freeze a data set, or a choice of its lines, in a manifest",
        PREPARE,
        on_experiment=False,
        overrides=False,
    ),
    "data statistics": Command(
        commands.data_statistics,
        "features of reference images, which FID and its kin compare with",
        STATISTICS,
        on_experiment=False,
        overrides=False,
    ),
    "export": Command(commands.export, "write a row's images as one .npz file for the ADM evaluator", EXPORT),
    "list": Command(commands.list_, "list what there is", LIST, on_experiment=False, overrides=False),
}


class _Once(argparse.Action):
    """An option with a value, which is given once: of two nobody knows which was meant."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        given = vars(namespace).setdefault("given_options", set())
        if option_string is not None and self.dest in given:
            parser.error(f"{option_string} is given twice")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see '{self.prog} --help'")


def _refuse_hidden(words: Sequence[str]) -> None:
    """Refuse words with characters that nobody sees; a setting may hold line breaks and tabs, as YAML does.

    Raises:
        UsageError: the first such word.
    """
    for word in words:
        if not word.isprintable():
            # Halves of characters are bytes of a file's name in another encoding.
            seen = word.encode(errors="ignore").decode()
            found = HIDDEN.search(seen.translate({10: " ", 9: " "}) if "=" in seen else seen)
            if found:
                raise UsageError(f"'{shown(word)}' holds a hidden character, U+{ord(found[0]):04X}; leave it out")


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """Words as a namespace: `command`, a `Command`; `overrides`, the key=value words; and the command's options.

    Raises:
        UsageError: a word that no command takes.
    """
    _refuse_hidden(words)
    whole = _Parser(prog="postdiff", description="Accelerate diffusion models and measure what it costs.")
    whole.add_argument("--debug", action="store_true", help="show the traceback of an error")
    among = {"": whole.add_subparsers(metavar="COMMAND", required=True)}
    for name, command in COMMANDS.items():
        group, _, verb = name.rpartition(" ")
        if group not in among:
            within = among[""].add_parser(group, help=GROUPS[group], description=GROUPS[group])
            among[group] = within.add_subparsers(metavar="ACTION", required=True)
        description = "; ".join(filter(None, (command.summary, command.warning)))
        own = among[group].add_parser(verb, help=command.summary, description=description)
        own.set_defaults(command=command, experiment=None)
        own.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
        for option, how in {**(ON_EXPERIMENT if command.on_experiment else {}), **command.options}.items():
            own.add_argument(option, **{"action": _Once, **how})
        if command.overrides:
            own.epilog = "key=value words change the configuration of all rows, for instance: steps=10 seeds=[0,1]"
    given, rest = whole.parse_known_args(words)
    # What argparse hands back may stand anywhere; the first such word it takes for the experiment.
    if given.experiment and "=" in given.experiment:
        rest.insert(0, given.experiment)
        given.experiment = None
    if rest and not given.command.overrides:
        raise UsageError(f"unexpected '{rest[0]}'; see 'postdiff --help'")
    for word in rest:
        if word.startswith("-") or "=" not in word:
            raise UsageError(f"unexpected '{word}'; options are listed by --help, settings are written key=value")
    given.overrides = rest
    return given
