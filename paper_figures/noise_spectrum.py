"""Amplitude spectra of images with and without propagation and noise (Faster Diffusion, Fig. 6).

    python paper_figures/noise_spectrum.py

Above: log amplitude by frequency, mean over images. Below: the same as a difference to the baseline, image by
image, with the standard error of its mean.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from features import record
from style import COLOURS, COLUMN, program, save

from postdiff.lab.analysis.findings import Findings

LINES = ("-", "--", ":", "-.")


def draw(found: Findings) -> plt.Figure:
    """Two panels over the frequency."""
    drawn, (above, below) = plt.subplots(2, 1, figsize=(COLUMN, 4.4), layout="constrained", sharex=True)
    frequency = np.array(found.found["frequencies"])
    styles = dict(zip(found.found["log_amplitude"], zip(COLOURS, LINES, strict=False), strict=False))
    for label, (colour, line) in styles.items():
        spectrum = found.found["log_amplitude"][label]
        above.plot(frequency, spectrum["mean"], color=colour, linestyle=line, linewidth=1.1, label=label)
        if label in found.found["difference"]:
            mean, error = (np.array(found.found["difference"][label][key]) for key in ("mean", "error"))
            below.plot(frequency, mean, color=colour, linestyle=line, linewidth=1.1)
            below.fill_between(frequency, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
    below.axhline(0, color=COLOURS[0], linewidth=0.8)
    above.set_ylabel("log10 amplitude")
    below.set_ylabel("difference to the baseline")
    below.set_xlabel("frequency, cycles a pixel")
    drawn.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=2, handlelength=2.4)
    return drawn


def main() -> None:
    """Draw from the record and save."""
    save(draw(record("noise_spectrum", "noise_spectrum")), "noise_spectrum")


if __name__ == "__main__":
    program(main)
