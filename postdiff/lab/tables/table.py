"""Tables of flat rows in five formats, and the columns of an experiment's own; text fits 120 columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from postdiff.engine.errors import unknown
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.tables.rows import FlatRow, flat_rows
from postdiff.metrics import facts, names

__all__ = ["FORMATS", "Column", "columns", "draw", "notes_on", "plain", "render"]

WIDTH = 120


@dataclass(frozen=True)
class Column:
    """A heading and what stands below it."""

    heading: str
    cell: Callable[[FlatRow], str]


def render(experiment: Experiment, style: str = "text") -> str:
    """The table of an experiment.

    Args:
        experiment: which rows, in which order.
        style: one of `FORMATS`.

    Raises:
        UsageError: no records yet, or an unknown format.
    """
    rows = flat_rows(experiment)
    return draw(rows, columns(rows), notes_on(rows), style)


def draw(rows: list[FlatRow], columns: list[Column], notes: list[str], style: str) -> str:
    """Rows in one of `FORMATS`; csv and json hold every value of the rows, whatever the columns.

    Raises:
        UsageError: an unknown format.
    """
    if style not in FORMATS:
        raise unknown("format", style, FORMATS)
    cells = [[column.heading for column in columns], *([column.cell(row) for column in columns] for row in rows)]
    return FORMATS[style](rows, cells, notes)


def columns(rows: Sequence[FlatRow]) -> list[Column]:
    """The columns for which any row has a value, in the order that they are read."""
    present = {key for row in rows for key, value in row.items() if value is not None}
    # What holds for all rows needs no mark.
    common = set.intersection(*(set(row["notes"].split("; ")) for row in rows))
    columns = [Column("Row", lambda row: row["label"] + ("*" if set(row["notes"].split("; ")) - common - {""} else ""))]
    if len({row["model"] for row in rows}) > 1:
        columns.append(Column("Model", lambda row: row["model"]))
    columns += [Column(title, plain(key, 0)) for key, title in (("steps", "Steps"), ("network_calls", "Calls"))]
    for name in names():
        steps = sorted(int(key.rpartition("_")[2]) for key in present if key.startswith(f"{name}_at_"))
        if name not in present and not steps:
            continue
        info = facts(name)
        if name in present:
            arrow = "↑" if info.higher_is_better else "↓"
            columns.append(Column(f"{info.title} {arrow}", plain(name, info.digits)))
        columns += [Column(f"after {step}", plain(f"{name}_at_{step}", info.digits)) for step in steps]
    if "macs_g" in present:
        columns += [Column("MACs (G) ↓", plain("macs_g", 2)), Column("saving ↑", plain("macs_saving", 2, "x"))]
    if "time_s" in present:
        columns += [Column("Time (s) ↓", _time), Column("speed-up ↑", plain("speedup", 2, "x"))]
    if "realised" in present:
        columns.append(Column("MAC efficiency ↑", plain("realised", 2)))
    if "peak_memory_mb" in present:
        columns.append(Column("Memory (MB) ↓", plain("peak_memory_mb", 1)))
    reported = (key for row in rows for key in row if key.startswith("reported_"))
    for name in dict.fromkeys(key.removeprefix("reported_") for key in reported):
        digits = facts(name).digits if name in names() else 2
        columns.append(Column(f"{name}, reported", plain(f"reported_{name}", digits)))
        columns.append(Column("gap", plain(f"gap_{name}", digits, signed=True)))
    return columns


def plain(key: str, digits: int, unit: str = "", signed: bool = False) -> Callable[[FlatRow], str]:
    """The cell of a column: the value of that key with so many digits, "-" where there is none.

    Its spread and the bounds of its interval follow where the row has them, as `<key>_spread`, `_low` and `_high`.
    """

    def cell(row: FlatRow) -> str:
        value, spread, low, high = (row.get(key + more) for more in ("", "_spread", "_low", "_high"))
        if value is None:
            return "-"
        text = f"{value:{'+' if signed else ''}.{digits}f}{unit}"
        if spread is not None:
            text += f" ± {spread:.{digits}f}"
        return text if low is None or high is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"

    return cell


def _time(row: FlatRow) -> str:
    if row.get("time_s") is None:
        return "-"
    digits = 2 if row["time_s"] >= 0.1 else 4
    return f"{row['time_s']:.{digits}f} [{row['time_q25_s']:.{digits}f}-{row['time_q75_s']:.{digits}f}]"


def notes_on(rows: Sequence[FlatRow]) -> list[str]:
    """What the values mean, and which rows to read with care."""
    measured = next((row for row in rows if row.get("n_done")), {})
    lines = []
    if measured:
        seeds = measured["seeds"]
        lines.append(
            f"{measured['n_done']} images a row"
            + (f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ", one seed")
            + "; MACs of the denoiser for one image, dense convention"
        )
    timed = next((row for row in rows if row.get("time_s")), None)
    if timed:
        size, device = timed["time_batch_size"], timed["time_device"]
        lines.append(f"time of one image at batch size {size}, median [quartiles], on {device}")
    if any(row.get("realised") for row in rows):
        lines.append("MAC efficiency: the speed-up over what it would be if time fell as all MACs do")
    if any(row.get("macs_g_spread") for row in rows):
        lines.append("MACs ±: standard deviation over images, since a method decides by the features of each")
    if any(row.get("peak_memory_mb") for row in rows):
        lines.append("memory: the peak of one call at that batch size, weights included")
    noted: dict[str, list[str]] = {}
    for row in rows:
        for note in filter(None, row["notes"].split("; ")):
            noted.setdefault(note, []).append(row["label"])
    for note, labels in noted.items():
        lines.append(f"all rows: {note}" if len(labels) == len(rows) else f"* {note}: {', '.join(labels)}")
    return lines


def _text(rows: list[FlatRow], cells: list[list[str]], notes: list[str]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    blocks, used = [[0]], widths[0]
    for place, width in enumerate(widths[1:], 1):
        if used + 2 + width > WIDTH:
            # A new block repeats the row labels, so that no line is wider than a terminal.
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(place)
        used += 2 + width
    drawn = []
    for block in blocks:
        # Labels stand on the left of their column, values on the right.
        aligned = [[line[at].rjust(widths[at]) if at else line[0].ljust(widths[0]) for at in block] for line in cells]
        head, *body = ["  ".join(line).rstrip() for line in aligned]
        drawn.append("\n".join([head, "-" * max(map(len, (head, *body))), *body]))
    return "\n\n".join(drawn) + "\n\n" + "\n".join(notes)


def _markdown(rows: list[FlatRow], cells: list[list[str]], notes: list[str]) -> str:
    head, *body = cells
    body = [[cell.replace("|", r"\|").replace("*", r"\*") for cell in line] for line in body]
    lines = [head, ["---", *("---:" for _ in head[1:])], *body]
    notes = [line.replace("*", r"\*") for line in notes]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n" + "  \n".join(notes)


def _latex(rows: list[FlatRow], cells: list[list[str]], notes: list[str]) -> str:
    head, *body = [" & ".join(map(_latex_text, line)) + r" \\" for line in cells]
    notes = [f"% {line}" for line in notes]
    table = [rf"\begin{{tabular}}{{l{'r' * (len(cells[0]) - 1)}}}", r"\toprule", head, r"\midrule", *body]
    return "\n".join([*notes, *table, r"\bottomrule", r"\end{tabular}"])


def _latex_text(text: str) -> str:
    for plain, escaped in {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#"}.items():
        text = text.replace(plain, escaped)
    for plain, escaped in {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$"}.items():
        text = text.replace(plain, escaped)
    return text


def _csv(rows: list[FlatRow], cells: list[list[str]], notes: list[str]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().rstrip("\n")


def _json(rows: list[FlatRow], cells: list[list[str]], notes: list[str]) -> str:
    return json.dumps(rows, indent=1)


FORMATS: dict[str, Callable[[list[FlatRow], list[list[str]], list[str]], str]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
}
