"""Every method on a second device that needs no hardware: XLA on the CPU, against torch on the CPU.

    make second-device                                       # makes an environment of its own for it
    make second-device WORDS="--only deepcache tome --fresh"

Tiny pipelines with random weights (tests/support) draw latents under every preset of methods, once on each
device. What counts is the largest difference over the largest value of the CPU's. Every case is written to
outputs/second_device.json and to docs/second_device.md as soon as it is done (of a choice of cases, the table goes to
outputs/ too); a second run goes on where the first was ended, and does again what depends on code that has changed.

On XLA nothing is computed before somebody asks for it, and what has been asked for is compiled. Blocks of a network are
asked for one by one, so that every kind is compiled once for all presets and steps.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from postdiff import accelerate, catalog
from postdiff.engine.errors import UsageError
from postdiff.engine.rows import map_tensors
from postdiff.lab import quiet
from postdiff.lab.code_hash import code_hash
from postdiff.methods.base import Method
from tests.support import tiny
from tests.support.tiny_presets import build_methods, preset

ROOT = Path(__file__).parents[1]
RECORD, TABLE = ROOT / "outputs" / "second_device.json", ROOT / "docs" / "second_device.md"
FAMILIES = ("sd", "pixart_alpha")
# Nothing is gained by better code for networks as small as these, and compiling takes most of the time.
XLA = {"PJRT_DEVICE": "CPU", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
BARE = "(none)"
ALIKE = 1e-4
HEAD = """# A second device

Made by `make second-device`: every preset on tiny pipelines with random weights, in float32, by XLA on the CPU (an
asynchronous device with memory of its own, as a GPU is), and by torch on the CPU. The difference is the largest of the
latents over the largest value of the CPU's; alike is what differs by at most {alike:g}.

{versions}.

| preset | pipeline | largest relative difference | |
| --- | --- | ---: | --- |
"""


@dataclass(frozen=True)
class Case:
    """What came of one preset on one pipeline.

    Attributes:
        preset: its name, or `BARE` for the pipeline alone.
        family: the pipeline, as tests/support calls it.
        pipeline: its class.
        difference: relative to the CPU; None if there are no latents to compare.
        reason: why there are none.
        basis: what it depends on: our code, and versions.
        seconds: how long both devices took.
    """

    preset: str
    family: str
    pipeline: str
    difference: float | None
    reason: str
    basis: str
    seconds: float

    @property
    def verdict(self) -> str:
        """In a word, or the reason."""
        if self.difference is None:
            return self.reason
        return "alike" if self.difference <= ALIKE else "not alike"


class Pair:
    """One tiny pipeline on both devices.

    Args:
        family: its name in tests/support.
        device: the second one.
        settle: computes what has been asked for on it.
    """

    def __init__(self, family: str, device: str, settle: Callable[[], None]) -> None:
        self.here, self.there = (tiny.build(family, smallest=True) for _ in range(2))
        self.family = family
        self.there.pipe.to(device)
        network: nn.Module = getattr(self.there.pipe, accelerate(self.there.pipe).family.network)
        for block in blocks(network):
            block.register_forward_hook(lambda *_: settle())
        given = self.there.arguments
        self.there.arguments = lambda ids: map_tensors(lambda tensor: tensor.to(device), given(ids))

    def compare(self, name: str, basis: str) -> Case:
        """Generate under a preset on both devices; `basis`: see `Case`."""
        begun, difference, reason = time.monotonic(), None, ""
        try:
            expected, found = (one.call(accelerate(one.pipe, stack(name))) for one in (self.here, self.there))
            difference = relative(found.cpu(), expected)
        except UsageError as error:
            reason = f"refused: {' '.join(str(error).split())}"
        except RuntimeError as error:
            reason = f"fails: {str(error).strip().splitlines()[0]}"
        pipeline, took = type(self.here.pipe).__name__, time.monotonic() - begun
        return Case(name, self.family, pipeline, difference, reason, basis, took)


def stack(name: str) -> list[Method]:
    """The methods of a preset."""
    return [] if name == BARE else build_methods(preset(name).methods)


def basis(name: str, versions: str) -> str:
    """What a case of this preset depends on."""
    return f"{code_hash(frozenset(type(method) for method in stack(name)))}, {versions}"


def blocks(network: nn.Module) -> list[nn.Module]:
    """The members of a network, and those of its lists one by one."""
    children = list(network.children())
    return [part for child in children for part in (child if isinstance(child, nn.ModuleList) else [child])]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest value expected; infinite if a value is not finite."""
    difference = float((found.double() - expected.double()).abs().max() / expected.double().abs().max())
    return difference if torch.isfinite(found).all() else float("inf")


