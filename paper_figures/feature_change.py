"""How the features of each block change over a run (Faster Diffusion, Figs. 3 and 11).

    python paper_figures/feature_change.py

Left: mean squared change from one step to the next, as it is and in units of the feature's own mean square. Right: the
norms of the channels' means over all steps and images, and their standard deviation. Another record is drawn by its
name.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from features import RECORD, file_name, from_words, looks, record
from matplotlib import ticker
from style import DOUBLE, program, save

from postdiff.lab.analysis.findings import Findings


def draw(found: Findings) -> plt.Figure:
    """Four panels over the blocks of one network."""
    blocks = found.found["blocks"]
    styles = looks(blocks)
    drawn, axes = plt.subplots(2, 2, figsize=(DOUBLE, 4.4), layout="constrained")
    for panel, measure, label in (
        (axes[0, 0], "change", "mean squared change"),
        (axes[1, 0], "relative_change", "change / mean square"),
    ):
        for block, style in styles.items():
            mean = [np.nan if value is None else value for value in blocks[block][measure]["mean"]]
            panel.plot(np.arange(1, len(mean) + 1), mean, linewidth=1.1, **style)
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(ticker.LogLocator(numticks=6))
        panel.yaxis.set_minor_locator(ticker.NullLocator())
        panel.set_ylabel(label)
        panel.set_xlabel("step (1 = first, noisiest)")
    names, places = list(blocks), np.arange(len(blocks))
    boxes = axes[0, 1].bxp(
        [blocks[name]["norm"] for name in names], positions=places, showfliers=False, patch_artist=True, widths=0.6,
        medianprops={"color": "k"},
    )  # fmt: skip
    for box, name in zip(boxes["boxes"], names, strict=True):
        box.set(facecolor=styles[name]["color"], alpha=0.8)
    axes[1, 1].bar(
        places, [blocks[name]["norm"]["std"] for name in names], color=[styles[name]["color"] for name in names]
    )
    axes[0, 1].set_ylabel("norm of channel means")
    axes[1, 1].set_ylabel("its standard deviation")
    shown = places if len(places) <= 10 else places[:: len(places) // 7]
    for panel in axes[:, 1]:
        panel.set_xticks(shown, [names[place] for place in shown])
        panel.set_xlabel("block")
        panel.grid(axis="x", visible=False)
        panel.set_axisbelow(True)
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=8, handlelength=2.4)
    return drawn


def main(name: str = RECORD) -> None:
    """Draw from the record and save."""
    save(draw(record(name)), file_name("feature_change", name))


if __name__ == "__main__":
    program(from_words(main))
