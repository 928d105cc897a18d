"""Mistakes of users, generated: wrong values of every kind in every place. Each one must end in one line.

A seed chooses which; the same seed gives the same mistakes. What is valid, however odd, is none of them.
"""

from __future__ import annotations

import dataclasses
import inspect
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from postdiff import methods, metrics
from postdiff.lab.config import schedulers
from postdiff.lab.config.schema import RunConfig
from postdiff.lab.pipelines.cards import ModelCard
from tests.lab.bad import run

HUGE = str(10**30)
# Written as YAML; each is wrong wherever its kind is asked for.
WRONG: dict[Any, tuple[str, ...]] = {
    int: (
        *("x", "1.5", "'1'", "1:30", "017", ".nan", "-.inf", "[1]", "{a: 1}", "true", "yes", "2026-01-01", "1_000"),
        *("0b1", "${oc.env:HOME}", "'???'", HUGE, f"-{HUGE}", "''", "1e3", '"\\e[31m"', "!!binary aGk=", "*nothing"),
    ),
    float: (
        *("x", "'0.5'", "[1.0]", "{a: 1}", "true", "1:30", "${oc.env:HOME}", ".nan", "-.inf", "'???'", "'1,5'"),
        *("-1e999", "no", f"-{HUGE}", "0.5.5", "!!timestamp 2026-01-01", "017"),
    ),
    str: (
        "[a]",
        "{a: b}",
        "true",
        "1.5",
        ".nan",
        "${oc.env:HOME}",
        '"a\\e]0;title\\a"',
        '"\\u202e"',
        "&a [*a]",
        "0123",
    ),
    bool: ("yes", "no", "on", "off", "1", "0", "'true'", "x", "[]", "{}", "null", "${oc.env:HOME}", "2.0"),
    list: ("x", "3", "{a: 1}", "true", "[${oc.env:HOME}]", "1.5", "'[]'"),
    dict: ("x", "3", "[1]", "true", "1.5", "{a: ${oc.env:HOME}}"),
}
ITEMS = {
    int: ("[x]", "[1.5]", "[true]", "[[0]]", "[null]", "['1']", "[1:30]"),
    str: ("[[a]]", "[{}]", "[true]", "[1.5]"),
}


@dataclass(frozen=True)
class Mistake:
    """One of them.

    Attributes:
        kind: what is wrong, and where.
        words: of the command line; HERE stands for a fresh folder that is in POSTDIFF_PATH.
        files: {path below HERE: content}; HERE stands for the folder in these too.
        environment: variables of the process.
        changes: {path in a copy of the tiny model at HERE/m: None to remove it, new values of a JSON file, or content}.
    """

    kind: str
    words: tuple[str, ...]
    files: dict[str, Any] = field(default_factory=dict, hash=False)
    environment: dict[str, str] = field(default_factory=dict, hash=False)
    changes: dict[str, Any] = field(default_factory=dict, hash=False)


def chosen(everything: list[Mistake], count: int, seed: int) -> list[Mistake]:
    """So many different ones, of all kinds in equal parts as far as there are enough."""
    by_kind: dict[str, list[Mistake]] = {}
    for one in different(everything):
        by_kind.setdefault(one.kind.partition(":")[0], []).append(one)
    dice = random.Random(seed)
    for found in by_kind.values():
        dice.shuffle(found)
    picked: list[Mistake] = []
    while len(picked) < count and any(by_kind.values()):
        picked += [found.pop() for found in by_kind.values() if found]
    return picked[:count]


def different(mistakes: list[Mistake]) -> list[Mistake]:
    """Without those that are there twice."""
    return list({repr(dataclasses.astuple(one)[1:]): one for one in mistakes}.values())