def plan(names: Iterable[str], families: Iterable[str]) -> list[tuple[str, str]]:
    """(family, preset) of all cases; one family after the other, the bare pipeline first."""
    names = list(names)
    return [(family, name) for family in families for name in (BARE, *names)]


def render(cases: Iterable[Case], versions: str) -> str:
    """The table; presets that the pipeline does not fit come last."""
    ordered = sorted(cases, key=lambda case: (case.difference is None, case.pipeline, case.preset))
    lines = []
    for case in ordered:
        difference = "" if case.difference is None else f"{case.difference:.1e}"
        lines.append(f"| {case.preset} | {case.pipeline} | {difference} | {case.verdict.replace('|', '/')} |")
    return HEAD.format(alike=ALIKE, versions=versions) + "\n".join(lines) + "\n"


def read(file: Path) -> dict[tuple[str, str], Case]:
    """{(family, preset): case} of an earlier run."""
    found = [Case(**entry) for entry in json.loads(file.read_text())] if file.exists() else []
    return {(case.family, case.preset): case for case in found}


def write(file: Path, text: str) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".new")
    draft.write_text(text)
    draft.replace(file)


def run(cases: Sequence[tuple[str, str]], pair_of: Callable[[str], Pair], versions: str, table: Path) -> list[Case]:
    """All cases, known or made now; those are written as soon as each is done."""
    known, pairs = read(RECORD), {}
    wanted = {(family, name): basis(name, versions) for family, name in cases}
    missing = [key for key, on in wanted.items() if key not in known or known[key].basis != on]
    for family, name in (bar := tqdm(missing, desc="second device", unit="case")):
        bar.set_postfix_str(f"{name} on {family}")
        if family not in pairs:
            pairs[family] = pair_of(family)
        known[family, name] = pairs[family].compare(name, wanted[family, name])
        write(RECORD, json.dumps([asdict(case) for case in known.values()], indent=1))
        write(table, render(known.values(), versions))
    return [known[key] for key in wanted]


def main(words: Sequence[str] | None = None) -> int:
    """Gives the exit code: 1 if a case fails or differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=catalog.names("methods"), metavar="PRESET", help="some presets")
    parser.add_argument("--families", nargs="*", default=FAMILIES, metavar="NAME", help="pipelines of tests/support")
    parser.add_argument("--fresh", action="store_true", help="do again what has been done")
    given = parser.parse_args(words)
    quiet.quiet()
    for name, value in XLA.items():
        os.environ.setdefault(name, value)
    import torch_xla

    if given.fresh:
        RECORD.unlink(missing_ok=True)
    versions = f"torch {torch.__version__}, torch_xla {torch_xla.__version__}, Python {platform.python_version()}"
    cases = plan(given.only, given.families)
    whole = cases == plan(catalog.names("methods"), FAMILIES)
    found = run(
        cases, lambda family: Pair(family, "xla", torch_xla.sync), versions,
        TABLE if whole else RECORD.with_suffix(".md"),
    )  # fmt: skip
    wrong = [case for case in found if case.verdict != "alike" and not case.reason.startswith("refused")]
    for case in wrong:
        print(f"{case.preset} on {case.pipeline}: {case.verdict} {case.difference or ''}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
