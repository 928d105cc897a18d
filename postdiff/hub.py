"""Models on the hub: which commit a name stands for, fetched once, and one line when it cannot be had.

The hub's own switches hold: HF_HOME and HF_HUB_CACHE say where files are kept, HF_HUB_OFFLINE that nothing is fetched.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from postdiff import model_files
from postdiff.engine.errors import UsageError

__all__ = ["altered", "commit", "fetch_file", "fetch_files", "fetch_pipeline", "offline", "parts"]


OWN_FOLDER = "give model=/path/to/folder"


@functools.cache
def commit(repository: str, revision: str | None) -> str:
    """The commit behind a tag or branch, asked for once a process, so that a whole run rests on the same weights.

    Args:
        repository: "organisation/name".
        revision: a commit, tag or branch; None means the default branch.

    Returns:
        40 hexadecimal digits; without a connection, the commit that was fetched last under that name.

    Raises:
        UsageError: neither the hub nor this machine knows.
    """
    import huggingface_hub

    with _message(repository, revision):
        return huggingface_hub.resolve_revision(repository, revision=revision, local_files_only=offline()).resolved


def altered(repository: str, exact: str, file: str = "") -> str:
    """What has been changed by hand, on this machine, in a commit's files: "~" and a hash of them, or "".

    The cache names every file after its content as the hub has it.

    Args:
        repository: "organisation/name".
        exact: the commit.
        file: the one file that counts, if it is one.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots" / exact
    files = [folder / file] if file else folder.rglob("*")
    changed = [
        path
        for path in sorted(files)
        if path.is_file() and model_files.decides(path.relative_to(folder)) and not _as_fetched(path)
    ]
    return f"~{model_files.identity(changed, folder)[:16]}" if changed else ""


def fetch_pipeline(repository: str, revision: str | None, variant: str | None, given: Iterable[str] = ()) -> Path:
    """The folder of a pipeline, fetched if it is not on this machine; safetensors only.

    Args:
        repository: "organisation/name".
        revision: a commit, tag or branch; None means the default branch.
        variant: weight variant, for instance "fp16".
        given: parts of the pipeline that come from elsewhere and are left out.

    Raises:
        UsageError: it is not on this machine and cannot be fetched.
    """
    from diffusers import DiffusionPipeline

    exact = commit(repository, revision)
    with _message(repository, revision):
        folder = DiffusionPipeline.download(
            repository,
            revision=exact,
            variant=variant,
            use_safetensors=True,
            local_files_only=offline(),
            **dict.fromkeys(given),
        )
    return Path(folder)


def fetch_files(repository: str, revision: str | None, wanted: Sequence[str], remedy: str = OWN_FOLDER) -> Path:
    """The folder of a repository with some of its files, fetched if they are not on this machine.

    Args:
        repository: "organisation/name".
        revision: a commit, tag or branch; None means the default branch.
        wanted: names or patterns.
        remedy: what else one can do when they cannot be had.

    Raises:
        UsageError: they are not on this machine and cannot be fetched.
    """
    import huggingface_hub

    with _message(repository, revision, remedy):
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=list(wanted), local_files_only=offline()
        )
    return Path(folder)


def fetch_file(repository: str, revision: str | None, name: str) -> Path:
    """One file of a repository, fetched if it is not on this machine.

    Args:
        repository: "organisation/name".
        revision: a commit, tag or branch; None means the default branch.
        name: path in the repository.

    Raises:
        UsageError: it is not on this machine and cannot be fetched.
    """
    import huggingface_hub

    exact = commit(repository, revision)
    with _message(repository, revision):
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=exact, local_files_only=offline()))


def parts(place: str) -> tuple[str, str | None]:
    """Repository and revision of "organisation/name[@revision]"."""
    repository, _, revision = place.partition("@")
    return repository, revision or None


def offline() -> bool:
    """Whether the hub's own switch says that nothing is fetched."""
    import huggingface_hub

    return huggingface_hub.is_offline_mode()


def _as_fetched(file: Path) -> bool:
    if not file.is_symlink():
        return False
    link, kept = os.lstat(file), file.stat()
    name = Path(os.readlink(file)).name
    if file.suffix == model_files.WEIGHTS and kept.st_mtime_ns <= link.st_mtime_ns:
        return True  # gigabytes, and not written to since they were fetched
    if re.fullmatch("[0-9a-f]{40}", name):
        content = file.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == name  # as git names it
    return model_files.sha256(file) == name


@contextmanager
def _message(repository: str, revision: str | None, remedy: str = OWN_FOLDER) -> Iterator[None]:
    """Turn whatever goes wrong on the way to the hub into one line."""
    import diffusers
    from huggingface_hub import constants

    # Its own report of the same failure would come first, on lines of its own.
    log, level = diffusers.utils.logging, diffusers.utils.logging.get_verbosity()
    log.set_verbosity(log.CRITICAL)
    try:
        yield
    # What the hub's client raises without a connection depends on the HTTP library beneath it.
    except Exception as error:
        tried = f"{repository}@{revision or 'main'} is missing or incomplete in {constants.HF_HUB_CACHE}"
        if offline():
            why, first = "HF_HUB_OFFLINE is set, so it was not fetched", "run once without HF_HUB_OFFLINE"
        else:
            cause = error.__cause__ or error
            reason = textwrap.shorten(f"{type(cause).__name__}: {cause}", 200, placeholder=" ...")
            why, first = f"could not be fetched ({reason})", "connect once to fetch it"
        raise UsageError(f"{tried}, and {why}; {first}, or {remedy}") from error
    finally:
        log.set_verbosity(level)
