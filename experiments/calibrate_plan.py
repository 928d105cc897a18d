"""Records that `postdiff plan --model emoji` begins with: a coarse grid, and all that a plan of 0.4x tries.

    python experiments/calibrate_plan.py

Everything is an ordinary record in outputs/, so that what was interrupted goes on. What the settings are worth, prompt
by prompt, is gathered in experiments/records/plans/emoji.json, with counts of MACs and losses of masks beside it.
"""

from __future__ import annotations

import shutil
import sys

from postdiff.engine.errors import UsageError
from postdiff.lab import quiet
from postdiff.lab.files import folders
from postdiff.lab.planner import space, trials
from postdiff.lab.planner.asked import PlanOptions
from postdiff.lab.planner.planning import Planning

GRID, PROMPTS = "unet_small", 32
BUDGETS = ("0.4x",)


def main() -> None:
    """Record and gather."""
    quiet.quiet()
    found: dict[str, tuple[space.Setting, int]] = {}
    plans = [Planning(PlanOptions("emoji", budget), {}, _say) for budget in BUDGETS]
    for plan in plans:
        race = plan.answer().race
        for rung in race.rungs:
            found |= {name: (race.contenders[name].setting, rung.count) for name in rung.losses}
    grid = space.read(GRID)
    for combination in grid.combinations:
        for steps in grid.steps:
            setting = combination.at(steps)
            found[setting.name] = setting, max(found.get(setting.name, (setting, 0))[1], PROMPTS)
    folder = folders.committed_records() / "plans"
    trials.gather(plans[0].trials, found, folder / "emoji.json")
    for kind in ("macs", "masks"):
        (folder / kind).mkdir(exist_ok=True)
        for file in (folders.outputs() / "plans" / kind).iterdir():
            shutil.copy(file, folder / kind / file.name)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")
