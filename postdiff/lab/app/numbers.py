"""What came out of a comparison, to look at: a table, a picture of differences, and the work of every step."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from postdiff.lab.app.generation import Comparison, Run
from postdiff.lab.planner.budget import Budget
from postdiff.metrics import facts

__all__ = ["MOST", "amplified", "picture", "said", "steps", "table"]

Pixels = NDArray[np.uint8]
MOST = 64  # times that a difference is made larger, at most
LABELS = {"full": "full run", "accelerated": "accelerated", "fewer": "plain, fewer steps"}


def picture(image: Tensor) -> Pixels:
    """(3, H, W) as (H, W, 3), uint8."""
    return image.permute(1, 2, 0).contiguous().numpy()


def amplified(image: Tensor, other: Tensor) -> tuple[Pixels, int]:
    """What differs, made larger so that the largest difference is nearly white.

    Args:
        image: (3, H, W), uint8.
        other: the same shape.

    Returns:
        The absolute difference times a power of two, (H, W, 3), and that number, at most `MOST`.
    """
    difference = (image.int() - other.int()).abs()
    largest, times = int(difference.max()), 1
    while largest and times < MOST and 2 * times * largest <= 255:
        times *= 2
    return picture((difference * times).to(torch.uint8)), times


def table(comparison: Comparison) -> str:
    """The numbers of all runs as an HTML table."""
    runs: dict[str, Run] = {"full": comparison.full, "accelerated": comparison.accelerated}
    if comparison.fewer is not None:
        runs["fewer"] = comparison.fewer
    full = comparison.full
    rows: list[tuple[str, Callable[[Run], str]]] = [
        ("steps", lambda run: str(run.plan.config.steps)),
        ("work", lambda run: WORK.written(run.macs)),
        ("times less work", lambda run: f"{_saving(run, full):.2f}x"),
        ("time of a call", lambda run: f"{run.seconds:.3g} s"),
        ("times faster", lambda run: f"{full.seconds / run.seconds:.2f}x"),
        ("share of the ideal", lambda run: _ideal(run, full)),
    ]
    for name in comparison.accelerated.values:
        rows.append((f"{facts(name).title} to the full run", partial(_of, name)))
    head = "".join(f"<th>{LABELS[key]}</th>" for key in runs)
    body = "".join(
        f"<tr><th>{title}</th>{''.join(f'<td>{html.escape(cell(run))}</td>' for run in runs.values())}</tr>"
        for title, cell in rows
    )
    hint = (
        "Work: multiply-accumulates of the denoiser, dense convention. Share of the ideal: times faster over times "
        "less work. Time is of one call, or of two the shorter, so it scatters; postdiff bench measures in turns."
    )
    return f'<table class="numbers"><tr><th></th>{head}</tr>{body}</table><p class="hint">{hint}</p>'


def steps(comparison: Comparison) -> str:
    """What every step of the accelerated run computes, by group of modules, as an HTML table."""
    found = comparison.shares
    if found is None:
        return '<p class="hint">Work by step is not known for this model without a structure.</p>'
    sizes = comparison.accelerated.sizes
    number = comparison.accelerated.work.steps
    lines = []
    for group, shares in zip(found["groups"], found["shares"], strict=True):
        cells = "".join(_cell(group, step, share, sizes) for step, share in enumerate(shares[:number]))
        lines.append(f"<tr><th>{group}</th>{cells}</tr>")
    numbers = "".join(f"<td>{step if step % 5 == 0 else ''}</td>" for step in range(number))
    distinct = list(dict.fromkeys(size for size in sizes if size != "-"))
    said = f" Latent size: {', then '.join(distinct)}." if len(distinct) > 1 else ""
    hint = (
        "Work of each step of the accelerated run as a share of the same step without methods: strong is all of it, "
        f"faint is little or none, red is more.{said}"
    )
    return (
        f'<div class="wide"><table class="steps">{"".join(lines)}<tr class="count"><th>step</th>{numbers}</tr></table>'
        f'</div><p class="hint">{hint}</p>'
    )


WORK = Budget("macs", 0.0, "")  # writes costs in the unit that suits them


def _saving(run: Run, full: Run) -> float:
    return full.macs / run.macs if run.macs else float("inf")


def _ideal(run: Run, full: Run) -> str:
    return "-" if run is full else f"{100 * full.seconds / run.seconds / _saving(run, full):.0f} %"


def _of(name: str, run: Run) -> str:
    value = run.values.get(name)
    return "-" if value is None else f"{value:.{facts(name).digits}f}"


def _cell(group: str, step: int, share: float, sizes: list[str]) -> str:
    blue = max(0.0, min(1.0, share))
    colour = f"rgba(37, 99, 201, {0.06 + 0.86 * blue:.2f})" if share <= 1.001 else "rgba(190, 50, 50, 0.85)"
    size = f", latent {sizes[step]}" if step < len(sizes) else ""
    title = f"step {step}, {group}: {100 * share:.0f} %{size}"
    return f'<td style="background: {colour}" title="{html.escape(title, quote=True)}"></td>'


def said(progress: Any) -> str:
    """Where a comparison stands, as HTML: a bar where steps are counted."""
    text = html.escape(progress.doing)
    if not progress.steps:
        return f'<div class="state"><span>{text} …</span><progress></progress></div>'
    left = "" if progress.left is None else f", about {_clock(progress.left)} left"
    return (
        f'<div class="state"><span>{text}: step {progress.step} of {progress.steps}{left}</span>'
        f'<progress max="{progress.steps}" value="{progress.step}"></progress></div>'
    )


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"
