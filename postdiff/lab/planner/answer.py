"""What a plan says: a table, one sentence, an experiment file that `postdiff run` takes, and the same in Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from postdiff import presets
from postdiff.lab.config.schedulers import SCHEDULERS
from postdiff.lab.files import folders
from postdiff.lab.planner import certainty
from postdiff.lab.planner.budget import Budget
from postdiff.lab.planner.race import Race
from postdiff.lab.planner.space import Setting
from postdiff.lab.tables.rows import FlatRow
from postdiff.lab.tables.table import Column, draw, plain
from postdiff.metrics import facts

__all__ = ["Answer"]

LEADERS = 5


@dataclass(frozen=True)
class Answer:
    """A race read out.

    Attributes:
        budget: what might be spent.
        full: what the full run costs, in the budget's unit.
        base: what every row begins with; its steps are the full run's.
        race: with one rung at least.
        objective: metric that decides.
        values: {name of a setting of the last rung: {metric: value of each prompt}}.
        macs: {name: MACs}, of the full run under "full".
    """

    budget: Budget
    full: float
    base: Mapping[str, Any]
    race: Race
    objective: str
    values: Mapping[str, Mapping[str, NDArray[np.float64]]]
    macs: Mapping[str, int]

    @property
    def chosen(self) -> Setting:
        """The best of the last rung."""
        return self.race.last[0].setting

    @property
    def fewer_steps(self) -> Setting | None:
        """The most plain steps within the budget; None if not one is."""
        return next((each.setting for each in self.race.last if each.setting.plain), None)

    @property
    def tied(self) -> list[Setting]:
        """Settings that these prompts do not tell from the chosen one."""
        losses = self.race.rungs[-1].losses
        first = losses[self.chosen.name]
        return [each.setting for each in self.race.last[1:] if certainty.tied(losses[each.name], first)]

    @property
    def expected(self) -> certainty.Interval:
        """Where the mean on as many other prompts of the same kind is, 95 times of 100."""
        own = self.values[self.chosen.name][self.objective]
        return certainty.elsewhere(own, len(own))

    def table(self, style: str = "text") -> str:
        """The last rung, the best first, in one of the formats of tables."""
        count, metrics = self.race.rungs[-1].count, list(next(iter(self.values.values())))
        tied = {each.name for each in self.tied}
        rows: list[FlatRow] = []
        for place, contender in enumerate(self.race.last):
            setting, own = contender.setting, self.values[contender.name]
            row: FlatRow = {"row": setting.name, "label": setting.label + ("*" if setting.name in tied else "")}
            row |= {"place": place + 1, "macs_g": self.macs[setting.name] / 1e9}
            row |= {"macs_saving": self.macs["full"] / self.macs[setting.name], "cost": contender.cost}
            for metric in metrics:
                found = certainty.mean(own[metric])
                row |= {metric: found.value, f"{metric}_low": found.low, f"{metric}_high": found.high}
            rows.append(row)
        columns = [Column("Setting", lambda row: row["label"])]
        for metric in metrics:
            arrow = "↑" if facts(metric).higher_is_better else "↓"
            columns.append(Column(f"{facts(metric).title} {arrow}", plain(metric, _digits(metric))))
        columns += [Column("MACs (G) ↓", plain("macs_g", 2)), Column("saving ↑", plain("macs_saving", 2, "x"))]
        if self.budget.kind == "seconds":
            columns.append(Column("Predicted time (s) ↓", plain("cost", 3)))
        notes = [
            f"{count} prompts, mean [95 % interval over prompts]; decided by {facts(self.objective).title}",
            f"{len(self.race.contenders)} settings within {self.budget.text} were tried on "
            + ", ".join(f"{rung.count} ({len(rung.losses)} settings)" for rung in self.race.rungs)
            + " prompts",
        ]
        for metric in metrics[1:]:
            first = max(rows, key=lambda row: row[metric] * (1 if facts(metric).higher_is_better else -1))
            notes.append(f"by {facts(metric).title} the first would be {first['label'].rstrip('*')}")
        if tied:
            notes.append("* a tie: these prompts do not tell it from the first")
        return draw(rows, columns, notes, style)

    def sentence(self) -> str:
        """What to do, in one sentence, and how it compares with fewer steps."""
        digits, title = _digits(self.objective), facts(self.objective).title
        cost = self.race.last[0].cost
        said = (
            f"Within {self.budget.text} take {self.chosen.label}: {self.budget.written(cost)} an image, "
            f"{100 * cost / self.full:.0f} % of {self.base['steps']} steps, {title} {self.expected.value:.{digits}f} "
            f"({self.expected.low:.{digits}f} to {self.expected.high:.{digits}f} on as many other prompts)"
        )
        fewer = self.fewer_steps
        if fewer is None:
            return f"{said}; not even the fewest plain steps are within the budget."
        if fewer == self.chosen:
            return f"{said}; no other setting is nearer to the full run than plain fewer steps."
        losses = self.race.rungs[-1].losses
        less = certainty.difference(losses[fewer.name], losses[self.chosen.name])
        if less.holds(0.0):
            return f"{said}; these prompts do not tell it from plain fewer steps ({fewer.label})."
        ratio = 100 * less.value / float(np.abs(losses[fewer.name]).mean())
        return f"{said}; that is {ratio:.0f} % better than plain fewer steps ({fewer.label}) at no more cost."

    def predicted(self) -> dict[str, float]:
        """{row of the experiment file: what it was said to cost}."""
        costs = {each.name: each.cost for each in self.race.last}
        found = {"full": self.full, "planned": costs[self.chosen.name]}
        if (fewer := self.fewer_steps) is not None and fewer != self.chosen:
            found["fewer_steps"] = costs[fewer.name]
        return found

    def carry(self) -> str:
        """How far an order on the prompts of the rungs before holds on all, a line for each metric."""
        count, names = self.race.rungs[-1].count, list(self.values)
        if len(names) < 2:
            return "Only one setting is left, so there is no order to be sure of."
        first, lines = min(LEADERS, len(names)), []
        for metric in self.values[names[0]]:
            sign = -1.0 if facts(metric).higher_is_better else 1.0
            losses = {name: sign * self.values[name][metric] for name in names}
            said = [
                f"with {found.count} prompts {found.alike:.0%} (rank correlation {found.correlation.value:.2f} "
                f"[{found.correlation.low:.2f}, {found.correlation.high:.2f}])"
                for found in certainty.carry(losses, [rung.count for rung in self.race.rungs], LEADERS)
            ]
            lines.append(
                f"Order by {facts(metric).title}, pairs of the first {first} that stand as with {count} prompts: "
                + ", ".join(said)
            )
        return "\n".join(lines)

    def yaml(self) -> str:
        """The experiment: the full run, the chosen setting, and plain fewer steps."""
        kept = ("model", "data", "seeds", "guidance_scale", "height", "width", "dtype", "reference_scheduler")
        base = {key: self.base[key] for key in (*kept, "reference_steps") if key in self.base}
        base["metrics"] = list(next(iter(self.values.values())))
        rows: dict[str, Any] = {"full": {"label": f"{self.base['steps']} steps", "steps": self.base["steps"]}}
        rows["planned"] = {"label": self.chosen.label, **self.chosen.config}
        if (fewer := self.fewer_steps) is not None and fewer != self.chosen:
            rows["fewer_steps"] = {"label": fewer.label, **fewer.config}
        summary = f"a plan of {self.base['model']} within {self.budget.text}, beside fewer steps and the full run"
        return yaml.safe_dump({"summary": summary, "base": base, "rows": rows}, sort_keys=False, allow_unicode=True)

    def python(self) -> str:
        """The chosen setting as lines of Python."""
        stack = presets.build_methods(self.chosen.methods)
        lines = ["from postdiff import accelerate"]
        if stack:
            lines.append(f"from postdiff.methods import {', '.join(sorted({type(one).__name__ for one in stack}))}")
        solver = self.chosen.keys.get("scheduler")
        if isinstance(solver, str):
            lines += [f"from diffusers import {SCHEDULERS.get(solver, solver)}"]
        lines.append("")
        if isinstance(solver, str):
            cls = SCHEDULERS.get(solver, solver)
            lines.append(f"pipe.scheduler = {cls}.from_config(pipe.scheduler.config)")
        lines.append(f"fast = accelerate(pipe, [{', '.join(map(presets.as_python, stack))}])")
        lines.append(f"image = fast(prompt, num_inference_steps={self.chosen.steps}).images[0]")
        return "\n".join(lines)

    def write(self, file: Path) -> None:
        """Write the experiment, with sentence and Python lines as comments above it."""
        comments = [self.sentence(), "", *self.python().splitlines()]
        head = "".join(f"# {line}".rstrip() + "\n" for line in comments)
        with folders.atomic_write(file) as temporary:
            temporary.write_text(head + self.yaml(), encoding="utf-8")


def _digits(metric: str) -> int:
    return max(facts(metric).digits, 4 if metric == "paired_lpips" else 2)
