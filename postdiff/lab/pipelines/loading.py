"""Around the loading of a pipeline: parts that its class takes, weights that are all there, and no lines but ours."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from postdiff.engine.errors import UsageError, shown

__all__ = ["check_parts", "complete"]

LIBRARIES = ("diffusers", "transformers")
# How they tell, in a warning, that weights which their files lack are random numbers.
RANDOM = ("newly initialized", "MISSING")


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


@contextmanager
def complete(model: str) -> Iterator[None]:
    """Refuse a model in whose files weights are missing; what libraries say is held back until all is well.

    Args:
        model: its name, for the message.

    Raises:
        UsageError: some of its weights would be random numbers.
    """
    kept = _Kept()
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    with warnings.catch_warnings(record=True) as warned:
        for logger in loggers:
            logger.handlers, logger.propagate = [kept], False
            logger.setLevel(min(logger.getEffectiveLevel(), logging.WARNING))
        try:
            yield
        except NotImplementedError as error:
            if "meta tensor" not in str(error):
                raise
            raise _lacks(model, "some have no numbers at all") from error
        finally:
            for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
                logger.handlers, logger.propagate = handlers, propagate
                logger.setLevel(level)
    for record in kept.records:
        said = record.getMessage()
        if any(sign in said for sign in RANDOM):
            raise _lacks(model, f"they would be random: {shown(said, 120)}")
        if logging.getLogger(record.name).isEnabledFor(record.levelno):
            logging.getLogger(record.name).handle(record)
    for one in warned:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _lacks(model: str, told: str) -> UsageError:
    return UsageError(f"model '{model}' lacks weights ({told}); fetch it again, or save it again with save_pretrained")


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
