"""Features as colours, over steps and blocks (Faster Diffusion, Figs. 2, 10 and 12).

    python paper_figures/feature_pca.py

Red, green and blue are the three leading principal components of a block's features at all steps shown together, so
that in one row equal colours mean equal features. Another record is drawn by its name.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from features import RECORD, file_name, from_words, image_grid, record
from style import COLUMN, program, save

from postdiff.lab.analysis.findings import Findings

MOST = 8  # blocks shown


def draw(found: Findings, sample: int = 0) -> plt.Figure:
    """Blocks down, steps across, for one image."""
    labels = list(found.found["blocks"])
    if len(labels) > MOST:
        labels = [labels[round(i * (len(labels) - 1) / (MOST - 1))] for i in range(MOST)]
    steps = found.found["maps"]["steps"]
    rows = [(label, list(found.arrays[label][sample])) for label in labels]
    title = f"step of {found.found['steps']}, '{found.found['maps']['prompts'][sample]}'"
    return image_grid(rows, [str(step + 1) for step in steps], COLUMN, title)


def main(name: str = RECORD) -> None:
    """Draw from the record and save."""
    save(draw(record(name)), file_name("feature_pca", name))


if __name__ == "__main__":
    program(from_words(main))
