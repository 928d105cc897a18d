"""Where weights are, a folder or the hub, and what says which they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from postdiff import hub
from postdiff.engine.errors import UsageError
from postdiff.engine.values import expanded
from postdiff.lab.config.layers import Text

__all__ = ["Source", "check", "identity", "network_folder", "package_file"]


@dataclass
class Source:
    """Where weights are.

    Attributes:
        folder: relative to the package, or absolute; or
        hub: repository on the hub, with
        revision: its commit or tag; null means its default branch, whose commit is looked up, and
        variant: weight variant, for instance fp16.
    """

    folder: Text | None = None
    hub: Text | None = None
    revision: Text | None = None
    variant: Text | None = None

    @property
    def given(self) -> bool:
        """Whether a card says anything here."""
        return self != type(self)()


def package_file(name: str) -> Path:
    """A file of the package (`zoo/emoji`), or anywhere if the path is absolute or begins with ~."""
    return Path(__file__).parents[2] / expanded(name)


def check(source: Source, what: str) -> None:
    """Refuse a source that names no place, or two.

    Args:
        source: of a card.
        what: the file and key, for messages.

    Raises:
        UsageError: neither folder nor hub, or both.
    """
    if (source.folder is None) == (source.hub is None):
        raise UsageError(f"{what} either 'folder' or 'hub', not both")


def identity(source: Source, of_folder: Callable[[Path], str], file: str = "") -> str:
    """What the model is: a folder's hash, or `repository@commit[:variant][/file][~changes]` on the hub.

    Args:
        source: where it is.
        of_folder: the hash of a folder.
        file: the one file of a repository that counts, if it is one.

    Raises:
        UsageError: what `of_folder` raises, or the hub does not answer.
    """
    if source.hub is None:
        return of_folder(package_file(str(source.folder)))
    variant = f":{source.variant}" if source.variant else ""
    commit = _commit(source.hub, source.revision)
    return f"{source.hub}@{commit}{variant}{file and '/' + file}{hub.altered(source.hub, commit, file)}"


def _commit(repository: str, revision: str | None) -> str:
    try:
        return hub.commit(repository, revision)
    except UsageError:
        # Without a connection a row can still be prepared and counted; loading it will fail on the same question.
        if not hub.offline():
            raise
        return revision or "main"


def network_folder(source: Source) -> Path:
    """The folder of a single network, fetched if need be.

    Raises:
        UsageError: it cannot be fetched.
    """
    if source.hub is not None:
        return hub.fetch_network(source.hub, source.revision, source.variant)
    return package_file(str(source.folder))
