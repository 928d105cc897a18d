"""Where, by which rule and with which fill every cache works: `python docs/program/which_cache.py` writes the tables.

They stand in docs/which_cache.md. All is read off live objects: what a preset's method says of tiny networks, which
steps it plans in a run of 20, and what a run without weights counts on two published structures.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # tiny networks stand among the tests

import diffusers  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from postdiff import accelerate, catalog, presets  # noqa: E402
from postdiff.cost.structures import MetaPipeline, real_size  # noqa: E402
from postdiff.engine.errors import UsageError  # noqa: E402
from postdiff.engine.family import family_of  # noqa: E402
from postdiff.engine.replay import NETWORK, Due, Replay, Watch, at  # noqa: E402
from postdiff.methods.cache import Cache  # noqa: E402
from postdiff.methods.solver_cache import SolverCache  # noqa: E402
from postdiff.presets import preset  # noqa: E402
from tests.support import tiny, tiny_presets  # noqa: E402

__all__ = ["SEES", "caches", "costs", "main", "triples"]

PAGE = ROOT / "docs" / "which_cache.md"
STEPS = 20
MOST_LISTED = 10  # steps of a plan that are told one by one
# {column: tiny pipeline}.
NETWORKS = {"U-Net": "sd", "DiT": "dit", "PixArt": "pixart_alpha", "SD3": "sd3", "Flux": "flux", "Wan": "wan"}
STRUCTURES = {"sd15": diffusers.DDIMScheduler, "pixart_alpha": diffusers.DPMSolverMultistepScheduler}
ROLES = {
    "attn1": "self-attention", "attn": "attention", "attn2": "cross-attention", "ff": "feed-forward",
    "ff_context": "feed-forward", "ffn": "feed-forward",
}  # fmt: skip
FILLS: dict[str, Callable[[Any], str]] = {
    "Hold": lambda fill: "hold: the last output",
    "Residual": lambda fill: "residual: the input, and what was added to it last",
    "Taylor": lambda fill: f"Taylor series of order {fill.order}" if fill.order else "hold: the last output",
    "TaylorResidual": lambda fill: f"residual, as a Taylor series of order {fill.order}",
    "Weighted": lambda fill: "weighted sum of the computed outputs (Chebyshev)",
}
# What methods look at that decide for each image, and when they replay.
SEES = {
    "adaptive_diffusion": "change of the latents from step to step, while it lies on a line",
    "dbcache": "what the first blocks add, while it has hardly changed",
    "easy_cache": "input and output of the network, while expected changes add up to little",
    "first_block_cache": "what the first block adds, while it has hardly changed",
    "lazy_cache": "x0 and sample, while expected changes of x0 add up to little",
    "sada": "path of the sample, while it can be extrapolated against its curvature",
    "sea_cache": "filtered latents, while their changes add up to little",
    "tea_cache": "modulated input of the first block, while expected changes add up to little",
}
# {method: what is measured beforehand, for its model, solver and number of steps}.
CALIBRATED = {
    "block_cache": "changes of every block (`experiments/calibrate.py`)",
    "mag_cache": "magnitude ratios (`experiments/calibrate.py`)",
    "tea_cache": "a polynomial that is fitted to the model",
}


def caches() -> dict[str, str]:
    """{preset: its method} of all presets that are one cache."""
    found = {}
    for name in catalog.names("methods"):
        specs = preset(name).methods
        if len(specs) == 1 and not isinstance(specs[0], str):
            [method] = built(name)
            if isinstance(method, Cache | SolverCache):
                found[name] = next(iter(specs[0]))
    return found


def built(name: str) -> list[Any]:
    """A preset; one that looks in a setting for tiny networks, which may have fewer blocks than it lets run first."""
    methods = presets.build_methods([name])
    return tiny_presets.build_methods([name]) if any(method.adaptive for method in methods) else methods


@dataclass
class Notes:
    """What a method's pieces tell in one run.

    Attributes:
        plans: {what is computed at the same steps: these}, of rules by steps.
        kept: most numbers that each piece keeps.
    """

    plans: dict[str, list[list[int]]] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)


class _Noted:
    """A fill that says how much it keeps."""

    def __init__(self, fill: Any, kept: list[int]) -> None:
        self.of_input, self.recalls, self.give = fill.of_input, fill.recalls, fill.give
        self._fill, self._kept, self._own = fill, kept, len(kept)
        kept.append(0)

    def keep(self, past: Any, x: list[Tensor], y: list[Tensor], step: int) -> Any:
        value = self._fill.keep(past, x, y, step)
        self._kept[self._own] = max(self._kept[self._own], sum(tensor.numel() for tensor in _tensors(value)))
        return value


def noting(name: str) -> tuple[Any, Notes]:
    """A preset's cache and what its pieces will have told after a run; one that looks computes every step."""
    [method], notes = built(name), Notes()
    own: Any = type(method)

    class Noting(own):
        adaptive = False  # so it can be counted without weights

        def replays(self, network: nn.Module) -> list[Replay]:
            pieces = list(super().replays(network))
            for piece in pieces:
                piece.rule = functools.partial(_due, piece.rule, _place(piece), notes)
                piece.fill = _Noted(piece.fill, notes.kept)
            return pieces

    method.__class__ = Noting
    return method, notes


def _due(rule: Any, place: str, notes: Notes, state: Any) -> Due:
    if isinstance(rule, Watch):
        return at(range(state.steps))
    due, written, computed = rule(state), 0, [0]
    for now in range(1, state.steps):
        if due(written, now):
            written = now
            computed.append(now)
    plans = notes.plans.setdefault(place, [])
    plans += [computed] if computed not in plans else []
    return due


