"""What an analysis leaves behind: one JSON of settings and statistics, beside the records of runs.

Fresh ones are in `outputs/records/<experiment>/<name>.json`; those that figures rest on are committed under
`experiments/records/`. Arrays too large for JSON stand beside it in `<name>.npz`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from postdiff.engine.errors import UsageError
from postdiff.lab.devices import provenance
from postdiff.lab.files import folders, typed
from postdiff.lab.plan.plan import Plan
from postdiff.lab.records.stored import now

__all__ = ["SCHEMA", "Findings", "find", "found_by", "fresh_path", "plain"]

SCHEMA = 1


@dataclass
class Findings:
    """One analysis of one setting, done.

    Attributes:
        experiment: folder of the file.
        name: its name.
        run_id: hash of all that decides the values, without the device.
        config: the resolved config of the run that was looked at.
        checkpoint: the weights, as in `Record`.
        prompts: hash of the prompts.
        samples: images looked at.
        settings: of the analysis itself.
        found: the statistics, by name.
        started: UTC, ISO 8601.
        ended: UTC, ISO 8601.
    """

    experiment: str
    name: str
    run_id: str
    config: dict[str, Any]
    checkpoint: str
    prompts: str
    samples: int
    settings: dict[str, Any]
    found: dict[str, Any]
    device: str
    started: str
    ended: str
    git: dict[str, Any]
    versions: dict[str, str]
    schema: int = SCHEMA
    arrays: dict[str, Any] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Write whole or not at all; `arrays` first, so that a JSON never stands without its arrays."""
        if self.arrays:
            with folders.atomic_write(file.with_suffix(".npz")) as temporary:
                np.savez_compressed(temporary, **self.arrays)
        content = {key.name: getattr(self, key.name) for key in dataclasses.fields(self) if key.name != "arrays"}
        with folders.atomic_write(file) as temporary:
            temporary.write_text(json.dumps(plain(content), indent=1, allow_nan=False) + "\n")

    @classmethod
    def read(cls, file: Path) -> Findings:
        """Read them, with their arrays.

        Raises:
            UsageError: another schema version, or something else.
        """
        try:
            made: Findings = typed.built(cls, typed.read(file))
        except typed.NotAsHinted as error:
            raise UsageError(f"{file} holds no findings: it {error}; remove it and make it again") from None
        if made.schema != SCHEMA:
            raise UsageError(f"{file} has schema version {made.schema}, this PostDiff reads {SCHEMA}; make it again")
        if (beside := file.with_suffix(".npz")).is_file():
            try:
                with np.load(beside) as arrays:
                    made.arrays = {name: arrays[name] for name in arrays.files}
            except Exception as error:  # whatever strange bytes make of zipfile and numpy
                raise UsageError(f"{beside} cannot be read; remove it and make {file.name} again") from error
        return made


def fresh_path(experiment: str, name: str) -> Path:
    """Where an analysis writes."""
    return folders.outputs() / "records" / experiment / f"{name}.json"


def find(experiment: str, name: str, made_by: str) -> Findings:
    """The fresh findings, or else the committed ones.

    Args:
        experiment: their folder.
        name: theirs.
        made_by: the command that makes them, for the message.

    Raises:
        UsageError: there are none.
    """
    for root in (folders.outputs() / "records", folders.committed_records()):
        if (file := root / experiment / f"{name}.json").is_file():
            return Findings.read(file)
    raise UsageError(f"there is no record {experiment}/{name}; make it with '{made_by}'")


def found_by(
    plan: Plan,
    name: str,
    run_id: str,
    started: str,
    settings: Mapping[str, Any],
    found: Mapping[str, Any],
    **arrays: Any,
) -> Findings:
    """Findings on all samples of a plan, which end now."""
    return Findings(
        experiment=plan.experiment,
        name=name,
        run_id=run_id,
        config=plan.resolved(),
        checkpoint=plan.checkpoint,
        prompts=plan.prompts_hash,
        samples=len(plan.samples),
        settings=dict(settings),
        found=dict(found),
        device=provenance.device_name(plan.config.device),
        started=started,
        ended=now(),
        git=provenance.git(),
        versions=provenance.versions(),
        arrays=arrays,
    )


def plain(value: Any, digits: int = 6) -> Any:
    """Plain values of tensors and mappings, floats to so many significant digits; NaN and infinity become null."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return plain(value.tolist(), digits)
    if isinstance(value, Mapping):
        return {str(key): plain(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, digits) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
