"""How a known data set is made from its official file: data of a card, under its key `source`."""

from __future__ import annotations

from dataclasses import dataclass

from postdiff.datasets import choice, coco
from postdiff.datasets.content import is_whole, shown
from postdiff.engine.errors import UsageError, unknown

__all__ = ["KINDS", "DatasetSource", "check", "default_rule", "refuse_seed_column"]

# Kinds with the rules that choose among their lines; the first is the default.
KINDS = {"captions": coco.RULES, "prompts": choice.PROMPT_RULES, "classes": choice.CLASS_RULES}


@dataclass
class DatasetSource:
    """Where a data set comes from, and which of its lines are chosen.

    Attributes:
        kind: `captions` (a COCO annotation file), `prompts` (any file of prompts) or `classes` (a file of classes).
        file: name of the official file; of a file that ships with the package, its path there.
        url: where it is fetched from; null if it ships.
        md5: its published checksum, or
        sha256: the same with a better hash; null if none is published.
        member: the file in it that counts, if it is a zip archive.
        column: where the prompts are; null means the usual column.
        seed_column: where the lines' own seeds are; null means that they have none.
        lines: how many the whole set has; null if that is not checked.
        choose: rule; see `postdiff.datasets.coco` and `postdiff.datasets.choice`.
        count: lines to choose; null means all.
        seed: of the choice.
    """

    kind: str | None = None
    file: str | None = None
    url: str | None = None
    md5: str | None = None
    sha256: str | None = None
    member: str | None = None
    column: str | None = None
    seed_column: str | None = None
    lines: int | None = None
    choose: str | None = None
    count: int | None = None
    seed: int = 0

    @property
    def checksum(self) -> tuple[str, str] | None:
        """Name of the hash and its published value, or None."""
        if self.sha256 is not None:
            return "sha256", self.sha256
        return None if self.md5 is None else ("md5", self.md5)


def check(source_card: DatasetSource) -> None:
    """Refuse a source that cannot be followed.

    Raises:
        UsageError: no kind or rule of that name, no file, or numbers out of range.
    """
    if source_card.kind not in KINDS:
        raise unknown("kind of source", source_card.kind, KINDS)
    if source_card.file is None:
        raise UsageError("source names no 'file'; write the name of the official file")
    if source_card.choose is not None and source_card.choose not in KINDS[source_card.kind]:
        raise unknown(f"rule for {source_card.kind}", source_card.choose, KINDS[source_card.kind])
    if (source_card.count is not None and source_card.count < 1) or not is_whole(source_card.seed):
        message = f"count={shown(source_card.count)}, seed={shown(source_card.seed)}"
        raise UsageError(f"source: {message}; use a count from 1, and a seed from 0 and below 2**63")
    refuse_seed_column(source_card.kind, source_card.seed_column)


def refuse_seed_column(kind: str, column: str | None) -> None:
    """Only prompts stand in a table that can have a column of seeds, and are drawn once each.

    Raises:
        UsageError: a column of seeds for captions or classes.
    """
    if column is not None and kind != "prompts":
        reason = "come from a COCO file, which has no columns" if kind == "captions" else "may be drawn more than once"
        raise UsageError(f"a column of seeds ({shown(column)}) is for prompts, and {kind} {reason}; leave it out")


def default_rule(kind: str, drawn: bool) -> str:
    """The rule where none is named.

    Args:
        kind: one of `KINDS`.
        drawn: whether a seed is given, which only a random choice has a use for.
    """
    return "random" if drawn and kind == "prompts" else KINDS[kind][0]
