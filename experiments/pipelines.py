"""Which preset runs on which pipeline: every class in the table of pipelines under every preset, for real.

    python experiments/pipelines.py                      # prints what docs/pipelines.md holds
    python experiments/pipelines.py --write              # puts it there
    python experiments/pipelines.py --only FluxPipeline  # prints these rows alone

Every class has one tiny pipeline or several with random weights, its twins (tests/support). A cell is one call of each
for one image in 8 steps: the image is finite, or the call is refused with one line.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the twins stand among the tests, which are no package of ours

import diffusers  # noqa: E402
import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from postdiff import accelerate, catalog  # noqa: E402
from postdiff.engine.errors import UsageError  # noqa: E402
from postdiff.engine.family import FAMILIES, UNFIT, Family  # noqa: E402
from postdiff.lab import quiet  # noqa: E402
from tests.support import tiny  # noqa: E402
from tests.support.cases import Case  # noqa: E402
from tests.support.tiny_presets import build_methods, preset  # noqa: E402
from tests.support.twins import TWINS  # noqa: E402

PAGE = ROOT / "docs" / "pipelines.md"
BEGIN, END = "<!-- cells: made by experiments/pipelines.py -->", "<!-- end of cells -->"
STEPS = 8
RUNS, SAME, ABSENT, UNTRIED = "+", "=", "-", "?"
LEVELS = re.compile("reach(es)? no transformer block")  # twins have two levels, published networks more
VIDEO = "Videos"
PLACES = ("Images", "Editing and inpainting", "Control images")
KINDS = [*(f"{place}: {networks}" for place in PLACES for networks in ("U-Nets", "transformers")), VIDEO]


@dataclass(frozen=True)
class Reason:
    """Why a preset is refused: with its method's name, and without, so that methods may share a line."""

    own: str
    shared: str


@dataclass
class Cell:
    """One preset on one class.

    Attributes:
        signs: what each twin says; "" if it refuses the run.
        refused: why twins refuse the run.
        lacking: what networks of twins lack.
    """

    signs: list[str] = field(default_factory=list)
    refused: list[Reason] = field(default_factory=list)
    lacking: list[Reason] = field(default_factory=list)

    def add(self, sign: str, reason: Reason | None) -> None:
        self.signs.append(sign)
        listed = self.lacking if sign == ABSENT else self.refused
        listed += [reason] if reason is not None and reason not in listed else []

    @property
    def sign(self) -> str:
        """Of the twin that gets farthest."""
        return max(self.signs, key=[ABSENT, UNTRIED, "", SAME, RUNS].index)

    def text(self, numbers: dict[str, int]) -> str:
        """As the table has it, with {reason: its number}."""
        listed = sorted({numbers[reason.shared] for reason in self.refused})
        return f"{self.sign} {','.join(map(str, listed))}".strip()


def presets() -> list[str]:
    return catalog.names("methods")


def twins() -> dict[str, dict[str, Case]]:
    """{class: {name of a twin: the twin}}."""
    builders: dict[str, Callable[[], Case]] = {
        **{name: partial(tiny.build, name, smallest=True) for name in tiny.FAMILY_CASES | tiny.VARIANTS},
        **TWINS,
    }
    found: dict[str, dict[str, Case]] = {name: {} for name in FAMILIES}
    for name, build in builders.items():
        case = build()
        # Two builders of one name are of one class.
        found[type(case.pipe).__name__][name] = case
    return found


def row(cases: dict[str, Case], bar: Any = None) -> dict[str, Cell]:
    """{preset: cell} of one class.

    Raises:
        SystemExit: an image is not finite, or a call ended in something else than one line for its user.
    """
    found = {name: Cell() for name in presets()}
    for twin, case in cases.items():
        call, bare = _bare(case)
        for name, cell in found.items():
            try:
                cell.add(*verdict(case.pipe, call, bare, name))
            except Exception as error:
                said = f"{name} on {twin}: {type(error).__name__}: {error}"
                raise SystemExit(f"{said}; mend that before the table") from error
            if bar is not None:
                bar.update()
    return found


