"""The table of `frontier.py`: how every family stands to fewer steps, and the settings of the Pareto front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from postdiff.lab.analysis.crossings import front

__all__ = ["table"]

COSTS = {"macs": "work", "time": "time"}
SURE = 0.975  # share of resamples below which it is told how many have a crossing
Found = Mapping[str, Any]


def table(found: Found) -> str:
    """Markdown: for each quality and cost how families, then settings, stand to fewer steps, and the Pareto front."""
    images = f"{found['prompts']} prompts with {found['seeds']} seed{'s' if found['seeds'] > 1 else ''}"
    text = [f"{len(found['rows'])} settings, {images} each; costs are shares of {found['full']['label']}.", ""]
    for metric, facts in found["metrics"].items():
        for cost in found["family"][metric]:
            better = "higher" if facts["higher"] else "lower"
            text += [f"## {facts['title']} ({better} is better) over {COSTS[cost]}", ""]
            for kind in ("family", "setting"):
                text += [*_stand(found[kind][metric][cost], kind, facts["higher"]), ""]
            text += ["On the Pareto front of all:", "", *_front(found, metric, cost), ""]
    return "\n".join(text).rstrip()


def _stand(families: Mapping[str, Any], kind: str, higher: bool) -> list[str]:
    savings = sorted({1 / gain["cost"] for own in families.values() for gain in own["gains"]})
    ahead = "ahead" if higher else "times nearer"
    heads = [kind, "settings", *(f"{ahead} at 1/{saving:g}" for saving in savings), "than fewer steps"]
    lines = []
    for name, own in families.items():
        gains = {1 / gain["cost"]: gain for gain in own["gains"]}
        cells = (_gain(gains.get(saving), "+.3g" if higher else ".3g") for saving in savings)
        lines.append([name, str(own["settings"]), *cells, _crossings(own)])
    return _markdown(heads, lines)


def _gain(gain: Mapping[str, float] | None, style: str) -> str:
    return "" if gain is None else "{} [{}, {}]".format(*(format(gain[key], style) for key in ("mean", "low", "high")))


def _crossings(own: Mapping[str, Any]) -> str:
    """From the dearest budget to the cheapest."""
    if own["least"] >= own["most"]:
        return "one cost only" if own["settings"] == 1 else "no budget in common"
    if not own["crossings"]:
        return "better throughout" if own["ahead"] > 0.5 else "worse throughout" if own["ahead"] == 0 else "alike"
    return ", ".join(map(_crossing, reversed(own["crossings"])))


def _crossing(crossing: Mapping[str, Any]) -> str:
    bounds = f"[{1 / crossing['high']:.2f}, {1 / crossing['low']:.2f}]"
    share = "" if crossing["found"] >= SURE else f" in {crossing['found']:.0%} of resamples"
    return f"{'better' if crossing['below'] else 'worse'} from {1 / crossing['cost']:.2f}x less {bounds}{share}"


def _front(found: Found, metric: str, cost: str) -> list[str]:
    rows, sign = list(found["rows"].values()), 1 if found["metrics"][metric]["higher"] else -1
    best = front(np.array([row[cost] for row in rows]), np.array([sign * row[metric][0] for row in rows]))
    lines = [
        [rows[place]["label"], f"{1 / rows[place][cost]:.2f}x", "{:.4g} [{:.4g}, {:.4g}]".format(*rows[place][metric])]
        for place in reversed(best)
    ]
    return _markdown(["setting", f"less {COSTS[cost]}", found["metrics"][metric]["title"]], lines)


def _markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in heads[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *lines)]
