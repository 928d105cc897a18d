"""What settings cost before anything is generated: MACs counted without weights, each setting once and for all.

Counts are kept in a file of the outputs folder, so that the next plan begins with them. A count belongs to shapes,
solver, steps and methods alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from typing_extensions import TypedDict

from postdiff import catalog, presets
from postdiff.cost.structures import MetaPipeline
from postdiff.engine.errors import UsageError
from postdiff.lab import code_hash
from postdiff.lab.config.experiment import Row
from postdiff.lab.config.schema import RunConfig, digest, resolve
from postdiff.lab.files import folders
from postdiff.lab.macs import row_macs
from postdiff.lab.pipelines import models
from postdiff.lab.pipelines.cards import ModelCard
from postdiff.lab.planner.space import Setting

__all__ = ["Macs", "most_steps"]

SCHEMA = 1
KEPT_EVERY = 40  # new counts, after which they are written
OF_A_COUNT = ("steps", "guidance_scale", "height", "width", "frames", "scheduler", "methods")


class _Count(TypedDict):
    """Of one setting.

    Attributes:
        macs: of the denoiser, dense convention.
        steps: kinds of its steps in order, each with how many of them follow one another.
    """

    macs: int
    steps: list[tuple[str, int]]


class Macs:
    """MACs of settings of one model, one image of the denoiser in the dense convention.

    As a context, it writes what was counted at the end, also after an exception.

    Args:
        base: what every setting's row begins with: the model, and keys that are changed for all.
        card: its model card, with a structure.

    Raises:
        UsageError: the file of counts is damaged.
    """

    def __init__(self, base: Mapping[str, Any], card: ModelCard) -> None:
        self._base, self._card = base, card
        self._twins: dict[str, MetaPipeline] = {}
        self._shapes = digest(catalog.read(catalog.path("structures", str(card.structure))))
        own = models.solver(card)
        # What begins with "_" tells of the library and not of the solver.
        self._solver = own and {key: value for key, value in own.config.items() if not key.startswith("_")}
        name = f"{card.structure}-{self._shapes}.json"
        self._file = folders.outputs() / "plans" / "macs" / name
        self._counts = _read(folders.committed_records() / "plans" / "macs" / name) | _read(self._file)
        self._new = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._keep()

    def of(self, setting: Setting) -> int | None:
        """MACs of a setting; None if its methods do not fit the model or each other, or decide by the image."""
        found = self._found(setting)
        return None if found is None else found["macs"]

    def steps(self, setting: Setting) -> list[str]:
        """The kind of each of its steps: latent size, branches, work, and methods of the stack.

        Raises:
            UsageError: its methods do not fit the model or each other, or decide by the image.
        """
        found = self._found(setting)
        if found is None:
            raise UsageError(f"setting '{setting.name}' does not fit the model; leave it out of the space")
        return [kind for kind, number in found["steps"] for _ in range(number)]

    def _found(self, setting: Setting) -> _Count | None:
        config = resolve([("plan", self._base), (setting.name, setting.config)])
        key = self._key(config)
        if key not in self._counts:
            self._counts[key] = self._counted(setting, config)
            self._new += 1
            if self._new % KEPT_EVERY == 0:
                self._keep()
        found = self._counts[key]
        return None if isinstance(found, str) else found

    def full(self) -> int:
        """MACs of the full run, which is `base` without methods.

        Raises:
            UsageError: the model cannot be counted.
        """
        plain = Setting(int(self._base["steps"]), {}, {}, [])
        if (found := self.of(plain)) is None:
            raise UsageError(f"the full run cannot be counted: {self._counted(plain, resolve([('plan', self._base)]))}")
        return found

    def _counted(self, setting: Setting, config: RunConfig) -> _Count | str:
        row = Row(setting.name, setting.label, config, {}, {})
        try:
            counted = row_macs.counted(row, self._card, self._twins)
        except UsageError as error:
            return str(error)
        names = [name for method in presets.describe(presets.build_methods(config.methods)) for name in method]
        steps: list[tuple[str, int]] = []
        for step in range(counted.tally.steps):
            macs, seen = counted.tally.macs("denoiser", step), counted.seen
            size = "x".join(map(str, seen.sizes.get(step, ())))
            kind = f"{size} {seen.branches.get(step, 0)} {macs['dense']} {macs['all']} {'+'.join(names)}".strip()
            if steps and steps[-1][0] == kind:
                steps[-1] = kind, steps[-1][1] + 1
            else:
                steps.append((kind, 1))
        return {"macs": counted.tally.macs("denoiser")["dense"], "steps": steps}

    def _key(self, config: RunConfig) -> str:
        methods = presets.build_methods(config.methods)
        values = {name: getattr(config, name) for name in OF_A_COUNT} | {
            "solvers": [self._solver, self._card.scheduler],
            "usual": self._card.usual(config),
            "methods": presets.describe(methods),
            # Methods of one's own may change under their name.
            "own": code_hash.code_hash(frozenset(map(type, methods)), private=True) if methods else None,
        }
        return digest(values, 16)

    def _keep(self) -> None:
        if self._new:
            with folders.atomic_write(self._file) as temporary:
                temporary.write_text(json.dumps({"schema": SCHEMA, "macs": self._counts}, indent=0, sort_keys=True))
            self._new = 0


def _read(file: Path) -> dict[str, _Count | str]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        counts: dict[str, _Count | str] = content["macs"]
        if content["schema"] == SCHEMA and all(isinstance(own, str) or own["macs"] > 0 for own in counts.values()):
            return counts
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UsageError(f"{file} does not hold counts of MACs; remove it, and they are counted again")


def most_steps(
    setting: Setting, steps: list[int], limit: float, cost: Callable[[Setting], float | None]
) -> tuple[Setting, float] | None:
    """The setting with as many steps as the limit allows, and what it costs.

    Costs are taken to rise with the steps; the number is found by halving, from a guess in proportion.

    Args:
        setting: any number of steps.
        steps: those to choose from, rising.
        limit: the most that it may cost.
        cost: of a setting; None if it does not fit the model.

    Returns:
        None if not even the fewest steps are within the limit, or if it does not fit the model.
    """
    low, high = -1, len(steps)  # within the limit, and beyond it
    found: tuple[Setting, float] | None = None
    full = cost(setting.at(steps[-1]))
    if full is None:
        return None
    if full <= limit:
        return setting.at(steps[-1]), full
    high -= 1
    share = limit / full * steps[-1]
    guess = max((place for place in range(len(steps)) if steps[place] <= share), default=0)
    while high - low > 1:
        place = min(max(guess, low + 1), high - 1)
        own = setting.at(steps[place])
        macs = cost(own)
        if macs is not None and macs <= limit:
            low, found, guess = place, (own, macs), place + 1
        else:
            high, guess = place, place - 1
    return found
