"""How far features are from themselves between steps, and the key steps chosen by it.

    python paper_figures/key_selection.py

Above: the squared distance of what encoder propagation keeps, between any two steps. Below: sets of equally many key
steps, each with its staleness, the distance of all steps from their last key step. "least stale" minimises that;
"weighted" counts every step by how far the solver moves there. Another record is drawn by its name.
"""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import torch
from features import RECORD, file_name, from_words, record
from matplotlib.colors import LogNorm
from style import COLOURS, COLUMN, program, save

from postdiff.lab.analysis.findings import Findings
from postdiff.lab.analysis.key_selection import select_keys, solver_weights, staleness
from postdiff.methods.encoder_propagation.key_steps import KEY_SETS


def sets(found: Findings) -> dict[str, list[int]]:
    """Sets of key steps of one size: the paper's, or nine if it has none for so many steps, uniform and chosen ones."""
    distance, steps = torch.tensor(found.found["distance"]), found.found["steps"]
    published = [list(KEY_SETS[name].steps) for name in ("sd_50", "sd_20") if KEY_SETS[name].of == steps]
    count = len(published[0]) if published else min(9, steps)
    return {
        "uniform": sorted({i * steps // count for i in range(count)}),
        **({"paper": published[0]} if published else {}),
        "least stale": select_keys(distance, count),
        "weighted": select_keys(distance, count, solver_weights(found.found["levels"], found.found["prediction"])),
    }


def draw(found: Findings) -> plt.Figure:
    """The distances above, the sets below."""
    drawn, (above, below) = plt.subplots(
        2, 1, figsize=(COLUMN, 3.8), layout="constrained", height_ratios=(2.4, 1), sharex=True
    )
    distance = np.array(found.found["distance"])
    steps, chosen = len(distance), sets(found)
    shown = np.ma.masked_less_equal(distance, 0)
    image = above.imshow(
        shown,
        norm=LogNorm(vmin=shown.min(), vmax=shown.max()),
        cmap="viridis",
        aspect="auto",
        extent=(0.5, steps + 0.5, steps + 0.5, 0.5),
    )
    keys = [*chosen["least stale"], steps]
    # What each chosen key serves: the squares that the choice makes as dark as it can.
    for start, end in itertools.pairwise(keys):
        corners = np.array([[start, start], [end, start], [end, end], [start, end], [start, start]]) + 0.5
        above.plot(*corners.T, color="w", linewidth=0.9)
    above.set_ylabel("step")
    above.grid(visible=False)
    bar = drawn.colorbar(image, ax=above, fraction=0.05)
    bar.set_label("squared distance, relative")
    for line, steps_of in enumerate(chosen.values()):
        colour = COLOURS[line % len(COLOURS)]
        below.plot(np.array(steps_of) + 1, [line] * len(steps_of), "|", color=colour, markersize=9, markeredgewidth=1.4)
        score = staleness(torch.tensor(distance), steps_of) / steps
        below.text(steps + 1.5, line, f"{score:.3f}", va="center", fontsize=7, color=colour)
    below.set_yticks(range(len(chosen)), list(chosen))
    below.set_ylim(len(chosen) - 0.5, -0.5)
    below.grid(axis="y", visible=False)
    below.set_xlabel("step (ticks: key steps; right: staleness a step)")
    return drawn


def main(name: str = RECORD) -> None:
    """Draw from the record and save."""
    save(draw(record(name)), file_name("key_selection", name))


if __name__ == "__main__":
    program(from_words(main))