def leaves(schema: type[Any], above: str = "") -> Iterator[tuple[str, Any, bool]]:
    """(dotted key, kind, whether null is fine) of every value of a dataclass."""
    for name, hint in get_type_hints(schema).items():
        optional = type(None) in get_args(hint)
        kind = next(each for each in get_args(hint) if each is not type(None)) if optional else hint
        if dataclasses.is_dataclass(kind):
            yield from leaves(kind, f"{above}{name}.")
        else:
            yield above + name, kind, optional


def wrong(kind: Any, optional: bool) -> Iterator[str]:
    """Values that are not of a kind."""
    yield from WRONG[str] if get_origin(kind) is Literal else WRONG.get(get_origin(kind) or kind, ())
    if get_origin(kind) is list:
        yield from ITEMS.get(get_args(kind)[0], ())
    if not optional:
        yield "null"


def nested(key: str, value: str, indent: str) -> str:
    """`a.b` and a value as block YAML."""
    *parents, last = key.split(".")
    lines = [f"{indent}{'  ' * depth}{parent}:" for depth, parent in enumerate(parents)]
    return "\n".join([*lines, f"{indent}{'  ' * len(parents)}{last}: {value}"]) + "\n"


def placed(kind: str, key: str, value: str) -> Iterator[Mistake]:
    """A setting in the three places where one may stand."""
    yield Mistake(f"word: {kind}", run(f"{key}={value}"))
    usual = "".join(f"  {name}: tiny\n" for name in ("model", "data") if name != key)
    base = f"base:\n{usual}{nested(key, value, '  ')}rows: {{plain: {{}}}}\n"
    row = f"base:\n{usual}rows:\n  plain:\n{nested(key, value, '    ')}"
    for place, text in (("base", base), ("row", row)):
        words = [word for word in run() if word.partition("=")[0] != key.partition(".")[0]]
        mine = tuple("mine" if word == "tiny" else word for word in words)
        yield Mistake(f"{place}: {kind}", mine, {"configs/experiments/mine.yaml": text})


def settings() -> Iterator[Mistake]:
    """Every key of a run with every wrong value, and every key with two letters changed."""
    for key, kind, optional in leaves(RunConfig):
        for value in wrong(kind, optional):
            yield from placed(f"{key}={value}", key, value)
        yield from placed(f"typing error in {key}", typed_wrongly(key), "1")
    for key, value in OUT_OF_RANGE:
        yield from placed(f"{key}={value}", key, value)


def typed_wrongly(key: str) -> str:
    above, dot, last = key.rpartition(".")
    return f"{above}{dot}{last[:2]}x{last[2:]}"


OUT_OF_RANGE = (
    *((name, value) for name in ("steps", "height", "width", "batch_size", "count", "frames") for value in ("0", "-1")),
    *((f"{name}", "20000") for name in ("height", "width", "frames")),
    *(("guidance_scale", value) for value in ("-1", "-0.001", ".inf")),
    *(("strength", value) for value in ("0", "-0.5", "1.01", ".inf")),
    *(("seeds", value) for value in ("[-1]", "[1, 1]", f"[{2**63}]", "[]", f"[0, {HUGE}]")),
    *(("bench.repeats", "-1"), ("bench.repeats", "1000000000"), ("bench.warmup", "-1"), ("bench.batch_size", "0")),
    *(("bench.seconds", "0"), ("bench.seconds", "-3"), ("bench.seconds", "soon")),
    *(("bootstrap", "-1"), ("bootstrap", "1000000000"), ("logger.images", "-1"), ("logger.timeout", "0")),
    *(("trainer.devices", "0"), ("trainer.devices", "100000"), ("trainer.num_nodes", "0"), ("logger.timeout", ".inf")),
    *(("dtype", value) for value in ("float64", "float", "int8", "Float32", "float32x")),
    *(("device", value) for value in ("gpu", "cuda:x", "cuda:-1", "cuda:999", "CPU", "meta")),
    *(("store", "npz"), ("wandb", "on"), ("weights", "none"), ("network.attention", "xformers")),
    *(("trainer.accelerator", "tpu"), ("trainer.strategy", "fsdp"), ("data", "'???'"), ("model", "'???'")),
    *(("model", "~nosuchuser/x"), ("data", "~nosuchuser/x.txt"), ("model", "/dev/null"), ("data", "/dev/zero.txt")),
    *(("scheduler", "nosuch"), ("scheduler", "[ddim]"), ("scheduler", "{name: [ddim]}"), ("scheduler", "{nam: ddim}")),
    *(("metrics", value) for value in ("[nosuch]", "[paired_psnr, paired_psnr]", "[1]", "[{}]", "[null]", "[[]]")),
    *(("methods", value) for value in ("[nosuch]", "[1]", "[{}]", "[null]", "[[deepcache]]", "[{a: {}, b: {}}]")),
    *(("stages", value) for value in ("{up: {}}", "{up: 3}", "{up: {steps: 0}}", "{1: {steps: x}}")),
)


