"""Finding the file that lines come from: in a folder, in an archive, among those fetched before, or fetched now."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from postdiff.datasets import fetch, formats
from postdiff.datasets.manifest import Origin
from postdiff.datasets.recipe import Recipe
from postdiff.engine.errors import UsageError

__all__ = ["Source", "find"]


@dataclass(frozen=True)
class Source:
    """A file found.

    Attributes:
        file: on the disk; an archive if `text` was in one.
        where: its name, or that of the archive's member, for messages; its ending says the format.
        origins: what the manifest says of it.
        text: what it holds; None for Parquet, which is no text.
    """

    file: Path
    where: str
    origins: tuple[Origin, ...]
    text: str | None

    def needed_text(self) -> str:
        """The text.

        Raises:
            UsageError: it has none.
        """
        if self.text is None:
            raise UsageError(f"{self.where} is a Parquet file, and captions of COCO are JSON; name captions_*.json")
        return self.text


def find(recipe: Recipe, path: Path | None, downloads: Path) -> Source:
    """Find the file and read it.

    Args:
        recipe: which file, member and checksum the known data set has; empty for a file of one's own.
        path: a file, or a folder that holds the official one; None means fetched.
        downloads: folder where the official file is kept.

    Raises:
        UsageError: it is not there, cannot be fetched, or is damaged.
    """
    file = _fetched(recipe, downloads) if path is None else _given(recipe, path)
    official = recipe.file is not None and file.name == PurePosixPath(recipe.file).name
    published = None
    if recipe.checksum is not None and official:
        published = fetch.checksum(file, recipe.checksum[0]) == recipe.checksum[1]
        if not published and path is None:
            raise UsageError(
                f"{file} is damaged: its {recipe.checksum[0]} is not the published one; remove it to fetch it anew"
            )
    origin = Origin(file.name, fetch.checksum(file), published)
    if file.suffix.lower() == ".zip":
        return _member(file, recipe.member, origin)
    if file.suffix.lower() == ".parquet":
        return Source(file, str(file), (origin,), None)
    return Source(file, str(file), (origin,), formats.decoded(file.read_bytes(), str(file)))


def _fetched(recipe: Recipe, downloads: Path) -> Path:
    file = downloads / str(recipe.file)
    if not file.is_file():
        fetch.fetch(str(recipe.url), file, recipe.checksum)
    return file


def _given(recipe: Recipe, path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UsageError(f"{path} is no file or folder; name what the prompts are in")
    # The official file as it comes, or unpacked.
    names = [name for name in (recipe.member, recipe.file) if name is not None]
    if not names:
        raise UsageError(f"{path} is a folder, and no card says which of its files counts; name the file")
    for name in dict.fromkeys([*names, *(PurePosixPath(name).name for name in names)]):
        if (path / name).is_file():
            return path / name
    raise UsageError(f"{path} holds neither {' nor '.join(names)}; name another folder, or the file itself")


def _member(file: Path, member: str | None, archive: Origin) -> Source:
    try:
        with zipfile.ZipFile(file) as opened:
            name = member or _only(file, opened.namelist())
            content = opened.read(name)
    except KeyError:
        raise UsageError(f"{file} holds no {member}; name another archive, or the file itself") from None
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError) as error:
        raise UsageError(f"{file} is no sound zip archive ({error}); fetch it again") from None
    inside = Origin(PurePosixPath(name).name, hashlib.sha256(content).hexdigest(), archive.published)
    where = f"{file}/{name}"
    return Source(file, where, (archive, inside), formats.decoded(content, where))


def _only(file: Path, names: list[str]) -> str:
    readable = [name for name in names if PurePosixPath(name).suffix.lower() in formats.TEXTS]
    if len(readable) != 1:
        raise UsageError(f"{file} holds {len(readable)} files with prompts; unpack it and name one")
    return readable[0]
