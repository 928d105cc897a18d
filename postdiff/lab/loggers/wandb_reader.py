"""Reading back what W&B holds: runs on its server, or those written offline and never sent."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders

__all__ = ["LoggedRun", "ended", "offline_runs", "online_runs"]

HEAD, BLOCK, PIECE_HEAD = 7, 32768, 7
TABLE = ".table.json"


@dataclass(frozen=True)
class LoggedRun:
    """One row as W&B knows it.

    Attributes:
        name: "experiment/row".
        group: the experiment.
        config: the resolved config, and `run_id`, `identity` and origin of the record.
        summary: last value of every metric.
        id: the run's own name, the same each time the row was generated with these settings, prompts and seeds.
        tags: experiment, model, data, methods, and those added.
        tables: rows of every table by its key, images as files; of offline runs alone.
        curves: {"curves/<metric>/<seed>": values after each denoising step}; of offline runs alone.
        unfinished: why values may be missing, in words; empty of a whole run, and of runs on the server.
    """

    name: str
    group: str
    config: dict[str, Any]
    summary: dict[str, Any]
    id: str = ""
    tags: tuple[str, ...] = ()
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    unfinished: str = ""


def offline_runs(root: Path | None = None, unfinished: bool = False) -> list[LoggedRun]:
    """Runs in a folder, the oldest first; parts of one run, which was opened again, are put together.

    Args:
        root: what W&B was given as its folder; `outputs/wandb` if omitted.
        unfinished: read those as well of which a file does not end with W&B's exit record, as far as it goes; they say
            so themselves.

    Raises:
        UsageError: there are none, or one is unfinished and that was not asked for.
    """
    root = root or folders.outputs() / "wandb"
    files = sorted(root.rglob("run-*.wandb"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise UsageError(f"{root} holds no W&B run; make some with 'postdiff run EXPERIMENT wandb=offline'")
    parts: dict[str, list[Path]] = {}
    for file in files:
        parts.setdefault(file.stem.removeprefix("run-"), []).append(file)
    runs = [_read(run_id, files) for run_id, files in parts.items()]
    broken = [run.unfinished for run in runs if run.unfinished]
    if broken and not unfinished:
        others = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise UsageError(
            f"{broken[0]}{others}; wait for its end, remove it, or read what is there with unfinished=True"
        )
    return runs


def ended(file: Path) -> bool:
    """Whether a file holds its run's exit record, the last that W&B writes."""
    return any(entry.WhichOneof("record_type") == "exit" for entry in _entries(file))


def online_runs(project: str) -> list[LoggedRun]:
    """Runs of a project on the server.

    Args:
        project: "entity/project".

    Raises:
        UsageError: the server cannot be reached, or has no such project.
    """
    import wandb

    try:
        found = list(wandb.Api().runs(project))
        return [
            LoggedRun(run.name, run.group or "", dict(run.config), dict(run.summary), run.id, tuple(run.tags))
            for run in found
        ]
    except Exception as error:  # no login, no network, no such project: many kinds
        raise UsageError(
            f"W&B project {project} cannot be read ({' '.join(str(error).split())}); see 'wandb login'"
        ) from error


def _read(run_id: str, files: Iterable[Path]) -> LoggedRun:
    name = group = ""
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    tables: dict[str, list[dict[str, Any]]] = {}
    curves: dict[str, list[float]] = {}
    broken: list[Path] = []
    for file in files:
        whole = False
        drawn: dict[str, list[float]] = {}
        for entry in _entries(file):
            kind = entry.WhichOneof("record_type")
            if kind == "run":
                name, group, tags = entry.run.display_name, entry.run.run_group, tuple(entry.run.tags)
                config |= _values(entry.run.config.update)
            elif kind == "config":
                config |= _values(entry.config.update)
            elif kind == "summary":
                summary |= _values(entry.summary.update)
            elif kind == "history":
                values = _values(entry.history.item)
                summary |= values
                for key in values:
                    if key.startswith("curves/"):
                        drawn.setdefault(key, []).append(values[key])
            elif kind == "artifact" and entry.artifact.type == "run_table":
                tables |= _tables(entry.artifact.manifest.contents)
            elif kind == "exit":
                whole = True
        curves |= drawn
        broken += [] if whole else [file]
    about_tables = tuple(f"{key}." for key in tables)
    summary = {key: value for key, value in _own(summary).items() if not key.startswith(about_tables)}
    reason = ""
    if broken:
        place = "/".join(broken[0].parts[-2:])
        reason = f"W&B run {place} is unfinished: it has no exit record, is still being written or was broken off"
    return LoggedRun(name, group, _own(config), summary, run_id, tags, tables, curves, reason)


def _own(values: dict[str, Any]) -> dict[str, Any]:
    """Without the names that W&B keeps for itself, which begin with an underscore."""
    return {key: value for key, value in values.items() if key[0] != "_"}


def _tables(contents: Iterable[Any]) -> dict[str, list[dict[str, Any]]]:
    """Tables of an artifact that was not sent yet: its files lie where its manifest says, under names of their own."""
    places = {entry.path: Path(entry.local_path) for entry in contents if entry.local_path}
    found = {}
    for path, place in places.items():
        if path.endswith(TABLE) and place.is_file():
            table = json.loads(place.read_text())
            rows = found[path.removesuffix(TABLE)] = [
                dict(zip(table["columns"], row, strict=True)) for row in table["data"]
            ]
            for row in rows:
                for column, value in row.items():
                    if isinstance(value, dict) and value.get("_type") == "image-file":
                        row[column] = places.get(value["path"])
    return found


def _entries(file: Path) -> Iterator[Any]:
    """Records of a file up to its end, or to where it is damaged."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    for message in _messages(file.read_bytes()):
        entry = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        try:
            entry.ParseFromString(message)
        except DecodeError:
            return
        yield entry


def _messages(log: bytes) -> Iterator[bytes]:
    """Messages of an offline run, for which W&B has no public reader; those alone that are there whole.

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
        start, end = place + PIECE_HEAD, place + PIECE_HEAD + length
        if kind not in (1, 2, 3, 4) or end > len(log):  # nothing was written here, or not yet all of it
            return
        pieces = (b"" if kind in (1, 2) else pieces) + log[start:end]
        if kind in (1, 4):
            yield pieces
        place = end


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
