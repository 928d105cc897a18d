"""Made-up findings in the place of those that the programs of `experiments/` write."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from postdiff.lab.analysis.findings import Findings
from tests.support import frontier

PARTS = {"E1": "encoder", "E2": "encoder", "B": "middle", "D1": "decoder", "D2": "decoder"}
EMPTY = Findings(
    experiment="faster_diffusion/features", name="", run_id="a", config={}, checkpoint="b", prompts="c", samples=2,
    settings={}, found={}, device="a CPU", started="", ended="", git={}, versions={},
)  # fmt: skip


def features(steps: int = 50) -> Findings:
    """As `experiments/feature_evolution.py` writes them: features that drift ever more slowly."""
    place = np.sqrt(np.arange(steps))
    curve = {"mean": [None, *(1 / np.arange(1, steps)).tolist()], "std": [0.0] * steps}
    box = {"q1": 1.0, "med": 2.0, "q3": 3.0, "whislo": 0.5, "whishi": 4.0, "mean": 2.0, "std": 1.0, "n": 100}
    blocks = {
        label: {"part": part, "shape": [4, 2, 2], "change": curve, "relative_change": curve, "norm": box}
        for label, part in PARTS.items()
    }
    maps = {"steps": [0, steps // 2, steps - 1], "prompts": ["a dog", "a cat"]}
    distance, levels = ((place[:, None] - place) ** 2).tolist(), np.linspace(10, 0, steps + 1).tolist()
    found = {"steps": steps, "blocks": blocks, "distance": distance, "levels": levels, "maps": maps}
    found["prediction"] = "v_prediction"
    arrays = {label: np.zeros((2, 3, 2, 2, 3), np.uint8) for label in PARTS}
    return dataclasses.replace(EMPTY, name=f"emoji_ddim_{steps}", found=found, arrays=arrays)


def spectrum() -> Findings:
    """As `experiments/noise_spectrum.py` writes them."""
    line = {"mean": [2.0, 1.0, 0.5], "std": [0.1] * 3, "error": [0.01] * 3}
    found = {
        "frequencies": [0.0, 0.25, 0.5],
        "log_amplitude": {"baseline": line, "propagation": line},
        "difference": {"propagation": line},
    }
    return dataclasses.replace(EMPTY, name="noise_spectrum", found=found)


def images() -> Findings:
    """As `experiments/fewer_steps.py` writes them."""
    fewer, sweep = {"ddim": [50, 25], "dpm_solver": [20, 10]}, [50, 20, 5]
    names = [f"{solver}_{steps}{ending}" for solver in fewer for steps in sweep for ending in ("", "_ours")]
    names += [
        f"{solver}_{steps}{ending}" for solver, (_, *few) in fewer.items() for steps in few for ending in ("", "_noise")
    ]
    arrays = {name: np.zeros((2, 8, 8, 3), np.uint8) for name in names}
    found = {"prompts": ["a dog", "a cat"], "fewer": fewer, "sweep": sweep, "keys": {}}
    return dataclasses.replace(EMPTY, name="fewer_steps", found=found, arrays=arrays)


def differences() -> Findings:
    """As `experiments/whole_network.py` writes them."""
    calls = {"steps_8": 8.0, "steps_12": 12.0, "even_output_8": 8.0, "even_output_12": 12.0, "easy_residual_8": 7.5}
    return dataclasses.replace(
        EMPTY, experiment="whole_network", name="differences", found={"calls": calls, "differences": {}}
    )


def crossings() -> Findings:
    """As `experiments/frontier.py` writes them."""
    return dataclasses.replace(EMPTY, experiment="frontier", name="crossings", found=frontier.found())


def write_all(root: Path) -> None:
    """Into an outputs folder."""
    for made in (features(), spectrum(), images(), differences(), crossings()):
        made.write(root / "records" / made.experiment / f"{made.name}.json")
