"""Weights as cards name them, in a folder or on the hub: checked to be safe, and hashes that say which they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postdiff import hub, model_files
from postdiff.engine.errors import UsageError
from postdiff.engine.values import expanded
from postdiff.lab.config.layers import Text
from postdiff.model_files import WEIGHTS

__all__ = [
    *("Source", "check", "checked_file", "identity", "network_files", "network_folder", "networks"),
    *("package_file", "pipeline_files", "pipeline_index", "refuse_pickle"),
]

INDEX = "model_index.json"
# Never loaded: a false alarm would put a black image among those that are measured.
UNUSED = "safety_checker"
# Parts without weights, whose folders may hold a config.json all the same.
WEIGHTLESS = ("Tokenizer", "TokenizerFast", "Processor", "ImageProcessorFast", "Extractor", "Scheduler")


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


def identity(source: Source, files: Callable[[Path, str | None], list[Path]], file: str = "") -> str:
    """What the model is: a folder's hash, or `repository@commit[:variant][/file][~changes]` on the hub.

    Args:
        source: where it is.
        files: those that count of a folder and a variant of weights; the hash is over their names and contents.
        file: the one file of a repository that counts, if it is one; then the hash is over its contents.

    Returns:
        Of a folder, 16 hexadecimal digits.

    Raises:
        UsageError: what `files` raises, or the hub does not answer.
    """
    if source.hub is None:
        folder = package_file(str(source.folder))
        found = files(folder, source.variant)
        return (model_files.sha256(found[0]) if file else model_files.identity(found, folder))[:16]
    variant = f":{source.variant}" if source.variant else ""
    try:
        commit = hub.commit(source.hub, source.revision)
    except UsageError:
        # Without a connection a row can still be prepared and counted; loading it will fail on the same question.
        if not hub.offline():
            raise
        commit = source.revision or "main"
    return f"{source.hub}@{commit}{variant}{file and '/' + file}{hub.altered(source.hub, commit, file)}"


def network_folder(source: Source) -> Path:
    """The folder of a single network, fetched if need be.

    Raises:
        UsageError: it cannot be fetched.
    """
    if source.hub is not None:
        stem = "diffusion_pytorch_model" + (f".{source.variant}" if source.variant else "")
        wanted = ["config.json", f"{stem}{WEIGHTS}", f"{stem}-*{WEIGHTS}", "*.index*.json"]
        return hub.fetch_files(source.hub, hub.commit(source.hub, source.revision), wanted)
    return package_file(str(source.folder))


def pipeline_index(folder: Path) -> dict[str, Any]:
    """What a pipeline's `model_index.json` says.

    Raises:
        UsageError: there is none, or it is no mapping in JSON.
    """
    index = folder / INDEX
    if not index.is_file():
        raise UsageError(f"{folder} is not a diffusers pipeline: no {INDEX}; make one with save_pretrained")
    reason = "it is no mapping"
    try:
        if isinstance(found := json.loads(index.read_text(encoding="utf-8")), dict):
            return found
    except (ValueError, RecursionError) as error:
        reason = str(error)[:80]
    raise UsageError(f"{index} is not valid JSON ({reason}), or names no parts; save it again with save_pretrained")


def pipeline_files(folder: Path, variant: str | None = None, without: Iterable[str] = ()) -> list[Path]:
    """The files that a pipeline is read from: its index and those of its parts.

    Args:
        folder: of the pipeline.
        variant: of the weights, for instance "fp16".
        without: parts that come from elsewhere.

    Raises:
        UsageError: it is no pipeline, or weights of a part are missing, in pickle format only or lead to a pickle.
    """
    files = [folder / INDEX]
    for name, value in pipeline_index(folder).items():
        named = isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)
        if not named or name.startswith("_") or name in (UNUSED, *without):
            continue
        part = folder / name
        if Path(name).name != name or not part.is_dir():
            raise UsageError(f"{folder} cannot be loaded as it has no folder of its part '{name}'; {model_files.FETCH}")
        weighted = (part / "config.json").is_file() and not value[1].endswith(WEIGHTLESS)
        files += model_files.of_part(part, variant, weighted=weighted)
    return files


def networks(folder: Path) -> dict[str, str]:
    """{part of a pipeline that has weights: the library whose class it is}.

    Raises:
        UsageError: it is no pipeline.
    """
    parts = {name: value for name, value in pipeline_index(folder).items() if isinstance(value, list) and all(value)}
    return {
        name: str(library)
        for name, (library, cls) in parts.items()
        if (folder / name / "config.json").is_file() and not str(cls).endswith(WEIGHTLESS)
    }


def network_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The files that a network by itself is read from.

    Raises:
        UsageError: it is none, or its weights are missing, in pickle format only or lead to a pickle.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is not a diffusers network: no config.json; make one with save_pretrained")
    return model_files.of_part(folder, variant, strict=True)


def checked_file(folder: Path, name: str, what: str) -> Path:
    """A weight file that a card names.

    Args:
        folder: where it should be.
        name: as the card's `weight_name` says.
        what: key of the card, for messages.

    Raises:
        UsageError: it is missing, or in pickle format.
    """
    file = folder / name
    refuse_pickle(file, what)
    if not file.is_file():
        there = sorted(other.name for other in folder.glob(f"*{WEIGHTS}")) if folder.is_dir() else []
        raise UsageError(
            f"{what} file {file} is missing; name the right one under 'weight_name'"
            + (f" ({', '.join(there[:5])} is there)" if there else "")
        )
    model_files.refuse_disguised(file)
    return file


def refuse_pickle(file: Path, what: str) -> None:
    """Take nothing but safetensors.

    Raises:
        UsageError: the file's name ends otherwise.
    """
    if file.suffix != WEIGHTS:
        raise UsageError(
            f"{what} file {file} is not in safetensors format; other formats can run code when loaded: convert it "
            "where you trust it, with safetensors.torch.save_file"
        )
