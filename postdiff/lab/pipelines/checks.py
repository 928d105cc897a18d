"""What is refused around the loading of a pipeline: values in its configs, parts of another kind, missing weights.

Whether configs fit their weights, their loader finds out. But some values take all memory or hours first, and others
are passed over in silence.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

from torch import nn

from postdiff import model_files
from postdiff.engine.errors import UsageError, shown
from postdiff.engine.intercept import intercept
from postdiff.lab.config import schedulers
from postdiff.lab.config.layers import MOST_PIXELS

__all__ = ["check_parts", "check_values", "check_words", "complete"]

LARGEST_FILE = 4_000_000
MOST, MOST_LAYERS = 10**9, 1000  # of any number, and of layers or blocks
SIZES = ("sample_size", "image_size", "patch_size")
AGAIN = "save the model again with save_pretrained"
LIBRARIES = ("diffusers", "transformers")
RANDOM = "newly initialized"  # how diffusers warns that weights which its files lack are random numbers


def check_values(files: Iterable[Path]) -> None:
    """Refuse configs with values that no network, scheduler or tokenizer has.

    Args:
        files: of a model; those that are no configs are passed over.

    Raises:
        UsageError: a config cannot be read, or a value in it is out of all bounds.
    """
    for file in files:
        if file.name not in ("config.json", "scheduler_config.json", "tokenizer_config.json"):
            continue
        try:
            if not file.is_file() or file.stat().st_size > LARGEST_FILE:
                raise ValueError("no file of that kind")
            values = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("no keys and values")
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{file} cannot be read as JSON ({shown(error, 80)}); {AGAIN}") from None
        length = values.get("model_max_length", 1)
        try:
            if file.name == "config.json":
                _check_network(values)
            elif file.name == "scheduler_config.json":
                schedulers.check_config(values)
            # What stands for "no limit" in published tokenizers is far beyond any length.
            elif not isinstance(length, int | float) or isinstance(length, bool) or not length >= 1:
                raise UsageError(f"model_max_length={shown(length)} is no number of words; {AGAIN}")
        except UsageError as error:
            raise UsageError(f"{file}: {error}") from None


def _check_network(values: Any, key: str = "") -> None:
    if isinstance(values, dict):
        for name, value in values.items():
            _check_network(value, name)
    elif isinstance(values, list):
        if key in SIZES and len(values) not in (2, 3):
            raise UsageError(f"{key}={shown(values)} is no height and width; {AGAIN}")
        for value in values:
            _check_network(value, key)
    elif isinstance(values, int | float):
        counted = "layers" in key or "blocks" in key or key in SIZES
        most = MOST_PIXELS if key in SIZES else MOST_LAYERS if counted else MOST
        least = 1 if key in SIZES else 0 if counted else -most
        if not least <= values <= most:
            raise UsageError(f"{key}={shown(values, 30)} is out of bounds; {least} to {most} are taken")
    elif key in SIZES and values is not None:
        raise UsageError(f"{key}={shown(values)} is no number; {AGAIN}")


def check_parts(cls: Any, parts: Mapping[str, Any]) -> None:
    """Refuse networks that a pipeline class would pass over in silence, or fail with in mid-run.

    Args:
        cls: of the pipeline.
        parts: networks from elsewhere, by the names that the class has for them; None for one that is left out.

    Raises:
        UsageError: it takes none of that name, or one of another class.
    """
    known, types = inspect.signature(cls.__init__).parameters, cls._get_signature_types()
    for name, part in parts.items():
        if name not in known:
            raise UsageError(f"{cls.__name__} takes no '{name}'; leave it out of the model card")
        wanted = [one for one in types.get(name, ()) if isinstance(one, type)]
        if part is not None and wanted and not isinstance(part, tuple(wanted)):
            names = " or ".join(one.__name__ for one in wanted)
            raise UsageError(
                f"'{name}' is {type(part).__name__}, and {cls.__name__} takes {names}; name another folder"
            )


def check_words(pipe: Any, folder: Path) -> None:
    """Refuse a tokenizer without its vocabulary, which is made in silence and knows no word.

    Raises:
        UsageError: a part of the pipeline in that folder is such a one.
    """
    for name, part in pipe.components.items():
        known = [*getattr(part, "vocab_files_names", {}).values(), "tokenizer.model", "tekken.json"]
        if len(known) > 2 and not any((folder / name / file).is_file() for file in known):
            raise UsageError(f"{folder / name} has no vocabulary ({' or '.join(known[:-2])}); {model_files.FETCH}")


def complete(make: Callable[[], Any], *, silent: bool = True) -> Any:
    """What is loaded, if all of its weights were there; what libraries say is held back until all is well.

    Args:
        make: loads and gives it: a pipeline, a network, or nothing.
        silent: whether diffusers then says nothing: what is wrong it raises as well. Who sets DIFFUSERS_VERBOSITY
            wants to read its warnings all the same.

    Raises:
        ValueError: some weights are missing, and would be random numbers.
    """
    from transformers import modeling_utils

    def around(report: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
        found = inspect.signature(report).bind(model, *args, **kwargs).arguments.get("loading_info")
        if missing := sorted(getattr(found, "missing_keys", None) or ()):
            raise _lacking(model, missing)
        return report(model, *args, **kwargs)

    kept = BufferingHandler(10**6)
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    with warnings.catch_warnings(record=True) as warned, intercept(modeling_utils, "log_state_dict_report", around):
        for logger in loggers:
            logger.handlers, logger.propagate = [kept], False
            logger.setLevel(min(logger.getEffectiveLevel(), logging.WARNING))
        try:
            made = make()
        finally:
            for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
                logger.handlers, logger.propagate = handlers, propagate
                logger.setLevel(level)
    for part in getattr(made, "components", {"": made}).values():
        named = part.named_parameters() if isinstance(part, nn.Module) else ()
        if missing := [name for name, weight in named if weight.is_meta]:
            raise _lacking(part, missing)
    for record in kept.buffer:
        if RANDOM in (said := record.getMessage()):
            raise ValueError(f"weights would be random: {shown(said, 120)}")
        asked = "DIFFUSERS_VERBOSITY" in os.environ and record.levelno < logging.ERROR
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno) and (asked or not silent or not record.name.startswith("diffusers")):
            logger.handle(record)
    for one in warned:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return made


def _lacking(model: nn.Module, missing: list[str]) -> ValueError:
    return ValueError(f"{len(missing)} weights of its {type(model).__name__} are missing: {missing[0]}, ...")
