"""Finding the file that lines come from: in a folder, in an archive, among those fetched before, or fetched now."""

from __future__ import annotations

import hashlib
import lzma
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from postdiff.datasets import content, fetch, files
from postdiff.datasets.content import MB, MOST_BYTES, MOST_STORED, shown
from postdiff.datasets.manifest import Origin
from postdiff.datasets.source_card import DatasetSource
from postdiff.engine.errors import UsageError

__all__ = ["SourceFile", "find"]

ARCHIVE = ".zip"
MOST_DIRECTORY = 16 * MB  # of an archive's table of contents, enough for some 200,000 files


@dataclass(frozen=True)
class SourceFile:
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


def find(source_card: DatasetSource, path: Path | None, downloads: Path) -> SourceFile:
    """Find the file and read it.

    Args:
        source_card: which file, member and checksum the known data set has; empty for a file of one's own.
        path: a file, or a folder that holds the official one; None means fetched.
        downloads: folder where the official file is kept.

    Raises:
        UsageError: it is not there, cannot be fetched, is damaged, of no known format or too large.
    """
    file = downloads / str(source_card.file) if path is None else _given(source_card, path)
    if path is None and not file.is_file():
        fetch.fetch(str(source_card.url), file, source_card.checksum)
    ending = file.suffix.lower()
    stored = ending in (ARCHIVE, files.PARQUET)
    # Before its checksum, which reads it whole.
    content.refuse_larger(file, MOST_STORED if stored else MOST_BYTES, "a file of prompts")
    if ending != ARCHIVE:
        files.check_ending(str(file), files.ENDINGS)
    official = source_card.file is not None and file.name == PurePosixPath(source_card.file).name
    published = None
    if source_card.checksum is not None and official:
        published = fetch.checksum(file, source_card.checksum[0]) == source_card.checksum[1]
        if not published and path is None:
            raise UsageError(
                f"{file} is damaged: its {source_card.checksum[0]} is not the published one; remove it to fetch it anew"
            )
    if ending == ARCHIVE:
        return _member(file, source_card.member, published)
    origin = Origin(file.name, fetch.checksum(file), published)
    if ending == files.PARQUET:
        return SourceFile(file, str(file), (origin,), None)
    return SourceFile(file, str(file), (origin,), content.read_text(file))


def _given(source_card: DatasetSource, path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UsageError(f"{path} is no file or folder; name what the prompts are in")
    # The official file as it comes, or unpacked.
    names = [name for name in (source_card.member, source_card.file) if name is not None]
    if not names:
        raise UsageError(f"{path} is a folder, and no card says which of its files counts; name the file")
    for name in dict.fromkeys([*names, *(PurePosixPath(name).name for name in names)]):
        if (path / name).is_file():
            return path / name
    raise UsageError(f"{path} holds neither {' nor '.join(names)}; name another folder, or the file itself")


def _member(file: Path, member: str | None, published: bool | None) -> SourceFile:
    """What counts of an archive, unpacked in memory; sizes are looked at first, since a bomb grows a thousandfold."""
    try:
        _refuse_long_directory(file)
        with zipfile.ZipFile(file) as opened:
            name = member or _only(file, opened.namelist())
            size = opened.getinfo(name).file_size
            if size > MOST_BYTES:
                raise UsageError(
                    f"{file}: {shown(name)} has {size / MB:,.0f} MB unpacked, and a file of prompts may have "
                    f"{MOST_BYTES // MB} MB; use a part of it"
                )
            with opened.open(name) as stream:
                found = stream.read(size)
    except KeyError:
        raise UsageError(f"{file} holds no {member}; name another archive, or the file itself") from None
    except UsageError:
        raise
    except (
        *(zipfile.BadZipFile, OSError, RuntimeError, EOFError, ValueError),
        *(zlib.error, lzma.LZMAError, struct.error, OverflowError),
    ) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"{file} is no sound zip archive ({reason}); fetch it again") from None
    archive = Origin(file.name, fetch.checksum(file), published)
    inside = Origin(PurePosixPath(name).name, hashlib.sha256(found).hexdigest(), published)
    where = f"{file}/{name}"
    return SourceFile(file, where, (archive, inside), content.decoded(found, where))


def _refuse_long_directory(file: Path) -> None:
    """Refuse an archive of millions of files before all of their names are read."""
    with file.open("rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - (1 << 16) - 100))
        end = stream.read()
    place, large = end.rfind(b"PK\5\6"), end.rfind(b"PK\6\6")
    size = int.from_bytes(end[place + 12 : place + 16], "little") if place >= 0 else 0
    if size == 0xFFFFFFFF and large >= 0:  # too large for the old field
        size = int.from_bytes(end[large + 40 : large + 48], "little")
    if size > MOST_DIRECTORY:
        raise UsageError(f"{file} holds too many files to look through; unpack it and name the one with the prompts")


def _only(file: Path, names: list[str]) -> str:
    # Macs put a file of their own beside every one.
    own = [name for name in names if not PurePosixPath(name).name.startswith("._")]
    readable = [name for name in own if PurePosixPath(name).suffix.lower() in files.TEXTS]
    if len(readable) != 1:
        raise UsageError(f"{file} holds {len(readable)} files with prompts; unpack it and name one")
    return readable[0]