def triples() -> list[str]:
    """The table of where, rule and fill, and of the networks that take a preset."""
    cases = {title: tiny.build(name, smallest=True) for title, name in NETWORKS.items()}
    lines = [f"| preset | where | rule | fill | decides | {' | '.join(cases)} |"]
    lines.append(f"| {'--- | ' * 5}{':-: | ' * len(cases)}".rstrip())
    for name, of in caches().items():
        [method] = built(name)
        fits = {title: case for title, case in cases.items() if _runs(name, case)}
        where, fill = "solver's step: whole calls left out", "x0 is guessed, and the solver given what leads to it"
        if isinstance(method, Cache):
            pieces = [piece for case in fits.values() for piece in method.replays(_network(case.pipe))]
            where = ", ".join(dict.fromkeys(map(_place, pieces)))
            fill = ", ".join(dict.fromkeys(_fill(piece.fill) for piece in pieces))
        rule = (
            SEES.get(of, "by the features of each image") if method.adaptive else _rule(name, next(iter(fits.values())))
        )
        decides = "each image" if method.adaptive else "planned"
        known = ["+" if title in fits else "" for title in cases]
        cells = [f"[`{name}`](methods/{of}.md)", where, rule, fill, decides, *known]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def costs() -> list[str]:
    """The table of what is saved and kept, counted without weights."""
    twins = {name: real_size(name, scheduler()) for name, scheduler in STRUCTURES.items()}
    whole = {name: _macs(twin, []) for name, twin in twins.items()}
    columns = " | ".join(f"MACs saved, {name} | kept in MB, {name}" for name in twins)
    lines = [f"| preset | {columns} | could be measured beforehand |", f"| --- |{' ---: |' * 2 * len(twins)} --- |"]
    for name, of in caches().items():
        cells: list[str] = []
        for title, twin in twins.items():
            cells += _cost(name, twin, whole[title])
        lines.append(f"| `{name}` | {' | '.join(cells)} | {CALIBRATED.get(of, '')} |")
    return lines


def _cost(name: str, twin: MetaPipeline, whole: int) -> tuple[str, str]:
    [method] = built(name)
    if not _fits(method, _network(twin.pipe)):
        return "", ""
    if isinstance(method, SolverCache):
        return "by image", "as latents"
    noted, notes = noting(name)
    macs = _macs(twin, [noted])
    kept = 2 * sum(notes.kept) / 1e6
    return "by image" if method.adaptive else f"{1 - macs / whole:.0%}", f"{kept:.0f}" if kept >= 10 else f"{kept:.1g}"


def _macs(twin: MetaPipeline, methods: list[Any]) -> int:
    found, _ = twin.tally(methods, num_inference_steps=STEPS)
    return found.macs("denoiser")["dense"]


def _network(pipe: Any) -> nn.Module:
    network: nn.Module = getattr(pipe, family_of(pipe).network)
    return network


def _runs(name: str, case: Any) -> bool:
    try:
        case.call(accelerate(case.pipe, built(name)), [0])
    except UsageError:
        return False
    return True


def _fits(method: Any, network: nn.Module) -> bool:
    try:
        list(method.claims(network))
    except UsageError:
        return False
    return True


def _place(piece: Replay) -> str:
    if piece.where == NETWORK:
        return "whole network"
    if len(piece.where) > 1:
        behind = {0: "", 1: " behind the first"}
        return f"chain of blocks{behind.get(piece.front, f' behind the first {piece.front}')}"
    [(name, module)] = piece.where.items()
    kind = type(module).__name__
    return ROLES.get(name.rpartition(".")[2]) or (
        "spatial transformers" if kind == "Transformer2DModel" else "blocks and layers"
    )


def _fill(fill: Any) -> str:
    told = FILLS.get(type(fill).__name__)
    return type(fill).__name__ if told is None else told(fill)


def _rule(name: str, case: Any) -> str:
    """Of a planned preset, in a run of a tiny pipeline."""
    method, notes = noting(name)
    case.call(accelerate(case.pipe, [method]), [0], num_inference_steps=STEPS)
    said: dict[str, list[str]] = {}
    for place, plans in notes.plans.items():
        said.setdefault(_plan(plans), []).append(place)
    if len(said) == 1:
        return next(iter(said))
    return "; ".join(f"{' and '.join(places)}: {plan}" for plan, places in said.items())


def _plan(plans: list[list[int]]) -> str:
    """Steps in words."""
    if len(plans) > 1:
        fewest, most = min(map(len, plans)), max(map(len, plans))
        return f"each by a plan of its own, {fewest} to {most} of {STEPS} steps"
    [steps] = plans
    for interval in range(1, STEPS):
        if steps == list(range(0, STEPS, interval)):
            return "every step" if interval == 1 else f"one step in {interval}"
    if steps == list(range(len(steps))):
        return f"the first {len(steps)} of {STEPS} steps"
    listed = f": {', '.join(map(str, steps))}" if len(steps) <= MOST_LISTED else ""
    return f"{len(steps)} of {STEPS} steps{listed}"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)


def main() -> int:
    """Write both tables; what stands around them is written by hand."""
    diffusers.utils.logging.set_verbosity(60)
    warnings.simplefilter("ignore")  # tiny pipelines are built as no checkpoint is
    text = PAGE.read_text()
    for name, make in (("triples", triples), ("costs", costs)):
        begin, end = f"<!-- {name}: made by docs/program/which_cache.py -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        text = "".join([before, "\n".join([begin, *make(), end]), rest.partition(end)[2]])
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
