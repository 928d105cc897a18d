"""Made-up rows of `experiments/frontier.py`, of which it is known where they cross."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from experiments.frontier import Row, compared

PROMPTS = 32
METRICS = ("paired_lpips", "emoji_text_score")
STEPS = (20, 10, 5, 2)


def row(name: str, label: str, share: float, lpips: float, text: float, time: float | None = None) -> Row:
    """A row of so much of the full run's work, and of these means; what makes prompts differ is alike in all rows."""
    hard = np.linspace(-1, 1, PROMPTS)
    own = np.random.default_rng(len(label)).permutation(np.linspace(-1, 1, PROMPTS))
    values = {"paired_lpips": lpips * (1 + 0.3 * hard + 0.01 * own), "emoji_text_score": text + hard + 0.01 * own}
    config = {"methods": [] if "," not in label else [{}], "reference_steps": 50}
    record: Any = SimpleNamespace(config=config, seeds=[0, 1, 2], denoiser_macs=lambda _: round(2e10 * share))
    return Row(name, label, record, time, time, values)


def rows(timed: bool = True) -> list[Row]:
    """Fewer steps, two settings that cost half as much a step, and one row of a third family.

    LPIPS doubles with every halving of the work for fewer steps. For `cache, hard` it is 1.5 times smaller at half the
    work and loses that with every halving, so they cross at a quarter. `cache, soft` is farther away throughout. Text
    scores are 90, 91 and 92 throughout. A cached step takes 0.6 of the time.
    """
    found = []
    for steps in STEPS:
        halvings = math.log2(20 / steps)
        parts: list[tuple[str, str, float, float, float, float]] = [
            ("steps", "", 1.0, 1.0, 0.01 * 2**halvings, 90.0),
            ("hard", "cache, hard, ", 0.5, 0.6, 0.02 / 1.5 * 3**halvings, 91.0),
            ("soft", "cache, soft, ", 0.5, 0.6, 0.03 * 3**halvings, 92.0),
        ]
        for name, label, work, time, lpips, text in parts:
            seconds = time * steps / 20 if timed else None
            found.append(row(f"{name}_{steps}", f"{label}{steps} steps", work * steps / 20, lpips, text, seconds))
    return [*found, row("other_20", "other, 20 steps", 0.9, 0.2, 80.0, 0.9 if timed else None)]


def found(timed: bool = True) -> dict[str, Any]:
    """What the record of these rows holds."""
    return compared(rows(timed), METRICS)
