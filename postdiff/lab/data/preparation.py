"""`postdiff data prepare`: from an official or own file to a manifest, the data set that runs read."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postdiff import catalog
from postdiff.datasets import archives, choice, coco, files, source_card
from postdiff.datasets.archives import SourceFile
from postdiff.datasets.content import is_whole, shown
from postdiff.datasets.lines import Line
from postdiff.datasets.manifest import MOST_CLASSES, Manifest, Origin
from postdiff.datasets.source_card import DatasetSource
from postdiff.engine.errors import UsageError
from postdiff.engine.values import expanded
from postdiff.lab.data import data_cards
from postdiff.lab.files import folders
from postdiff.lab.files.weights import package_file

__all__ = ["PrepareOptions", "prepare"]

NAME = re.compile(r"\w[\w.-]{0,79}")  # letters of any language


@dataclass(frozen=True)
class PrepareOptions:
    """What the command line asks for; None leaves it to the card.

    Attributes:
        source: file, or folder that holds it; None means that it ships or is fetched.
        count: lines to choose.
        seed: of the choice.
        choose: rule of the choice.
        column: where the prompts are.
        seed_column: where the lines' own seeds are.
        classes: number of classes that the file names.
        seeds: "0,1,2", what runs generate with that set no seeds.
        out: file to write.
    """

    source: str | None = None
    count: int | None = None
    seed: int | None = None
    choose: str | None = None
    column: str | None = None
    seed_column: str | None = None
    classes: int | None = None
    seeds: str | None = None
    out: str | None = None


def prepare(name: str, options: PrepareOptions) -> str:
    """Make the manifest `name`.

    Returns:
        A short table: lines, rule, source files with their hashes, where it is and how it is used.

    Raises:
        UsageError: a mistake in what was asked for, in the source, or another choice of that name is there already;
            nothing is written then.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"{shown(name)} is no name for a data set; use letters, digits, '_', '-' and '.', 80 at most")
    if Path(name).suffix.lower() in files.ENDINGS:
        raise UsageError(
            f"'{name}' is a file; give the set a name: postdiff data prepare {Path(name).stem} --from {name}"
        )
    out = _out(name, options)
    card = data_cards.shipped_card(name) if name in catalog.names("data") else None
    if card is not None and card.source is None and options.source is not None and options.out is None:
        raise UsageError(
            f"data={name} is a card that reads its own file, and would go on to mean that; give the set from "
            f"{options.source} another name, or write it elsewhere with --out"
        )
    if card is None and options.source is None:
        data_cards.card(name)  # an unknown name, with the nearest suggested; or prepared before
        raise UsageError(f"data '{name}' is prepared already, and no card says from what; name the file with --from")
    done = _asked(_source(card, options), options)
    seeds = _seeds(options.seeds) if options.seeds is not None else (card and card.seeds) or [0]
    source = archives.find(done, _path(card, done, options), data_cards.downloads())
    classes = card.classes if card is not None and options.classes is None else options.classes
    manifest = _manifest(name, done, source, classes, seeds, options)
    fresh = _write(manifest, out)
    return _message(manifest, done, out, fresh)


def _out(name: str, options: PrepareOptions) -> Path:
    if options.out is None:
        folders.writable_outputs()
        return data_cards.prepared(name)
    out = expanded(options.out)
    if out.suffix != ".parquet":
        raise UsageError(f"--out {out} must end in .parquet, since a manifest is a Parquet file")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; name a file")
    return out


def _source(card: data_cards.DataCard | None, options: PrepareOptions) -> DatasetSource:
    """The card's; of a card that reads its file at once, or of an own file, what that file is."""
    if card is not None and card.source is not None:
        if options.classes is not None:
            raise UsageError("--classes is for files of your own; the card says which classes there are")
        return card.source
    if options.classes is not None and options.classes < 1:
        raise UsageError(f"--classes {options.classes} is too small; use at least 1")
    if options.classes is not None and options.classes > MOST_CLASSES:
        raise UsageError(f"--classes {shown(options.classes)} is too many; use at most {MOST_CLASSES:,}")
    numbered = (card is not None and card.classes is not None) or options.classes is not None
    columns = (card.column, card.seed_column) if card is not None else (None, None)
    return DatasetSource("classes" if numbered else None, column=columns[0], seed_column=columns[1])


def _asked(about: DatasetSource, options: PrepareOptions) -> DatasetSource:
    """The source with what the command line says."""
    if options.count is not None and options.count < 1:
        raise UsageError(f"--count {options.count} is too small; use at least 1")
    if options.seed is not None and options.seed < 0:
        raise UsageError(f"--seed {options.seed} is negative; use 0 or more")
    if options.seed is not None and not is_whole(options.seed):
        raise UsageError(f"--seed {shown(options.seed)} is too large; use one below 2**63")
    asked = {name: getattr(options, name) for name in ("count", "seed", "choose", "column", "seed_column")}
    return dataclasses.replace(about, **{name: value for name, value in asked.items() if value is not None})


