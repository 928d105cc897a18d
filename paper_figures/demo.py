"""Closeness to a 50-step run against cost, for every row of the demo: `python paper_figures/demo.py`.

Reads records only: fresh ones of `postdiff run demo`, or else those committed under `experiments/records/demo`.
"""

from __future__ import annotations

from style import MARKERS, figure, save

from postdiff.lab.config.experiment import load
from postdiff.lab.tables.rows import flat_rows


def main() -> None:
    drawn, axes = figure()
    for marker, row in zip(MARKERS, flat_rows(load("demo")), strict=False):
        axes.errorbar(
            row["macs_g"], row["paired_psnr"], yerr=row.get("paired_psnr_spread"),
            fmt=marker, capsize=2, label=row["label"],
        )  # fmt: skip
    axes.set_xlabel("MACs of the denoiser, G an image")
    axes.set_ylabel("PSNR to 50 steps, dB")
    axes.set_xlim(left=0)
    axes.legend(loc="best")
    save(drawn, "demo_tradeoff")


if __name__ == "__main__":
    main()
