"""Looking at a tensor deep inside a module without running the rest of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from postdiff.engine.attention_kinds import first_attention
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept

__all__ = ["first_attention_input"]


class _Seen(Exception):
    """Ends a run of a block once its attention has been reached."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor = tensor


def first_attention_input(block: nn.Module, method: str, run: Callable[[], Any]) -> Tensor:
    """What a transformer block hands its first attention: its input after norm and modulation by time.

    Blocks modulate in several ways, some in a module and some in their own forward; the attention's argument is the
    same in all. The block runs up to that point only.

    Args:
        block: a transformer block with attention inside.
        method: who asks, for messages.
        run: calls the block's own forward.

    Returns:
        (rows, tokens, channels).

    Raises:
        UsageError: the block has none, or ran without reaching it.
    """
    attention = first_attention(block)
    if attention is None:
        raise UsageError(f"{method} needs blocks with a module 'attn1' or 'attn'; {type(block).__name__} has neither")

    def stop(forward: Callable[..., Any], hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise _Seen(hidden_states)

    try:
        with intercept(attention, "forward", stop):
            run()
    except _Seen as seen:
        return seen.tensor
    raise UsageError(f"{method}: {type(block).__name__} ran without its attention, which its input is judged by")