def verdict(pipe: Any, call: Callable[[Any], torch.Tensor], bare: torch.Tensor, name: str) -> tuple[str, Reason | None]:
    """(sign, why it is refused) of one preset on one twin, whose image without it is `bare`.

    What a twin alone lacks, an autoencoder or a level with attention, is no refusal of the class.
    """
    methods = build_methods([name])
    try:
        fast = accelerate(pipe, methods)
    except UsageError as refused:
        if LEVELS.search(str(refused)):
            return UNTRIED, None
        return ABSENT, _reason(str(refused), pipe, methods)
    try:
        image = call(fast)
    except UsageError as refused:
        if "vae" in inspect.signature(type(pipe).__init__).parameters and "needs a VAE, and" in str(refused):
            return UNTRIED, None
        return "", _reason(str(refused), pipe, methods)
    if not torch.isfinite(image).all():
        raise ValueError("the image holds NaN or infinity")
    return SAME if torch.equal(image, bare) else RUNS, None


def _bare(case: Case) -> tuple[Callable[[Any], torch.Tensor], torch.Tensor]:
    """A call for one image in `STEPS` steps, and its image; a pipeline with a number of steps of its own takes that."""
    call = partial(case.call, ids=[0], num_inference_steps=STEPS)
    try:
        return call, call(case.pipe)
    except ValueError:
        call = partial(case.call, ids=[0])
        return call, call(case.pipe)


def _reason(text: str, pipe: Any, methods: list[Any]) -> Reason:
    family = FAMILIES[type(pipe).__name__]
    parts = {"network": family.networks(pipe)[0], "pipeline": pipe, "solver": pipe.scheduler}
    for what, part in parts.items():
        text = text.replace(type(part).__name__, f"the {what}")
    shared = text
    for method in methods:
        for said in (type(method).__name__, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(method).__name__).lower()):
            shared = re.sub(rf"\b{said}(?=[: ])", "the method", shared)
    return Reason(_capital(text), _capital(shared))


def _capital(text: str) -> str:
    return f"T{text[1:]}" if text.startswith("the ") else text


def kind(name: str, family: Family) -> str:
    """Below which heading a class stands."""

    def holds(*words: str) -> bool:
        return any(word in name for word in words)

    if holds("Video", "Wan", "LTX", "AnimateDiff"):
        return VIDEO
    if holds("Control", "Adapter"):
        place = PLACES[2]
    elif holds("Img2Img", "Inpaint", "Edit", "Kontext", "Fill", "Pix2Pix", "Upscale", "SuperResolution"):
        place = PLACES[1]
    else:
        place = PLACES[0]
    return f"{place}: {'U-Nets' if family.network == 'unet' else 'transformers'}"


def render(cases: dict[str, dict[str, Case]], rows: dict[str, dict[str, Cell]]) -> str:
    """A table a kind, and all reasons."""
    cells = [cell for found in rows.values() for cell in found.values()]
    counts = Counter(reason.shared for cell in cells for reason in cell.refused)
    numbers = {text: number for number, (text, _) in enumerate(counts.most_common(), 1)}
    lines = [*_summary(rows), ""]
    for each in KINDS:
        names = [name for name in rows if kind(name, FAMILIES[name]) == each]
        lines += [f"## {each}", "", *_head()] if names else []
        for name in names:
            said = [rows[name][of].text(numbers) for of in presets()]
            tried = ", ".join(cases[name])
            lines.append(f"| `{name.removesuffix('Pipeline')}` | {' | '.join(said)} | {tried} |")
        lines += [""] if names else []
    lines += ["## Why a run is refused", "", "| number | reason |", "| --- | --- |"]
    lines += [f"| {number} | {_cell(_shown(text, cells))} |" for text, number in numbers.items()]
    lines += ["", "## What a network must have", "", f"These are the reasons behind `{ABSENT}`.", ""]
    return "\n".join([*lines, "| preset | reason |", "| --- | --- |", *_lacking(rows), ""])


