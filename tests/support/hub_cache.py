"""A hub cache on disk as a download leaves it, so that the hub's own code runs without a network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def put(cache: Path, repository: str, commit: str, folder: Path) -> Path:
    """Lay a folder's files into the cache as `repository` at `commit`, which `main` points to; gives the snapshot."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot, blobs = root / "snapshots" / commit, root / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    listing = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        blob = blobs / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
        listing[file.relative_to(folder).as_posix()] = {"size": len(content), "blob_id": blob.name[:40]}
    point(cache, repository, "main", commit)
    trees = root / "trees" / f"{commit}.json"
    trees.parent.mkdir(exist_ok=True)
    trees.write_text(json.dumps({"format_version": 1, "files": listing}))
    return snapshot


def point(cache: Path, repository: str, branch: str, commit: str) -> None:
    """Let a branch stand for a commit."""
    ref = cache / f"models--{repository.replace('/', '--')}" / "refs" / branch
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit)
