"""Reference images of a data set: which files, and a hash over names and contents that is quick the second time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from postdiff import model_files
from postdiff.datasets import files
from postdiff.engine.errors import UsageError
from postdiff.engine.values import expanded
from postdiff.lab.data import data_cards, image_files
from postdiff.lab.files import folders, typed
from postdiff.lab.files.weights import package_file

__all__ = ["Digest", "Listed", "digest", "listed"]


@dataclass(frozen=True)
class Listed:
    """Reference images.

    Attributes:
        name: of the data.
        files: in order.
        root: folder that they are in.
        passed: other files of that folder in words, by their endings; empty if there are none, or the data name files.
    """

    name: str
    files: list[Path]
    root: Path
    passed: str = ""


def listed(name: str, images: Path | None) -> Listed:
    """The reference images of a data set.

    Args:
        name: of a data set, or a folder; a folder is called by its own name.
        images: folder of a data set's images; None means the one that its card names.

    Raises:
        UsageError: no such data set or folder, no images, fewer than two, or one is missing.
    """
    folder = expanded(name)
    if images is None and folder.is_dir():
        return _whole_folder(folder.resolve().name, folder)
    card = data_cards.card(name)
    if images is None and card.images is None:
        raise UsageError(f"data '{name}' names no folder of images; add --images FOLDER")
    root = package_file(str(card.images)) if images is None else expanded(str(images))
    if not root.is_dir():
        raise UsageError(f"image folder {root} is missing; name another one with --images FOLDER")
    wanted = _named(card)
    if not wanted:
        return _whole_folder(name, root)
    found = [root / each for each in wanted]
    if missing := [file for file in found if not file.is_file()]:
        raise UsageError(
            f"{len(missing)} of {len(found)} images of data '{name}' are missing, the first is {missing[0]}; add "
            "them, or name another folder with --images FOLDER"
        )
    _refuse_fewer_than_two(found, root)
    return Listed(name, found, root)


def _named(card: data_cards.DataCard) -> list[str]:
    """File names of the images that belong to the lines, each once; empty if the lines name none."""
    if (manifest := data_cards.of_manifest(card)) is not None:
        return list(manifest.images)
    lines = files.read(package_file(card.prompts), card.column, images=True)
    return list(dict.fromkeys(line.image for line in lines if line.image is not None))


def _whole_folder(name: str, folder: Path) -> Listed:
    found = image_files.found_in(folder, deep=True)
    _refuse_fewer_than_two(found.images, folder, found.message)
    return Listed(name, found.images, folder, found.message)


def _refuse_fewer_than_two(found: list[Path], folder: Path, passed: str = "") -> None:
    if len(found) < 2:
        others = f" and {passed}" if passed else ""
        endings = ", ".join(image_files.ENDINGS)
        raise UsageError(f"{folder} holds {len(found)} images ({endings}){others}; statistics need at least 2")


@dataclass(frozen=True)
class Digest:
    """What images are.

    Attributes:
        value: 16 hexadecimal digits of names and contents.
        place: file that says which contents were read before.
        known: what is to stand there, {name: [size, time of change, SHA-256]}; None if it does already.
    """

    value: str
    place: Path
    known: dict[str, list[int | str]] | None

    def keep(self) -> None:
        """Remember the contents, so that next time no file of the same size and time of change is read again."""
        if self.known is not None:
            with folders.atomic_write(self.place) as temporary:
                temporary.write_text(json.dumps(self.known))


def digest(images: Sequence[Path], root: Path) -> Digest:
    """What images are; nothing is written before `Digest.keep`, since what follows may fail.

    Args:
        images: files.
        root: folder that they are in.
    """
    place = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
    kept = folders.outputs() / "data" / "statistics" / f"images-{place}.json"
    known = _known(kept)
    found: dict[str, list[int | str]] = {}
    for file in images:
        name, state = file.relative_to(root).as_posix(), file.stat()
        before = known.get(name)
        if before is not None and before[:2] == [state.st_size, state.st_mtime_ns]:
            found[name] = before
            continue
        found[name] = [state.st_size, state.st_mtime_ns, model_files.sha256(file)]
    text = json.dumps([[name, entry[2]] for name, entry in found.items()])
    fresh = any(known.get(name) != entry for name, entry in found.items())
    return Digest(hashlib.sha256(text.encode()).hexdigest()[:16], kept, {**known, **found} if fresh else None)


def _known(file: Path) -> dict[str, list[int | str]]:
    try:
        found: dict[str, list[int | str]] = typed.built(dict[str, list[int | str]], typed.read(file, largest=1 << 28))
    except (OSError, typed.NotAsHinted):
        return {}
    return {name: entry for name, entry in found.items() if [type(each) for each in entry] == [int, int, str]}
