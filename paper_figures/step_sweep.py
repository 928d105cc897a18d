"""Images at fewer and fewer steps, plain and with Faster Diffusion (its Fig. 7).

python paper_figures/step_sweep.py
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from features import image_grid, record
from style import DOUBLE, program, save

from postdiff.lab.analysis.findings import Findings

SOLVERS = {"ddim": "DDIM", "dpm_solver": "DPM++"}
SHOWN = 2  # prompts


def draw(found: Findings) -> plt.Figure:
    """Solvers, prompts and methods down, steps across."""
    steps, prompts = found.found["sweep"], found.found["prompts"][:SHOWN]
    rows = [
        (f"{solver}, {label}", [found.arrays[f"{name}_{count}{ending}"][number] for count in steps])
        for name, solver in SOLVERS.items()
        for number in range(len(prompts))
        for ending, label in (("", "plain"), ("_ours", "propagated"))
    ]
    return image_grid(rows, [str(count) for count in steps], DOUBLE, f"steps ({' and '.join(prompts)})")


def main() -> None:
    """Draw from the record and save."""
    save(draw(record("fewer_steps", "fewer_steps")), "step_sweep")


if __name__ == "__main__":
    program(main)
