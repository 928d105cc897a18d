"""Fewer steps or cheaper steps: every family of methods against fewer steps: `python paper_figures/frontier.py`.

`frontier` has all settings over work and, where it was measured, over time: in black fewer steps, in grey the Pareto
front of all. `frontier_families` has a panel for each family, with the budgets at which it crosses fewer steps and
their 95 % intervals. The table has the same in numbers. All of it is drawn from the record that
`python experiments/frontier.py` makes; `python paper_figures/frontier.py frontier_transformer` draws another one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from frontier_table import table
from matplotlib import ticker
from matplotlib.lines import Line2D
from style import COLOURS, DOUBLE, MARKERS, log_if_wide, program, save, save_text

from postdiff.lab.analysis import findings
from postdiff.lab.analysis.crossings import front

FEWER, NAME = "fewer steps", "crossings"
AXES = {"macs": "times less work (MACs) than {full}", "time": "times less time than {full}"}
TICKS = (1, 1.5, 2, 3, 4, 6, 8, 10)
COLUMNS = 4  # panels of families side by side
Found = Mapping[str, Any]


def families(found: Found) -> list[str]:
    """Fewer steps first, the others in the order of their rows."""
    return list(dict.fromkeys([FEWER, *(row["family"] for row in found["rows"].values())]))


def looks(found: Found) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each family, no two alike."""
    known, dark = families(found), {FEWER: {"color": COLOURS[0], "marker": "."}}
    others = enumerate(known[1:])
    return dark | {
        name: {"color": COLOURS[1 + place % 6], "marker": MARKERS[place % len(MARKERS)]} for place, name in others
    }


def points(found: Found, cost: str, metric: str, family: str | None = None) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Rows, savings and qualities of a family or of all, by rising saving."""
    rows = {name: row for name, row in found["rows"].items() if family in (None, row["family"])}
    order = sorted(rows, key=lambda name: -rows[name][cost])
    return order, *(np.array([rows[name][key][0] if key == metric else 1 / rows[name][key] for name in order])
                    for key in (cost, metric))  # fmt: skip


def front_of(
    found: Found, cost: str, metric: str, family: str | None = None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The same of those that no other one beats at as small a cost."""
    names, savings, values = points(found, cost, metric, family)
    sign = 1 if found["metrics"][metric]["higher"] else -1
    best = front(1 / savings, sign * values)
    return [names[place] for place in best], savings[best], values[best]


def axis(panel: plt.Axes) -> None:
    """Savings, on a logarithmic axis with plain numbers."""
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(ticker.FixedLocator(TICKS))
    panel.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    panel.xaxis.set_minor_locator(ticker.NullLocator())


def title(found: Found, metric: str) -> str:
    """What the y axis bears."""
    paired = f" to {found['reference_steps']} steps" if metric.startswith("paired_") else ""
    arrow = "↑" if found["metrics"][metric]["higher"] else "↓"
    return f"{found['metrics'][metric]['title']}{paired} {arrow}"


def draw(found: Found) -> plt.Figure:
    """All settings: a row of panels for each quality, a column for each cost."""
    costs = list(next(iter(found["family"].values())))
    drawn, axes = plt.subplots(
        len(found["metrics"]), len(costs), figsize=(DOUBLE, 1.4 + 2.9 * len(found["metrics"])),
        layout="constrained", sharey="row", squeeze=False,
    )  # fmt: skip
    look = looks(found)
    for metric, panels in zip(found["metrics"], axes, strict=True):
        for cost, panel in zip(costs, panels, strict=True):
            best, *curve = front_of(found, cost, metric)
            panel.plot(*curve, color="0.8", linewidth=4, zorder=0, solid_capstyle="round")
            for family, own in look.items():
                names, savings, values = points(found, cost, metric, family)
                if family == FEWER:
                    panel.plot(savings, values, **own, linewidth=1, markersize=5, zorder=3)
                    continue
                on = np.array([name in best for name in names])
                faint = {**own, "linestyle": "", "markeredgewidth": 0}
                panel.plot(savings[~on], values[~on], **faint, markersize=3, alpha=0.4)
                panel.plot(savings[on], values[on], **faint, markersize=5, zorder=4)
            axis(panel)
            if metric == list(found["metrics"])[-1]:
                panel.set_xlabel(AXES[cost].format(full=found["full"]["label"]))
        log_if_wide(panels[0])
        panels[0].set_ylabel(title(found, metric))
    handles = [Line2D([], [], **own, linestyle="-" if name == FEWER else "", label=name) for name, own in look.items()]
    handles.append(Line2D([], [], color="0.8", linewidth=4, label="Pareto front of all"))
    drawn.legend(handles=handles, loc="outside lower center", ncols=4)
    return drawn


def draw_families(found: Found, metric: str, cost: str = "macs") -> plt.Figure:
    """A panel for each family beside fewer steps; a dotted line where they cross, its interval shaded."""
    known, look = families(found)[1:], looks(found)
    height = -(-len(known) // COLUMNS)
    drawn, axes = plt.subplots(
        height, COLUMNS, figsize=(DOUBLE, 0.5 + 1.55 * height), layout="constrained", sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for family, panel in zip(known, axes.flat, strict=False):
        panel.plot(*front_of(found, cost, metric)[1:], color="0.8", linewidth=3, zorder=0)
        panel.plot(*points(found, cost, metric, FEWER)[1:], color=COLOURS[0], linewidth=1)
        own = {**look[family], "markeredgewidth": 0, "markersize": 4}
        panel.plot(*points(found, cost, metric, family)[1:], **own, linestyle="", alpha=0.4)
        panel.plot(*front_of(found, cost, metric, family)[1:], **own, linewidth=1)
        for crossing in found["family"][metric][cost][family]["crossings"]:
            panel.axvspan(1 / crossing["high"], 1 / crossing["low"], color=own["color"], alpha=0.2, linewidth=0)
            panel.axvline(1 / crossing["cost"], color=own["color"], linestyle=":", linewidth=1)
        panel.set_title(family)
        axis(panel)
        panel.xaxis.set_major_locator(ticker.FixedLocator((1, 2, 4, 8)))
    for panel in axes.flat[len(known) :]:
        panel.set_axis_off()
        panel.xaxis.set_tick_params(labelbottom=False)
    for panel in axes.flat[max(0, len(known) - COLUMNS) : len(known)]:
        panel.xaxis.set_tick_params(labelbottom=True)
    log_if_wide(axes[0, 0])
    drawn.supxlabel(AXES[cost].format(full=found["full"]["label"]), fontsize=8)
    drawn.supylabel(title(found, metric), fontsize=8)
    return drawn


def main(name: str = "frontier") -> None:
    """Draw from a record and save, also the table."""
    found = findings.find(name, NAME, f"python experiments/frontier.py {name}").found
    save(draw(found), name)
    for metric in found["metrics"]:
        paired = metric.startswith("paired_")
        save(draw_families(found, metric), f"{name}_families" if paired else f"{name}_families_score")
    save_text(table(found), f"tables/{name}.md")


if __name__ == "__main__":
    program(lambda: main(*sys.argv[1:2]))
