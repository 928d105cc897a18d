"""What a model is, as its card's structure file has it: whether it can be planned at all, and with which space."""

from __future__ import annotations

from typing import Any

from postdiff import catalog
from postdiff.engine.errors import UsageError, shown

__all__ = ["kind_of", "refuse"]


def kind_of(card: Any) -> str:
    """Whether a model's network is a "unet" or a "transformer".

    Args:
        card: its model card, with a structure.
    """
    content = catalog.read(catalog.path("structures", card.structure))
    return "unet" if "UNet" in str(content.get("network", {}).get("class")) else "transformer"


def refuse(name: str, card: Any) -> None:
    """Refuse a model whose work cannot be counted beforehand.

    Args:
        name: of the model.
        card: its card.

    Raises:
        UsageError: it is several pipelines, or its card names no structure.
    """
    if card.stages:
        raise UsageError(
            f"model '{shown(name)}' is {len(card.stages)} pipelines in turn, and a plan is of one; use another model"
        )
    if card.structure is None:
        raise UsageError(
            f"model '{shown(name)}' names no structure, so its work cannot be counted before it is done; write a model "
            "card with one (configs/structures)"
        )
