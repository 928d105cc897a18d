"""Fetching an official file once: with a bar, going on where it broke off, and checked before it gets its name."""

from __future__ import annotations

import hashlib
import sys
import time
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from postdiff.engine.errors import UsageError

__all__ = ["checksum", "fetch"]

TRIES = 5
WAIT_S = 1.0  # before the second try; twice as long before each further one
TIMEOUT_S = (10, 30)  # to connect, and between two pieces
PIECE = 1 << 16


def checksum(file: Path, kind: str = "sha256") -> str:
    """The hash of a file's bytes, in hexadecimal digits; `kind` is a name that hashlib knows."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()


def fetch(url: str, file: Path, expected: tuple[str, str] | None = None) -> None:
    """Fetch `url` into `file`, which appears whole and checked, or not at all.

    What a broken connection leaves behind is kept as `file` with `.part` added, and the next try goes on from its end,
    in this process or in a later one, as long as the server says that its file is still the same.

    Args:
        url: http or https.
        file: where it goes; its folder is made.
        expected: (name of a hash, its published value), or None if none is published.

    Raises:
        UsageError: no connection, the server refuses, or another file than the published one; with the remedy.
    """
    from filelock import FileLock

    file.parent.mkdir(parents=True, exist_ok=True)
    part, lock = file.with_name(file.name + ".part"), file.with_name(file.name + ".lock")
    with FileLock(lock):  # two processes may want it at once
        try:
            if not file.is_file():
                _whole(url, file, part)
                if expected is not None and (found := checksum(part, expected[0])) != expected[1]:
                    part.unlink()
                    _tag(part).unlink(missing_ok=True)
                    raise UsageError(
                        f"{url} gave a file with {expected[0]} {found}, and the published one is {expected[1]}; try "
                        f"again, or fetch it elsewhere and put it at {file}"
                    )
                part.replace(file)
                _tag(part).unlink(missing_ok=True)
        finally:
            # While it is held: whoever waits for it finds it gone, and begins again with one of its own.
            with suppress(OSError):
                lock.unlink()


def _whole(url: str, file: Path, part: Path) -> None:
    """Tries until the part is the whole file."""
    import requests

    reason, failures, most = "", 0, _size(part)
    while failures < TRIES:
        try:
            _rest(url, part)
            return
        except requests.HTTPError as error:
            answer = error.response
            reason = f"HTTP {answer.status_code} {answer.reason}" if answer is not None else "no answer"
            if answer is not None and answer.status_code < 500 and answer.status_code != 429:
                break
        except (requests.RequestException, _Short) as error:
            reason = _short_reason(error)
        # A server that breaks off again and again is borne with as long as something comes.
        failures = 0 if _size(part) > most else failures + 1
        most = max(most, _size(part))
        if failures < TRIES:
            time.sleep(WAIT_S * 2 ** max(0, failures - 1))
    raise UsageError(
        f"{url} cannot be fetched ({reason}); fetch it where there is a connection, put it at {file}, and give the "
        "same command again"
    )


class _Short(Exception):
    """The connection ended before the file did."""


def _rest(url: str, part: Path) -> None:
    """What is missing of the part, in one answer."""
    import requests

    have = _size(part)
    tag = _tag(part).read_text() if _tag(part).is_file() else ""
    headers = {"Accept-Encoding": "identity"}
    if have and tag:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        if answer.status_code == 416:  # all there already, or more than all: from the start is always right
            part.unlink()
            raise _Short("the server has no further bytes")
        answer.raise_for_status()
        goes_on = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if goes_on else 0
        strong = answer.headers.get("ETag", "")
        _tag(part).write_text("" if strong.startswith("W/") else strong or answer.headers.get("Last-Modified", ""))
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        every = 0.1 if sys.stderr.isatty() else 10.0  # seconds
        bar = tqdm(desc=part.stem, total=total, initial=have, unit="B", unit_scale=True, mininterval=every)
        with part.open("ab" if goes_on else "wb") as stream, bar:
            for piece in answer.iter_content(PIECE):
                stream.write(piece)
                bar.update(len(piece))
                have += len(piece)
    if total is not None and have != total:
        raise _Short(f"{have} of {total} bytes came")


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _tag(part: Path) -> Path:
    """What the server called the version of the file that the part is of."""
    return part.with_name(part.name + ".tag")


def _short_reason(error: Exception) -> str:
    """The innermost cause, since those around it repeat the address and object names."""
    import requests

    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return " ".join(str(error).split())[:120] or type(error).__name__
