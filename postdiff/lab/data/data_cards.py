"""Data cards: what a set of prompts is called, and the lines that it stands for.

A data card names a file of any of the formats in `postdiff.datasets.files`, one line an image to make (per seed): its
column `prompt`, and where the model takes more than text, `image` or `class`. Such a file, a manifest among them, is
also a data set by itself, and so is a manifest that `postdiff data prepare` has put below `outputs/data`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from postdiff import catalog
from postdiff.datasets import files, source_card
from postdiff.datasets.files import PARQUET
from postdiff.datasets.lines import Line
from postdiff.datasets.manifest import MOST_CLASSES, Manifest, is_manifest
from postdiff.datasets.source_card import DatasetSource
from postdiff.engine.errors import UsageError, unknown
from postdiff.engine.values import expanded
from postdiff.lab.config.layers import Seeds, Text, checked, merged
from postdiff.lab.data import conditions, image_files
from postdiff.lab.data.conditions import ConditionConfig
from postdiff.lab.files import folders
from postdiff.lab.files.weights import package_file

__all__ = [
    *("DataCard", "Prompt", "card", "downloads", "of_manifest", "prepared", "prepared_names", "read"),
    "shipped_card",
]

# `condition: canny` is what everybody writes first.
LONG_FORM = BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)


@dataclass
class DataCard:
    """Prompts as experiments know them, with images or classes for the models that take these.

    Attributes:
        summary: one line.
        prompts: file of prompts, relative to the package or absolute.
        column: where the prompts are in it; null means the usual column, `prompt`.
        seed_column: where the lines' own seeds are in it, whole numbers from 0 and below 2**63; null means that they
            have none. A seed of the run is added to the line's, so the run's 0, which is the default, generates every
            line with its own seed, and seeds=[0,1,2] with that and the two that follow it.
        seeds: every line is sampled with each of them where a run sets none; null means [0].
        images: folder of images, relative to the package or absolute. A line's key `image` says which file of it
            belongs to the prompt; if no line has the key, the files in order of their names belong to the lines in
            order.
        masks: of the images, white where a pipeline shall repaint: one file for all of them, or a folder with one for
            each, called as the image is but for the ending.
        condition: what is made of each image before a pipeline gets it: none, canny, scribble, scribble_xdog.
        classes: number of classes, for a class-conditional model. Line i of `prompts` is the name of class i, unless
            its key `class` says which class it names. With `count` and seeds every class is sampled equally often.
        reference_statistics: safetensors file with mean, covariance and n of reference images' features, or null.
        reference_features: such a file as `postdiff data statistics` writes, for metrics of its mode; or null.
        source: how `postdiff data prepare` makes the set, which takes the place of `prompts`; or null.
    """

    summary: Text = ""
    prompts: Text = ""
    column: Text | None = None
    seed_column: Text | None = None
    seeds: Seeds | None = None
    images: str | None = None
    masks: str | None = None
    condition: Annotated[ConditionConfig, LONG_FORM, checked(conditions.build)] = field(default_factory=ConditionConfig)
    classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)] | None = None
    reference_statistics: str | None = None
    reference_features: str | None = None
    source: Annotated[DatasetSource, checked(source_card.check)] | None = None


@dataclass(frozen=True)
class Prompt:
    """One line of a data card.

    Attributes:
        prompt: the text, or a class's name.
        image: file of the image that goes in, if the card has images.
        label: number of the class, if the card has classes.
        seed: the line's own, if the card has a column of seeds.
        mask: file of the image's mask, if the card has masks.
    """

    prompt: str
    image: Path | None = None
    label: int | None = None
    seed: int | None = None
    mask: Path | None = None


def prepared(name: str) -> Path:
    """Where `postdiff data prepare` puts the manifest of that name."""
    return folders.outputs() / "data" / f"{name}.parquet"


def downloads() -> Path:
    """Where official files are kept, fetched or put there by hand."""
    return folders.outputs() / "data" / "downloads"


def prepared_names() -> list[str]:
    """Names of the manifests that are there, sorted."""
    found = prepared("any").parent.glob("*.parquet")
    return sorted(file.stem for file in found if not file.name.startswith("."))


def card(name: str) -> DataCard:
    """The data set of that name: a card, a manifest prepared before, or a file of prompts.

    Raises:
        UsageError: no such thing (the nearest name is suggested), a mistake in it, or a set still to be prepared.
    """
    known, ready = catalog.names("data"), prepared(name)
    if name in known:
        found = shipped_card(name)
        if found.source is None:
            return found
        if ready.is_file():
            return _of_file(ready, found)
        command, url = f"postdiff data prepare {name}", found.source.url
        raise UsageError(
            f"data '{name}' is not prepared yet; run '{command}', which fetches "
            + ("nothing" if url is None else f"{url}, or put that file at {downloads() / str(found.source.file)} first")
        )
    if name in prepared_names():
        return _of_file(ready, DataCard())
    if "/" in name or Path(name).suffix.lower() in files.ENDINGS:
        return _of_file(expanded(name), DataCard())
    raise unknown("data", name, [*known, *prepared_names()])


def _of_file(file: Path, about: DataCard) -> DataCard:
    found = dataclasses.replace(about, prompts=str(file.absolute()))
    if (manifest := of_manifest(found)) is None:
        return found
    summary = about.summary or f"{manifest.name}: {manifest.rule.get('told', '')}"
    return dataclasses.replace(found, summary=summary, seeds=list(manifest.seeds), classes=manifest.classes)


def shipped_card(name: str) -> DataCard:
    """The card of that name as its file has it, whether its set is prepared or not.

    Raises:
        UsageError: no such card (the nearest name is suggested), or a mistake in it.
    """
    file = catalog.path("data", name)
    found = merged(DataCard, [(str(file), catalog.read(file))])
    if bool(found.prompts) == (found.source is not None):
        raise UsageError(f"{file} must name either 'prompts' or a 'source' to prepare them from")
    if found.images is None and found.condition != ConditionConfig():
        raise UsageError(f"{file}: condition '{found.condition.name}' has no images; name their folder under 'images'")
    if found.images is None and found.masks is not None:
        raise UsageError(f"{file}: masks of no images; name the folder of those under 'images'")
    if found.source is not None and (found.column or found.seed_column):
        raise UsageError(f"{file}: 'column' and 'seed_column' of a set that is prepared stand under 'source'")
    return found


def read(data: DataCard) -> list[Prompt]:
    """All lines of a card, in the order of its file.

    Raises:
        UsageError: the file is missing or broken, or a line of it is; there are fewer images than lines, or one is
            missing or cannot be read; or classes out of range.
    """
    file = package_file(data.prompts)
    if (manifest := of_manifest(data)) is not None:
        lines: Sequence[Line] = manifest.lines
    else:
        images = data.images is not None
        lines = files.read(file, data.column, images=images, classes=data.classes, seeds=data.seed_column)
    files_of_images = [None] * len(lines) if data.images is None else _images(package_file(data.images), lines, file)
    labels = [None] * len(lines) if data.classes is None else _labels(data.classes, lines, file)
    masks = [None] * len(lines) if data.masks is None else _masks(package_file(data.masks), files_of_images)
    return [
        Prompt(line.prompt, image, label, line.seed, mask)
        for line, image, label, mask in zip(lines, files_of_images, labels, masks, strict=True)
    ]


def of_manifest(data: DataCard) -> Manifest | None:
    """The manifest that a card's lines come from; None if its file is any other, or read by columns of its own.

    Raises:
        UsageError: see `Manifest.load`.
    """
    file = package_file(data.prompts)
    plain = data.column is None and data.seed_column is None
    return Manifest.load(file) if plain and file.suffix.lower() == PARQUET and is_manifest(file) else None


def _images(folder: Path, lines: Sequence[Line], file: Path) -> list[Path]:
    """The images that lines name, or else the first ones of the folder by their names, one a line."""
    if not folder.is_dir():
        raise UsageError(f"image folder {folder} is missing; name another one in the data card")
    found = [folder / line.image for line in lines if line.image is not None]
    if not found:
        there = image_files.found_in(folder, deep=False)
        if there.unread:
            raise UsageError(
                f"{folder} holds images that are not read ({there.message}), so which belongs to which line is open; "
                "name them under a key 'image', or convert them"
            )
        if len(there.images) < len(lines):
            raise UsageError(
                f"{folder} holds {len(there.images)} images for {len(lines)} prompts of {file}; add those missing"
            )
        found = there.images[: len(lines)]
    for path in found:
        if not path.is_file():
            raise UsageError(f"image {path}, which {file} names, is missing; add it or correct the key 'image'")
        image_files.refuse_unreadable(path)
    return found


def _masks(where: Path, images: Sequence[Path | None]) -> list[Path]:
    """One mask an image, which may be one and the same."""
    if not where.exists():
        raise UsageError(f"masks {where} are missing; name another file or folder in the data card")
    found = [where] * len(images)
    if where.is_dir():
        by_name = {file.stem: file for file in image_files.found_in(where, deep=False).images}
        for place, image in enumerate(images):
            if image is None or image.stem not in by_name:
                raise UsageError(f"image {image} has no mask of its name in {where}; add it, or name one file for all")
            found[place] = by_name[image.stem]
    for file in dict.fromkeys(found):
        image_files.refuse_unreadable(file)
    return found


def _labels(classes: int, lines: Sequence[Line], file: Path) -> list[int]:
    named = [line.label for line in lines if line.label is not None]
    if not named and len(lines) != classes:
        raise UsageError(f"{file} has {len(lines)} lines for classes={classes}; write one a class, or a key 'class'")
    return named or list(range(classes))
