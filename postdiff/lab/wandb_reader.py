"""Reading back what W&B holds: runs on its server, or those written offline and never sent."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postdiff.engine.errors import UsageError
from postdiff.lab import folders

__all__ = ["Mirrored", "offline_runs", "online_runs"]

HEAD, BLOCK, PIECE_HEAD = 7, 32768, 7


@dataclass(frozen=True)
class Mirrored:
    """One row as W&B knows it.

    Attributes:
        name: "experiment/row".
        group: the experiment.
        config: the resolved config and `run_id` of the record.
        summary: last value of every metric.
    """

    name: str
    group: str
    config: dict[str, Any]
    summary: dict[str, Any]


def offline_runs(root: Path | None = None) -> list[Mirrored]:
    """Runs in a folder, the oldest first.

    Args:
        root: what W&B was given as its folder; `outputs/wandb` if omitted.

    Raises:
        UsageError: there are none.
    """
    root = root or folders.outputs() / "wandb"
    files = sorted(root.rglob("run-*.wandb"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise UsageError(f"{root} holds no W&B run; make some with 'postdiff run EXPERIMENT wandb=offline'")
    return [_read(file) for file in files]


def online_runs(project: str) -> list[Mirrored]:
    """Runs of a project on the server.

    Args:
        project: "entity/project".

    Raises:
        UsageError: the server cannot be reached, or has no such project.
    """
    import wandb

    try:
        found = list(wandb.Api().runs(project))
        return [Mirrored(run.name, run.group or "", dict(run.config), dict(run.summary)) for run in found]
    except Exception as error:  # no login, no network, no such project: many kinds
        raise UsageError(
            f"W&B project {project} cannot be read ({' '.join(str(error).split())}); see 'wandb login'"
        ) from error


def _read(file: Path) -> Mirrored:
    name = group = ""
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for entry in _entries(file):
        kind = entry.WhichOneof("record_type")
        if kind == "run":
            name, group = entry.run.display_name, entry.run.run_group
            config |= _values(entry.run.config.update)
        elif kind == "config":
            config |= _values(entry.config.update)
        elif kind == "summary":
            summary |= _values(entry.summary.update)
        elif kind == "history":
            summary |= _values(entry.history.item)
    # Names that W&B keeps for itself begin with an underscore.
    return Mirrored(name, group, *({k: v for k, v in part.items() if k[0] != "_"} for part in (config, summary)))


def _entries(file: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    for message in _messages(file.read_bytes()):
        entry = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        entry.ParseFromString(message)
        yield entry


def _messages(log: bytes) -> Iterator[bytes]:
    """Messages of an offline run, for which W&B has no public reader.

    The file is a LevelDB log after a head of 7 bytes: blocks of 32 KiB with pieces in them, each piece with checksum
    (4 bytes), length (2) and type (1: whole message, 2: its first piece, 3: a middle one, 4: the last).
    """
    place, pieces = HEAD, b""
    while place + PIECE_HEAD <= len(log):
        left = BLOCK - place % BLOCK
        if left < PIECE_HEAD:  # no room for another piece: the block ends in padding
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", log, place)
        start = place + PIECE_HEAD
        pieces = (b"" if kind in (1, 2) else pieces) + log[start : start + length]
        if kind in (1, 4):
            yield pieces
        place = start + length


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