def of_methods() -> Iterator[Mistake]:
    """Every option of every method with every wrong value."""
    for name in methods.names():
        cls = methods.find(name)
        hints = get_type_hints(cls)
        for option in dataclasses.fields(cls):
            kinds = {get_origin(kind) or kind for kind in (get_args(hints[option.name]) or (hints[option.name],))}
            for value in ("{a: 1}", "[[[]]]", "[x, 1.5, {}]", ".nan", "[.nan]", HUGE, "-7.5"):
                if value == "{a: 1}" and dict in kinds:
                    continue
                yield Mistake(
                    f"method: {name} {option.name}={value}", run(f"methods=[{{{name}: {{{option.name}: {value}}}}}]")
                )
            wrongly = typed_wrongly(option.name)
            yield Mistake(f"method: {name} {wrongly}", run(f"methods=[{{{name}: {{{wrongly}: 1}}}}]"))
        for option, value in METHOD_VALUES:
            if option in {one.name for one in dataclasses.fields(cls)}:
                words = run(f"methods=[{{{name}: {{{option}: {value}}}}}]")
                yield Mistake(f"method: {name} {option}={value}", words)
        for value in ("3", "[1]", "x"):
            yield Mistake(f"method: {name} of {value}", run(f"methods=[{{{name}: {value}}}]"))


METHOD_VALUES = (
    *(("beta", value) for value in ("0", "1", "0.0001", "[0.5, 0.5]", "[0.75, 0.5]")),
    *(("order", value) for value in ("-1", "100")),
    *(("switch", value) for value in ("-1", "1.5", "[0.6, 0.3]")),
    *(("interval", value) for value in ("0", "-1")),
)


def of_metrics() -> Iterator[Mistake]:
    """Every option of every metric with every wrong value."""
    for name in metrics.SHIPPED:
        options = metrics.load(name).Options
        if options is None:
            yield Mistake(f"metric: options of {name}", run(f"metrics=[{{{name}: {{k: 1}}}}]"))
            continue
        for key, kind, optional in leaves(options):
            for value in wrong(kind, optional):
                yield Mistake(f"metric: {name} {key}={value}", run(f"metrics=[{{{name}: {{{key}: {value}}}}}]"))
        for key, value in METRIC_VALUES:
            if key in {option.name for option in dataclasses.fields(options)}:
                yield Mistake(f"metric: {name} {key}={value}", run(f"metrics=[{{{name}: {{{key}: {value}}}}}]"))
        yield Mistake(f"metric: option of {name}", run(f"metrics=[{{{name}: {{nosuch: 1}}}}]"))


METRIC_VALUES = (
    *((name, value) for name in ("crop", "subsets", "splits", "k") for value in ("0", "-1", "1000000000")),
    *(("subset_size", "1"), ("subset_size", "1000000000"), ("cap", "1"), ("cap", "1000000000"), ("seed", "-1")),
    *(("mode", "cleen"), ("mode", "''"), ("net", "resnet"), ("template", "a photo")),
    *((name, value) for name in ("extractor", "weights", "model") for value in ("/no/such", "~nosuchuser/x", "''")),
)


