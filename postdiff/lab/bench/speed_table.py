"""The table of `postdiff bench`: time, what of the saved work became time, and other code for the same work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from postdiff.lab.config.experiment import Experiment
from postdiff.lab.tables.rows import FlatRow, flat_rows
from postdiff.lab.tables.table import Column, draw, plain

__all__ = ["render"]


def render(experiment: Experiment, style: str = "text") -> str:
    """The speed of an experiment's rows, from their records.

    Args:
        experiment: which rows, in which order.
        style: one of `tables.FORMATS`; csv and json hold every value.

    Raises:
        UsageError: no records yet, or an unknown format.
    """
    rows = [row for row in flat_rows(experiment, ("speed",)) if row.get("time_s")]
    return draw(rows, _columns(rows), _explanations(rows), style)


def _columns(rows: Sequence[FlatRow]) -> list[Column]:
    present = {key for row in rows for key, value in row.items() if value is not None}
    columns = [Column("Row", lambda row: row["label"])]
    if len({row["time_batch_size"] for row in rows}) > 1:
        columns.append(Column("Batch", plain("time_batch_size", 0)))
    if "time_limit_s" in present:
        columns.append(Column("Rounds", plain("time_rounds", 0)))
    columns += [Column("Steps", plain("steps", 0)), Column("Time (s) ↓", _quartiles("time_s", "time_q{}_s", 4))]
    columns.append(Column("img/s ↑", plain("images_per_s", 2)))
    if "speedup" in present:
        columns.append(Column("speed-up ↑", _quartiles("speedup", "speedup_q{}", 3)))
    if "loop_s" in present:
        columns += [Column("Loop (s) ↓", plain("loop_s", 4)), Column("its speed-up ↑", plain("loop_speedup", 3, "x"))]
    if "ideal" in present:
        columns += [Column("ideal", plain("ideal", 3, "x")), Column("MAC efficiency ↑", plain("realised", 3))]
    if "official_ratio" in present:
        columns += [
            Column("beside", lambda row: row.get("official") or "-"),
            Column("reference / ours ↑", _quartiles("official_ratio", "official_ratio_q{}", 3)),
            Column("loop", plain("official_loop_ratio", 3)),
            Column("differs by", lambda row: "-" if (d := row.get("official_difference")) is None else f"{d:.1g}"),
        ]
    if "peak_memory_mb" in present:
        columns.append(Column("Memory (MB) ↓", plain("peak_memory_mb", 1)))
    return columns


def _quartiles(name: str, bounds: str, digits: int) -> Callable[[FlatRow], str]:
    def cell(row: FlatRow) -> str:
        if row.get(name) is None:
            return "-"
        low, high = (row.get(bounds.format(q)) for q in (25, 75))
        between = "" if low is None or high is None else f" [{low:.{digits}f}-{high:.{digits}f}]"
        return f"{row[name]:.{digits}f}{between}"

    return cell


def _explanations(rows: Sequence[FlatRow]) -> list[str]:
    first = rows[0]
    lines = [
        f"time of one image at batch size {first['time_batch_size']}, median [quartiles], on {first['time_device']}"
        if len({row["time_batch_size"] for row in rows}) == 1
        else f"time of one image, median [quartiles], on {first['time_device']}",
        "loop: from the first denoising step to the last, without text encoder and decoder",
        "ideal: the speed-up if time fell as the denoiser's MACs do, all products of attention counted; MAC "
        "efficiency: the share of it that the loop reaches",
    ]
    if limits := sorted({row["time_limit_s"] for row in rows if row.get("time_limit_s")}):
        lines.append(f"rounds: as many as were whole in {' or '.join(f'{limit:g}' for limit in limits)} s for all rows")
    if unsound := [row["label"] for row in rows if row.get("finite") is False]:
        lines.append(f"images hold NaN or infinity, which does not change the time of: {', '.join(unsound)}")
    if any(row.get("official_ratio") for row in rows):
        lines.append(
            "reference / ours: time of the code named beside over ours, round by round, whole call and loop; above 1 "
            "ours is faster; differs by: largest difference between both images"
        )
    if any(row.get("peak_memory_mb") for row in rows):
        lines.append("memory: the peak of one call at that batch size, weights included")
    if any(row["random_weights"] for row in rows):
        lines.append("random weights; random numbers stand in for encoded prompts, so no text encoder runs")
    if apart := [row["label"] for row in rows if row["speedup"] is None]:
        lines.append(f"not timed together with the first row: {', '.join(apart)}")
    return lines
