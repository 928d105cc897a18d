"""Reference pictures of a data set: which files, and a hash over names and contents that is quick the second time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from postdiff.datasets import files
from postdiff.datasets.manifest import Manifest, is_manifest
from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders, typed
from postdiff.lab.files.sources import package_file
from postdiff.lab.inputs import data_cards

__all__ = ["digest", "listed"]

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def listed(name: str, images: Path | None) -> tuple[str, list[Path], Path]:
    """The data's name, its reference pictures in order, and the folder that they are in.

    Args:
        name: of a data set, or a folder; a folder is called by its own name.
        images: folder of a data set's pictures; None means the one that its card names.

    Raises:
        UsageError: no such data set or folder, no pictures, fewer than two, or one is missing.
    """
    folder = Path(name).expanduser()
    if images is None and folder.is_dir():
        return folder.resolve().name, _at_least_two(_inside(folder), folder), folder
    card = data_cards.card(name)
    if images is None and card.images is None:
        raise UsageError(f"data '{name}' names no folder of pictures; add --images FOLDER")
    root = (package_file(str(card.images)) if images is None else images).expanduser()
    if not root.is_dir():
        raise UsageError(f"image folder {root} is missing; name another one with --images FOLDER")
    wanted = _named(card)
    if not wanted:
        return name, _at_least_two(_inside(root), root), root
    found = [root / each for each in wanted]
    if missing := [file for file in found if not file.is_file()]:
        raise UsageError(
            f"{len(missing)} of {len(found)} pictures of data '{name}' are missing, the first is {missing[0]}; add "
            "them, or name another folder with --images FOLDER"
        )
    return name, _at_least_two(found, root), root


def _named(card: data_cards.DataCard) -> list[str]:
    """File names of the pictures that belong to the lines, each once; empty if the lines name none."""
    file = package_file(card.prompts)
    if file.suffix.lower() == ".parquet" and card.column is None and is_manifest(file):
        return list(Manifest.load(file).images)
    lines = files.read(file, card.column, images=True)
    return list(dict.fromkeys(line.image for line in lines if line.image is not None))


def _inside(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())


def _at_least_two(found: list[Path], folder: Path) -> list[Path]:
    if len(found) < 2:
        raise UsageError(f"{folder} holds {len(found)} pictures ({', '.join(ENDINGS)}); statistics need at least 2")
    return found


def digest(pictures: Sequence[Path], root: Path) -> str:
    """16 hexadecimal digits of names and contents. A file of the same size and time of change is not read again."""
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    kept = folders.outputs() / "data" / "statistics" / f"pictures-{place}.json"
    known = _known(kept)
    found: dict[str, list[int | str]] = {}
    for file in pictures:
        name, state = file.relative_to(root).as_posix(), file.stat()
        before = known.get(name)
        if before is not None and before[:2] == [state.st_size, state.st_mtime_ns]:
            found[name] = before
            continue
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        found[name] = [state.st_size, state.st_mtime_ns, content]
    if any(known.get(name) != entry for name, entry in found.items()):
        with folders.whole_file(kept) as temporary:
            temporary.write_text(json.dumps({**known, **found}))
    text = json.dumps([[name, entry[2]] for name, entry in found.items()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _known(file: Path) -> dict[str, list[int | str]]:
    try:
        found: dict[str, list[int | str]] = typed.built(dict[str, list[int | str]], typed.read(file, largest=1 << 28))
    except (OSError, typed.NotAsHinted):
        return {}
    return {name: entry for name, entry in found.items() if [type(each) for each in entry] == [int, int, str]}
