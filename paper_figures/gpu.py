"""Speed on a GPU, from whatever records of one there are: `python paper_figures/gpu.py`.

With `--write` the table "on a GPU" of docs/speed.md is made as well; without records it says so.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib import ticker
from style import COLOURS, DOUBLE, MARKERS, program, save

from postdiff import catalog
from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import load
from postdiff.lab.records import record
from postdiff.lab.tables.rows import FlatRow, flat_rows

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
BEGIN, END = "<!-- gpu: made by paper_figures/gpu.py -->", "<!-- end of gpu -->"
UNMEASURED = "Unmeasured: there are no records of a GPU yet."
BATCHES = (1, 8)
ROW = re.compile(r"(?P<setting>.+)_b(?P<batch>\d+)")


def measured() -> dict[str, list[FlatRow]]:
    """{experiment: its rows}, in the order of the files, of all that a GPU has timed and that has a first row."""
    found: dict[str, list[FlatRow]] = {}
    for name in catalog.names("experiments"):
        if not name.startswith("speed/"):
            continue
        asked = load(name)
        records = {row.name: record.find(name, row.name, "speed") for row in asked.rows}
        on_gpu = [row for row, timed in records.items() if timed and str(timed.config["device"]).startswith("cuda")]
        if on_gpu:
            rows = [row for row in flat_rows(asked.select(on_gpu), ("speed",)) if row.get("loop_speedup")]
            found |= {name: rows} if rows else {}
    return found


def settings(rows: Sequence[FlatRow]) -> Iterator[tuple[str, dict[int, FlatRow]]]:
    """(label without its batch size, {batch size: row}) of every setting."""
    by_setting: dict[str, dict[int, FlatRow]] = {}
    for row in rows:
        name = ROW.fullmatch(row["row"])
        by_setting.setdefault(name["setting"] if name else row["row"], {})[row["time_batch_size"]] = row
    for alike in by_setting.values():
        yield next(iter(alike.values()))["label"].partition(", batch ")[0], alike


def table(found: dict[str, list[FlatRow]]) -> str:
    """The table in Markdown, or one line that says that there is nothing to tell."""
    if not found:
        return UNMEASURED
    devices = dict.fromkeys(row["time_device"] for rows in found.values() for row in rows)
    heads = [f"{head}, batch {size}" for size in BATCHES for head in ("loop", "of ideal", "call")]
    lines = [f"| {', '.join(devices)} | ideal | {' | '.join(heads)} |", f"| --- |{' ---: |' * (1 + len(heads))}"]
    for name, rows in found.items():
        lines.append(f"| **{name}** |{'  |' * (1 + len(heads))}")
        for label, alike in settings(rows):
            ideal = next(iter(alike.values()))["ideal"]
            cells = [cell for size in BATCHES for cell in _cells(alike.get(size))]
            lines.append(f"| {label} | {'-' if ideal is None else f'{ideal:.2f}x'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(row: FlatRow | None) -> tuple[str, str, str]:
    if row is None:
        return "-", "-", "-"
    return f"{row['loop_speedup']:.2f}x", f"{row['realised']:.3f}", f"{row['speedup']:.2f}x"


def draw(found: dict[str, list[FlatRow]]) -> plt.Figure:
    """The loop's speed-up over the ideal one, a panel for each batch size; on the line time falls as work does."""
    drawn, axes = plt.subplots(1, len(BATCHES), figsize=(DOUBLE, 3.2), layout="constrained", sharex=True, sharey=True)
    for size, panel in zip(BATCHES, axes, strict=True):
        for place, (name, rows) in enumerate(found.items()):
            own = [row for row in rows if row["time_batch_size"] == size and row["ideal"]]
            look = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)], "markersize": 4}
            ideals, speedups = [row["ideal"] for row in own], [row["loop_speedup"] for row in own]
            panel.plot(ideals, speedups, linestyle="", label=name.removeprefix("speed/"), **look)
        panel.axline((1, 1), (2, 2), color="0.6", linewidth=0.8, zorder=1)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(ticker.FormatStrFormatter("%gx"))
        panel.set_title(f"batch {size}", loc="left")
        panel.set_xlabel("ideal speed-up, by MACs")
    axes[0].set_ylabel("the loop's speed-up")
    axes[0].legend(handletextpad=0.2, loc="lower right")
    return drawn


def written(text: str, found: str) -> str:
    """A page with its block anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{found}\n{END}{after}"


def main(words: Sequence[str] = ()) -> None:
    """Draw from records and save.

    Raises:
        UsageError: there are no records of a GPU.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/speed.md")
    given, found = parser.parse_args(words), measured()
    if given.write:
        PAGE.write_text(written(PAGE.read_text(), table(found)))
    if not found:
        raise UsageError(
            "there are no records of a GPU; make them on one with "
            "'python experiments/gpu_check.py --minutes 9 --out FOLDER' and name them in POSTDIFF_OUTPUTS"
        )
    save(draw(found), "gpu")


if __name__ == "__main__":
    program(lambda: main(sys.argv[1:]))
