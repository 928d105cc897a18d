"""What a visit to a GPU has found, as Markdown and JSON: the machine, values beside their goals, and what missed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from on_gpu.goals import FlatRow, Verdict, verdicts
from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import load
from postdiff.lab.records.record import find
from postdiff.lab.tables.rows import flat_rows

__all__ = ["measured", "missed", "write"]

HEADINGS = (
    "Row", "Rounds", "Time (s)", "Loop (s)", "Loop's speed-up", "Ideal", "Of ideal", "Call's speed-up",
    "Theirs / ours", "Memory (MB)", "Goals",
)  # fmt: skip
Lost = dict[tuple[str, str], list[str]]  # {(experiment, row): what is told}
LOST = 3  # places named for a row that missed its goal


def measured(experiments: Sequence[str]) -> list[tuple[str, FlatRow]]:
    """(experiment, flat row) of all that has been timed, in the order given; other experiments are passed over."""
    found = []
    for name in dict.fromkeys(experiments):
        try:
            rows = flat_rows(load(name), ("speed",))
        except UsageError:
            continue
        found += [(name, row) for row in rows if row.get("time_s")]
    return found


def missed(experiments: Sequence[str]) -> dict[str, list[str]]:
    """{experiment: rows that miss a goal and can be profiled, the worst first}."""
    found: dict[str, list[str]] = {}
    for verdict in sorted(verdicts(measured(experiments)), key=lambda one: -one.short):
        record = find(verdict.experiment, verdict.row, "speed")
        compiled = record is None or record.config.get("network", {}).get("compile")
        if not verdict.met and not compiled and verdict.row not in found.setdefault(verdict.experiment, []):
            found[verdict.experiment].append(verdict.row)
    return {name: rows for name, rows in found.items() if rows}


def write(
    folder: Path,
    profiles: Path,
    stages: Sequence[dict[str, Any]],
    about: dict[str, Any],
    experiments: Sequence[str],
) -> None:
    """Write `summary.md` and `summary.json`, over those of a stage ago.

    Args:
        folder: where they go.
        profiles: folder of what `postdiff profile` has printed.
        stages: name, state, seconds and more of each so far.
        about: of the whole visit.
        experiments: whose records are told.
    """
    rows = measured(experiments)
    judged = verdicts(rows)
    lost = _lost(profiles)
    content = {
        **about,
        "machine": _machine(rows),
        "stages": list(stages),
        "goals": [_plain(one, lost) for one in judged],
        "rows": [{"experiment": name, **row} for name, row in rows],
    }
    (folder / "summary.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
    (folder / "summary.md").write_text(_message(content, rows, judged, lost))


def _machine(rows: Sequence[tuple[str, FlatRow]]) -> dict[str, Any]:
    """Device, versions and environment as the first record has them."""
    for experiment, row in rows:
        record = find(experiment, row["row"], "speed")
        if record is not None:
            return {"device": record.device, **record.latency.get("environment", {}), **record.versions}
    return {}


def _message(
    content: dict[str, Any], rows: Sequence[tuple[str, FlatRow]], judged: Sequence[Verdict], lost: Lost
) -> str:
    lines = ["# Measured on a GPU" if "driver" in content["machine"] else "# Dry run, not on a GPU", ""]
    lines += [f"- {name}: {value}" for name, value in content["machine"].items()]
    lines += ["", "| Stage | State | Seconds | Of | What |", "| --- | --- | ---: | ---: | --- |"]
    for stage in content["stages"]:
        budget = f"{stage['budget']:.0f}" if stage.get("budget") else "-"
        message = stage.get("told", "").replace("|", "/")
        lines.append(f"| {stage['name']} | {stage['state']} | {stage['seconds']:.0f} | {budget} | {message} |")
    for name in dict.fromkeys(name for name, _ in rows):
        lines += ["", f"## {name}", "", f"| {' | '.join(HEADINGS)} |", f"| --- |{' ---: |' * (len(HEADINGS) - 1)}"]
        lines += [_line(row, [one for one in judged if (one.experiment, one.row) == (name, row["row"])])
                  for own, row in rows if own == name]  # fmt: skip
        lines += ["", f"Again: `postdiff bench {name}`"]
    lines += ["", "## Goals", "", f"{sum(one.met for one in judged)} of {len(judged)} are met."]
    for one in judged:
        if not one.met:
            beside = ",".join(dict.fromkeys((f"original_{one.row.rpartition('_')[2]}", one.row)))
            again = f"see `postdiff profile {one.experiment} --rows {beside}`"
            why = "; ".join(lost.get((one.experiment, one.row), [])) or again
            lines.append(
                f"- missed: {one.experiment}, {one.label}: {one.goal.message} {one.value:.3f}, "
                f"not {one.goal.least:g}; {why}"
            )
    return "\n".join(lines) + "\n"


def _line(row: FlatRow, judged: Sequence[Verdict]) -> str:
    def column(name: str, digits: int, unit: str = "") -> str:
        return "-" if row.get(name) is None else f"{row[name]:.{digits}f}{unit}"

    goals = "; ".join(
        f"{one.goal.column} >= {one.goal.least:g} {'met' if one.met else 'MISSED'} ({one.value:.3f})" for one in judged
    )
    cells = (
        row["label"], column("time_rounds", 0), column("time_s", 4), column("loop_s", 4),
        column("loop_speedup", 2, "x"), column("ideal", 2, "x"), column("realised", 3), column("speedup", 2, "x"),
        column("official_ratio", 3), column("peak_memory_mb", 0), goals or "-",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _plain(one: Verdict, lost: Lost) -> dict[str, Any]:
    return {
        "goal": one.goal.message,
        "column": one.goal.column,
        "least": one.goal.least,
        "experiment": one.experiment,
        "row": one.row,
        "value": one.value,
        "met": one.met,
        "lost": [] if one.met else lost.get((one.experiment, one.row), []),
    }


def _lost(folder: Path) -> Lost:
    """Of every row that was profiled the places that lose most time against the first row, or else the driver's."""
    found: Lost = {}
    for file in sorted(folder.rglob("*.json")):
        try:
            places = json.loads(file.read_text())
        except ValueError:
            continue  # ended before it was written
        experiment = file.relative_to(folder).with_suffix("").as_posix()
        for name in dict.fromkeys(place["row"] for place in places):
            own = [one for one in places if one["row"] == name and one["place"] != "whole call"]
            worst = sorted((one for one in own if one["lost_s"] > 0), key=lambda one: -one["lost_s"])[:LOST]
            message = [f"{one['place']} loses {1e3 * one['lost_s']:.2f} ms" for one in worst]
            driver = [f"driver takes {1e3 * one['seconds']:.2f} ms" for one in own if one["place"] == "driver"]
            found[experiment, name] = message or driver
    return found
