"""Masks of computed steps tried on a model: how far the last latents are from those of the full run.

Every loss is a line of a journal, so that a search that was killed goes on and ends alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from postdiff import accelerate, presets
from postdiff.engine.errors import UsageError
from postdiff.engine.state import State
from postdiff.lab.config.experiment import Experiment, Row
from postdiff.lab.config.schema import digest, resolve
from postdiff.lab.files import folders
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.generate.sampler import Sampler
from postdiff.lab.plan.plan import plan_rows
from postdiff.lab.planner.masks import Effort, Found, search
from postdiff.lab.progress import bar
from postdiff.methods.base import Method, StepCall

__all__ = ["Journal", "MaskTrials", "searched"]

Mask = tuple[int, ...]
PROMPTS = 4  # of the loss; a race on more prompts decides


class Journal:
    """Losses of masks in a file, a line each.

    Args:
        file: need not be there.
        committed: where else such a file may be.

    Raises:
        UsageError: a line other than the last, which a kill may have cut, is damaged.
    """

    def __init__(self, file: Path, committed: Path | None = None) -> None:
        self._file = file
        self.losses = {**(self._read(committed) if committed else {}), **self._read(file)}

    def _read(self, file: Path) -> dict[Mask, float]:
        if not file.is_file():
            return {}
        *lines, cut = file.read_text(encoding="utf-8").split("\n")
        found: dict[Mask, float] = {}
        for number, line in enumerate(lines, 1):
            try:
                mask, loss = json.loads(line)
                found[tuple(map(int, mask))] = float(loss)
            except (ValueError, TypeError):
                raise UsageError(
                    f"{file}, line {number} is no loss of a mask; remove the file, and masks are tried anew"
                ) from None
        if cut and file == self._file:
            with folders.atomic_write(file) as temporary:
                temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return found

    def add(self, mask: Mask, loss: float) -> None:
        """Keep a loss."""
        self.losses[mask] = loss
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([mask, loss]) + "\n")


class _Last(Method):
    """Changes nothing; keeps the latents after the last step in a list, which copies of it share."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []

    def step(self, forward: StepCall, output: Tensor, timestep: Any, sample: Tensor, state: State) -> Tensor:
        latents = forward(output, timestep, sample)
        self.kept[:] = [latents]
        return latents


class MaskTrials:
    """Masks on one model, with one fill.

    Args:
        base: what every setting's row begins with; its steps are those of the run.
        fill: as of `StepMask`.
        pipelines: gives the loaded model.
    """

    def __init__(self, base: Mapping[str, Any], fill: str, pipelines: Pipelines) -> None:
        self._base = {**base, "count": PROMPTS, "batch_size": PROMPTS, "metrics": [], "bench": {"repeats": 0}}
        self._fill, self._pipelines = fill, pipelines
        self._sampler: Sampler | None = None
        self._full: Tensor | None = None
        name = f"{digest([self._base, fill])}.jsonl"
        self.journal = Journal(
            folders.outputs() / "plans" / "masks" / name, folders.committed_records() / "plans" / "masks" / name
        )

    def search(self, computed: int, effort: Effort) -> Found:
        """The best mask of so many computed steps.

        Raises:
            UsageError: the model cannot be run so.
        """
        title = f"masks of {computed} steps, {self._fill}"
        with bar(title, effort.masks, "mask") as shown:

            def loss(mask: Mask) -> float:
                if mask not in self.journal.losses:
                    self.journal.add(mask, self._loss(mask))
                shown.update()
                return self.journal.losses[mask]

            return search(int(self._base["steps"]), computed, loss, effort)

    def _loss(self, mask: Mask) -> float:
        if self._full is None:
            self._full = self._latents([])
        made = self._latents([{"step_mask": {"computed": list(mask), "fill": self._fill}}])
        return float((made - self._full).square().mean())

    def _latents(self, methods: list[Any]) -> Tensor:
        if self._sampler is None:
            config = resolve([("masks", self._base)])
            [plan] = plan_rows(Experiment("masks", "", "full", (Row("full", "full run", config, {}, {}),)))
            self._sampler = self._pipelines.sampler(plan)
        sampler, last = self._sampler, _Last()
        sampler.call(sampler.plan.samples, accelerate(sampler.pipe, [last, *presets.build_methods(methods)]))
        return last.kept[0].detach().to("cpu", torch.float64)


def searched(
    base: Mapping[str, Any], fills: list[str], computed: int, effort: Effort, say: Callable[[str], None]
) -> dict[str, list[Any]]:
    """The best mask with each fill: {name of the choice: its methods}.

    Args:
        base: what every setting's row begins with.
        fills: as of `StepMask`.
        computed: how many steps are.
        effort: of each search.
        say: told what each search gained.

    Raises:
        UsageError: a damaged journal, or a model that cannot be run so.
    """
    pipelines, found = Pipelines(), {}
    for fill in fills:
        best = MaskTrials(base, fill, pipelines).search(computed, effort)
        better = 100 * (1 - best.loss / best.first) if best.first else 0.0
        say(
            f"{best.tried} masks of {computed} steps, {fill}: {list(best.mask)}, {better:.0f} % nearer than an even one"
        )
        found[f"searched_{fill}"] = [{"step_mask": {"computed": list(best.mask), "fill": fill}}]
    return found