def _seeds(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    found = [int(word) for word in words if word.isdecimal() and len(word) < 30]
    if len(found) != len(words) or len(set(found)) != len(words) or not all(map(is_whole, found)):
        message = text if len(text) <= 60 else shown(text)
        raise UsageError(
            f"--seeds {message} must be different whole numbers from 0 and below 2**63, for instance 0,1,2"
        )
    return found


def _path(card: data_cards.DataCard | None, about: DatasetSource, options: PrepareOptions) -> Path | None:
    """The file or folder to read, or None if the official file is to be fetched."""
    if options.source is not None:
        return expanded(options.source)
    if about.url is not None:
        return None
    shipped = about.file if about.file is not None else card and card.prompts
    return package_file(str(shipped))


def _manifest(
    name: str, about: DatasetSource, source: SourceFile, classes: int | None, seeds: list[int], options: PrepareOptions
) -> Manifest:
    kind = about.kind or ("captions" if source.text is not None and coco.is_coco(source.text) else "prompts")
    rule = about.choose or source_card.default_rule(kind, drawn=options.seed is not None)
    source_card.refuse_seed_column(kind, about.seed_column)
    if kind == "captions":
        if options.column is not None:
            raise UsageError(f"--column {options.column}: {source.where} is a COCO file, whose captions have no column")
        if source.text is None:
            raise UsageError(f"{source.where} is a Parquet file, and captions of COCO are JSON; name captions_*.json")
        lines, selection = coco.choose(coco.parse(source.text, source.where), rule, about.count, about.seed)
    elif kind == "classes":
        lines, selection = choice.choose_classes(_classes(source, about, classes), rule, about.count, about.seed)
    else:
        every = _every(source, about, images=True, seeds=about.seed_column)
        lines, selection = choice.choose_prompts(every, rule, about.count, about.seed, source.where)
    if options.seed is not None and "seed" not in selection:
        raise UsageError(f"--seed {options.seed} changes nothing, since nothing is drawn ({selection}); leave it out")
    asked = {"choose": rule, "count": about.count, "seed": about.seed, "column": about.column, "told": selection}
    if about.seed_column is not None:
        asked |= {"seed_column": about.seed_column, "told": f"{selection}, each with its own seed"}
    numbered = classes if kind == "classes" else None
    return Manifest(name, kind, asked, tuple(seeds), source.origins, tuple(lines), numbered)


def _every(source: SourceFile, about: DatasetSource, **wanted: Any) -> list[Line]:
    """All lines of a plain file, and as many as the official one has."""
    found = files.read(Path(source.where), about.column, text=source.text, **wanted)
    if about.lines is not None and len(found) != about.lines:
        raise UsageError(
            f"{source.where} has {len(found)} prompts, and the official set {about.lines}; fetch it again, or give a "
            "set of your own another name"
        )
    return found


def _classes(source: SourceFile, about: DatasetSource, classes: int | None) -> list[Line]:
    """Every class once, with its number."""
    lines = _every(source, about, classes=classes)
    labels = [line.label for line in lines if line.label is not None] or list(range(len(lines)))
    if len(lines) != classes or len(set(labels)) != classes:
        raise UsageError(
            f"{source.where} must name each of {classes} classes once, and has {len(lines)} lines; mend it"
        )
    return [dataclasses.replace(line, label=label) for line, label in zip(lines, labels, strict=True)]


def _write(manifest: Manifest, out: Path) -> bool:
    """Whether it was written; False if the same choice is there already."""
    if out.exists():
        try:
            present = Manifest.load(out)
        except UsageError as error:
            raise UsageError(f"{out} is there already and no sound manifest; remove it, or use --out") from error
        if (present.content, present.rule, present.seeds) == (manifest.content, manifest.rule, manifest.seeds):
            return False
        raise UsageError(
            f"{out} holds another choice ({present.rule.get('told')}), which records may rest on; remove it, or write "
            "elsewhere with --out"
        )
    content = manifest.to_bytes()
    with folders.atomic_write(out) as temporary:
        temporary.write_bytes(content)
    return True


def _message(manifest: Manifest, done: DatasetSource, out: Path, fresh: bool) -> str:
    rows = [("lines", f"{len(manifest.lines)}: {manifest.rule['told']}")]
    for origin in manifest.origins:
        rows.append(("source", f"{origin.file}  sha256 {origin.sha256}{_checked(origin, done)}"))
    rows.append(("content", f"sha256 {manifest.content}"))
    rows.append(("written" if fresh else "there already", str(out)))
    # Whether a run finds the manifest under its name, and not a card that reads its own file.
    by_name = out.absolute() == data_cards.prepared(manifest.name).absolute() and (
        manifest.name not in catalog.names("data") or data_cards.shipped_card(manifest.name).source is not None
    )
    own = "each line's own plus " if any(line.seed is not None for line in manifest.lines) else ""
    rows.append(("use it", f"data={manifest.name if by_name else out}  (seeds {own}{list(manifest.seeds)})"))
    width = max(len(name) for name, _ in rows)
    return "\n".join([manifest.name, *(f"  {name:{width}}  {value}" for name, value in rows)])


def _checked(origin: Origin, about: DatasetSource) -> str:
    if origin.published is None:
        return "" if about.url is None or about.checksum is not None else "  (no checksum is published)"
    return "  (as published)" if origin.published else "  (not the published file)"
