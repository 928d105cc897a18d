"""What was really computed in a run, layer by layer and step by step, seen from outside: no counter is asked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from postdiff.engine.intercept import intercept

__all__ = ["Work", "layers_of", "watched"]


class Work:
    """Rows that went through each layer with weights, {layer: {step: rows}}."""

    def __init__(self) -> None:
        self.step = 0
        self.rows: dict[str, Counter[int]] = defaultdict(Counter)

    @property
    def steps(self) -> set[int]:
        """Steps at which any layer was computed."""
        return {step for rows in self.rows.values() for step in rows}

    def hits(self, leave_out: tuple[int, ...] = ()) -> bool:
        """Whether a layer was left out at a step, of those that are to be looked at, and computed at others."""
        steps = set(range(self.step)) - {*leave_out}
        return any(steps - rows.keys() for rows in self.rows.values())

    def misses(self) -> bool:
        """Whether a layer that was left out at a step was computed at two others."""
        return any(len(rows) > 1 for rows in self.rows.values() if set(range(self.step)) - rows.keys())

    def apart(self) -> bool:
        """Whether a layer was computed for some images of a batch at a step, and for more at another."""
        return any(len(set(rows.values())) > 1 for rows in self.rows.values())


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """Modules that hold weights of their own, by name."""
    return {
        name: module for name, module in network.named_modules() if next(module.parameters(False), None) is not None
    }


@contextmanager
def watched(pipe: Any, network: nn.Module) -> Iterator[Work]:
    """The work of the pipeline's calls in the block."""
    work = Work()

    def count(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            work.rows[name][work.step] += len(output)

        return hook

    def step(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        work.step += 1
        return forward(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(intercept(pipe.scheduler, "step", step))
        for name, module in layers_of(network).items():
            if not isinstance(module, nn.ModuleList):
                stack.callback(module.register_forward_hook(count(name)).remove)
        yield work
