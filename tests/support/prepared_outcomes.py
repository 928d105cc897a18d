"""What becomes of a method on a prepared pipeline: the same as in plain, or one line; anything else fails."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from tests.support import tiny, tiny_presets
from tests.support.cases import Case
from tests.support.preparations import as_it_is, network
from tests.support.prepared import PREPARATIONS
from tests.support.snapshot import scheduler_keys

__all__ = ["bare", "outcome", "serves"]

LINE = 300


def outcome(preparation: str, family: str, preset: str) -> str | None:
    """None if the preset does on the prepared pipeline what it does in plain; the one line if it is refused.

    Raises:
        AssertionError: its setting without effect changes the prepared pipeline's images, its own images are not
            those of the plain twin, or something is left behind.
    """
    case, expected = bare(preparation, family)
    what, before = PREPARATIONS[preparation], shape(case)
    chosen = tiny_presets.preset(preset)
    try:
        same = call(case, chosen.identity)[0]
        found, counts = call(case, chosen.methods)
    except UsageError as refused:
        line = str(refused)
        assert len(line) < LINE and "\n" not in line, line
        assert shape(case) == before, "a refused call left something behind"
        return line
    assert torch.equal(same, expected), "the setting without effect has one"
    assert shape(case) == before, "something was left behind"
    assert torch.isfinite(found.float()).all()
    if what.twin is not None:
        wanted, usual = plain(what.twin, family, preset)
        error = float((found - wanted).abs().max() / wanted.abs().max())
        assert error <= what.tolerance, f"{error:.1e} from what it does in plain"
        assert counts == usual, "it does not do the same work"
    assert not torch.equal(found, expected), "the method did nothing"
    return None


@functools.cache
def bare(preparation: str, family: str) -> tuple[Case, Tensor]:
    """The prepared case, and what it generates bare; a driver without methods has generated the same.

    Raises:
        AssertionError: it has not, or left something behind.
    """
    case = fresh(family)
    PREPARATIONS[preparation].prepare(case)
    expected, before = case.call(case.pipe), shape(case)
    assert torch.isfinite(expected.float()).all()
    assert torch.equal(case.call(accelerate(case.pipe)), expected), "the driver alone changes the images"
    assert shape(case) == before and not scheduler_keys(case.pipe.scheduler)[1]
    return case, expected


@functools.cache
def serves(family: str, preset: str) -> bool:
    """Whether a preset generates on a family's pipeline as it is."""
    try:
        plain(as_it_is, family, preset)
    except UsageError:
        return False
    return True


@functools.cache
def plain(twin: Any, family: str, preset: str) -> tuple[Tensor, Counter[str]]:
    """What a preset generates on a case that computes the same in plain, and the work that it counts."""
    return call(_twin(twin, family), tiny_presets.preset(preset).methods)


@functools.cache
def _twin(make: Any, family: str) -> Case:
    case = fresh(family)
    make(case)
    return case


def fresh(family: str) -> Case:
    """A tiny pipeline of its own."""
    return tiny.build(family, smallest=True)


def call(case: Case, stack: Any) -> tuple[Tensor, Counter[str]]:
    """What a stack generates, and the work that it counts."""
    fast = accelerate(case.pipe, tiny_presets.build_methods(stack))
    return case.call(fast), Counter(fast.counts)


def shape(case: Case) -> dict[str, Any]:
    """Every attribute, hook and tensor of the networks and of what holds them, by name and kind.

    Offloading makes its hooks, and the tensors it brings, anew in every call of the bare pipeline as well.
    """
    found = {"pipe": sorted(vars(case.pipe))}
    for name, part in (("denoiser", network(case)), ("vae", getattr(case.pipe, "vae", None))):
        for path, module in part.named_modules() if isinstance(part, torch.nn.Module) else ():
            found[f"{name}.{path}"] = [
                (key, type(value).__name__, _inside(value)) for key, value in vars(module).items()
            ]
    return found


def _inside(value: Any) -> Any:
    """A module's own tables, and the chain of hooks behind a `forward`."""
    if isinstance(value, dict):
        return [(str(key), type(each).__name__, getattr(each, "device", None)) for key, each in value.items()]
    chain = []
    while (value := getattr(value, "__wrapped__", None)) is not None:
        chain.append(getattr(value, "__qualname__", type(value).__name__))
    return chain
