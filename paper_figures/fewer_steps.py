"""Fewer steps, without and with prior noise, against Faster Diffusion (its Figs. 13 and 14).

python paper_figures/fewer_steps.py
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from features import image_grid, record
from style import COLUMN, program, save

from postdiff.lab.analysis.findings import Findings

SOLVERS = {"ddim": "DDIM", "dpm_solver": "DPM++"}


def draw(found: Findings) -> plt.Figure:
    """Settings down, prompts across."""
    rows = []
    for name, solver in SOLVERS.items():
        full, *fewer = found.found["fewer"][name]
        settings = [(f"{name}_{full}", f"{solver} {full}")]
        settings += [(f"{name}_{steps}", f"{solver} {steps}") for steps in fewer]
        settings += [(f"{name}_{steps}_noise", f"{solver} {steps} + noise") for steps in fewer]
        settings += [(f"{name}_{full}_ours", f"{solver} {full}, propagated")]
        rows += [(label, list(found.arrays[key])) for key, label in settings]
    return image_grid(rows, found.found["prompts"], COLUMN)


def main() -> None:
    """Draw from the record and save."""
    save(draw(record("fewer_steps", "fewer_steps")), "fewer_steps")


if __name__ == "__main__":
    program(main)