def of_schedulers() -> Iterator[Mistake]:
    """Every option of every scheduler with wrong values."""
    for name in schedulers.SCHEDULERS:
        known = inspect.signature(schedulers.find(name).__init__).parameters
        for option, parameter in known.items():
            values = {
                bool: ("x", "1", "[true]"),
                int: ("x", "1.5", HUGE, "-200000"),
                float: ("x", ".nan", "[1]"),
                str: ("zz", "3"),
            }
            for value in values.get(type(parameter.default), ()):
                words = run(f"scheduler.name={name}", f"scheduler.options.{option}={value}")
                yield Mistake(f"scheduler: {name} {option}={value}", words)
        for text in (
            *("trained_betas: [1]", "trained_betas: [[.nan]]", "trained_betas: x", "beta_start: 2", "beta_end: -1"),
            *("thresholding: true, dynamic_thresholding_ratio: 5", "num_train_timesteps: 1000000000", "nosuch: 1"),
            *("solver_order: 99", "steps_offset: x", "steps_offset: 100000", "beta_schedule: zz", "solver_p: x"),
        ):
            if text.partition(":")[0] in (*known, "nosuch"):
                yield Mistake(f"scheduler: {name} {text}", run(f"scheduler={{name: {name}, options: {{{text}}}}}"))


def of_cards() -> Iterator[Mistake]:
    """Every key of a model card with every wrong value."""
    usual = {"folder": "HERE/../model", "pipeline": "StableDiffusionPipeline"}

    def card(kind: str, key: str, value: str) -> Mistake:
        top = key.partition(".")[0]
        text = "".join(f"{name}: {known}\n" for name, known in usual.items() if name != top) + nested(key, value, "")
        return Mistake(f"model card: {kind}", run("model=mine"), {"configs/models/mine.yaml": text})

    for key, kind, optional in leaves(ModelCard):
        for value in wrong(kind, optional):
            if key != "summary":
                yield card(f"{key}={value}", key, value)
        yield card(f"typing error in {key}", typed_wrongly(key), "1")
    for key, value in CARD_VALUES:
        yield card(f"{key}={value}", key, value)


CARD_VALUES = (
    *((side, value) for side in ("height", "width") for value in ("0", "31", "-8", "100000", "1000000000")),
    *(("guidance_scale", value) for value in (".nan", "-1", ".inf")),
    *(("dtype", value) for value in ("float64", "x", "''")),
    *(
        ("strength", "0"),
        ("strength", "2"),
        ("frames", "0"),
        ("frames", "1000000000"),
        ("strength", "0.5"),
        ("frames", "8"),
    ),
    *(("pipeline", value) for value in ("UNet2DModel", "os.system", "StabelDiffusion", "''", "DiTPipeline")),
    *(("scheduler.name", "dimm"), ("scheduler.options", "{beta_end: .nan}"), ("scheduler.options", "{beta_end: 7}")),
    *(("lora.scale", ".nan"), ("stages", "{one: {folder: x}}"), ("stages", "{a: {folder: x}, b: {folder: y}}")),
    *(("hub", "a/b"), ("folder", "/no/such"), ("folder", "~nosuchuser/x"), ("folder", "/dev/null"), ("folder", "''")),
    *((f"{part}.folder", "/no/such") for part in ("network", "vae", "controlnet", "motion_adapter", "lora")),
    *(("controlnet.folder", "HERE/../model/unet"), ("motion_adapter.folder", "HERE/../model/unet")),
    *(("network.folder", "HERE/../model/vae"), ("vae.folder", "HERE/../model/unet"), ("structure", "nosuch")),
)


def everything() -> list[Mistake]:
    """All of the values here."""
    return [*settings(), *of_methods(), *of_metrics(), *of_schedulers(), *of_cards()]