def _shown(text: str, cells: list[Cell]) -> str:
    """A reason of one method names it."""
    own = {reason.own for cell in cells for reason in cell.refused if reason.shared == text}
    return own.pop() if len(own) == 1 else text


def _lacking(rows: dict[str, dict[str, Cell]]) -> list[str]:
    found: dict[str, dict[str, None]] = {}
    for name in presets():
        for cell in (cells[name] for cells in rows.values() if cells[name].sign == ABSENT):
            for reason in cell.lacking:
                found.setdefault(reason.shared, {})[name] = None
    return [f"| {', '.join(f'`{name}`' for name in names)} | {_cell(text)} |" for text, names in found.items()]


def _head() -> list[str]:
    """Numbers that link to pages of methods; the site draws the title beside each."""
    links = []
    for number, name in enumerate(presets(), 1):
        methods = [next(iter(spec)) for spec in preset(name).methods if not isinstance(spec, str)]
        page = f"{methods[0]}.md" if len(methods) == 1 else "index.md#stacks"
        links.append(f'[{number}](methods/{page} "{name}")')
    return [f"| pipeline | {' | '.join(links)} | tried on |", f"| --- |{' :-: |' * len(links)} --- |"]


def _summary(rows: dict[str, dict[str, Cell]]) -> list[str]:
    signs = Counter(cell.sign for found in rows.values() for cell in found.values())
    share = {name: sum(found[name].sign in (RUNS, SAME) for found in rows.values()) for name in presets()}
    everywhere = [f"`{name}`" for name in presets() if share[name] == len(rows)]
    others = sorted((name for name in presets() if share[name] < len(rows)), key=lambda name: -share[name])
    lines = [
        f"Of {signs.total()} cells, {signs[RUNS] + signs[SAME]} run and {signs['']} are refused.",
        f"In {signs[ABSENT]} the network has nothing that the preset acts on, and {signs[UNTRIED]} were not tried.",
    ]
    lines += [f"On every pipeline run {', '.join(everywhere)}."] if everywhere else []
    often, seldom = (
        [f"`{name}` ({share[name]} of {len(rows)})" for name in some] for some in (others[:6], others[-3:])
    )
    return [*lines, f"Most often run {', '.join(often)}.", f"Least often run {', '.join(seldom)}."]


def unfit() -> list[str]:
    """The table of classes that are refused whatever the preset."""
    lines = ["## Pipelines that are refused", "", "| pipeline | why | instead |", "| --- | --- | --- |"]
    for name, text in UNFIT.items():
        why, _, instead = text.rpartition("; ")
        lines.append(f"| `{name.removesuffix('Pipeline')}` | {_cell(why)} | {_cell(instead)} |")
    return lines


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/pipelines.md")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="classes whose rows are printed, and no others")
    given = parser.parse_args(words)
    if given.write and given.only:
        parser.error("--only prints some rows, and the page holds all; leave --write or --only out")
    if wrong := [name for name in given.only or () if name not in FAMILIES]:
        parser.error(f"{wrong[0]} has no row in the table of pipelines; name a class such as FluxPipeline")
    quiet.quiet()
    warnings.simplefilter("ignore")  # twins are built as no checkpoint is, and libraries remark on that
    diffusers.utils.logging.set_verbosity(60)
    cases = {name: found for name, found in twins().items() if name in (given.only or FAMILIES)}
    calls = sum(map(len, cases.values())) * len(presets())
    with tqdm(total=calls, unit="call") as bar:
        rows = {name: row(found, bar) for name, found in cases.items()}
    table = "\n".join([render(cases, rows), *unfit()])
    if not given.write:
        print(table)
        return 0
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
