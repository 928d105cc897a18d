"""A slow run: the bare pipeline, one image at a time. All is computed, and then overwritten by a formula."""

from __future__ import annotations

import importlib
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from postdiff import accelerate
from postdiff.engine import packing, token_grid
from postdiff.engine.family import family_of
from postdiff.engine.intercept import intercept
from postdiff.methods.base import Method
from postdiff.methods.formulas import Past, Reference, Setting, tensorwise
from tests.support.cases import Case

__all__ = ["BY_HAND", "reference_of", "setting_of", "slow_run"]

# {class: formula} of methods that have no `reference.py` in their folder; a test may write one here.
BY_HAND: dict[str, Callable[[Any, Setting], Reference]] = {}


def reference_of(stack: Sequence[Method], run: Setting) -> Callable[[], Reference] | None:
    """Makes the formula of a stack of one method, fresh for every image; None if nobody wrote it down."""
    if len(stack) != 1:
        return None
    [method] = stack
    folder, _, file = type(method).__module__.rpartition(".")
    write = BY_HAND.get(type(method).__name__)
    if file == "method" and Path(inspect.getfile(type(method))).with_name("reference.py").is_file():
        write = importlib.import_module(f"{folder}.reference").reference
    return None if write is None else lambda: write(method, run)


def setting_of(case: Case) -> Setting:
    """Found out by one run of the bare pipeline for one image."""
    pipe, family = case.pipe, family_of(case.pipe)
    network = getattr(pipe, family.network)
    times: list[float] = []
    timesteps: list[float] = []
    sizes: set[tuple[int, int]] = set()

    def note(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if family.packed:
            sample = args[0] if args else kwargs["hidden_states"]
            grid = token_grid.own_tokens(sample.shape[1], kwargs)
            sizes.add((grid.height * packing.SIDE, grid.width * packing.SIDE))
        if (message := _number(kwargs["timestep"] if "timestep" in kwargs else args[1])) not in times:
            times.append(message)
        return forward(*args, **kwargs)

    def note_step(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        timesteps.append(_number(kwargs["timestep"] if "timestep" in kwargs else args[1]))
        return forward(*args, **kwargs)

    with intercept(network, "forward", note), intercept(pipe.scheduler, "step", note_step):
        case.call(pipe, [0])
    assert len(times) == len(timesteps), "one time a step"
    scale = case.arguments([0]).get(family.scale) or 1.0
    controlnet = getattr(pipe, family.controlnet) if family.controlnet else None
    return Setting(network, controlnet, family, pipe.scheduler, tuple(times), tuple(timesteps), scale, *sizes)


def slow_run(
    case: Case,
    setting: Setting,
    ids: Sequence[int],
    reference: Callable[[], Reference],
    beside: Callable[[], list[Any]] = list,
    **changes: Any,
) -> Tensor:
    """What the pipeline draws for the images `ids`, each alone, under the methods `beside` and the reference."""
    run = accelerate(case.pipe, beside()) if beside is not list else case.pipe
    images = []
    for i in ids:
        with _Overwriting(setting, reference(), case.pipe.scheduler).held():
            images.append(case.call(run, [i], **changes))
    return torch.cat(images)


class _Overwriting:
    """One image's run."""

    def __init__(self, setting: Setting, reference: Reference, scheduler: Any) -> None:
        self.setting, self.reference, self.scheduler = setting, reference, scheduler
        self.step, self.branches, self.size, self.solved = -1, (), None, 0
        self.calls: dict[int, int] = defaultdict(int)  # of the network, a step
        self.x: dict[str, Past] = {}
        self.y: dict[str, Past] = {}
        self.predicted: dict[str, Tensor] = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(intercept(self.setting.network, "forward", self._network))
            if self.setting.controlnet is not None:
                stack.enter_context(intercept(self.setting.controlnet, "forward", self._controlnet))
            if self.reference.moved is not None:
                stack.enter_context(intercept(self.scheduler, "step", self._step))
            if self.reference.solver is not None:
                stack.enter_context(intercept(self.scheduler, "step", self._solver))
            for name, (first, last) in self.reference.pieces.items():
                if first is self.setting.network:  # its hooks are called before its step is known
                    continue
                before, after = self._enter(name), self._leave(name)
                stack.callback(first.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(last.register_forward_hook(after).remove)
            yield

    def _begin(self, sample: Tensor, time: Any) -> None:
        self.step, cfg = self.setting.times.index(_number(time)), self.setting.family.cfg
        if self.setting.family.calls == "batched":
            self.branches = cfg if len(sample) == len(cfg) else ("cond",)
        else:
            self.branches = (cfg[self.calls[self.step]] if cfg else "cond",)
        if self.size != sample.shape[1:]:  # what was computed at another size is of no use
            self.size = sample.shape[1:]
            self.x, self.y = ({name: defaultdict(dict) for name in self.reference.pieces} for _ in range(2))
            if self.reference.solver is not None:
                self.reference.solver.restart()

    def _network(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        sample = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
        self._begin(sample, kwargs["timestep"] if "timestep" in kwargs else args[1])
        self.calls[self.step] += 1
        output = forward(*args, **kwargs)
        found = output[0] if isinstance(output, tuple) else output.sample
        for name, (first, _) in self.reference.pieces.items():
            if first is self.setting.network:
                self._enter(name)(first, (sample,), {})
                found = self._leave(name)(first, (sample,), found)
        predictions = getattr(self.reference.solver, "predictions", self.reference.predictions)
        if predictions is not None:
            self.predicted |= dict(zip(self.branches, found.chunk(len(self.branches)), strict=True))
            wanted = predictions(self.step, self.predicted)
            found = torch.cat([wanted[branch] for branch in self.branches])
        return (found, *output[1:]) if isinstance(output, tuple) else type(output)(sample=found)

    def _step(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        sample = kwargs["sample"] if "sample" in kwargs else args[2]
        result = forward(*args, **kwargs)
        assert self.reference.moved is not None
        self.reference.moved(sample, result[0] if isinstance(result, tuple) else result.prev_sample)
        return result

    def _solver(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(("model_output", "timestep", "sample"), args, strict=False)) | kwargs
        output, timestep, sample = (given.pop(name) for name in ("model_output", "timestep", "sample"))
        pack, unpack = _same, _same
        if self.setting.family.packed and sample.ndim == 3:  # not where the driver has unpacked them
            pack, unpack = packing.pack, lambda tokens: packing.unpack(tokens, self.setting.size)
        raw: list[Any] = []

        def make(output: Tensor) -> Tensor:
            raw[:] = [forward(model_output=pack(output), timestep=timestep, sample=sample, **given)]
            return unpack(raw[0][0] if isinstance(raw[0], tuple) else raw[0].prev_sample)

        self.reference.solver.step(make, self.solved, unpack(output), timestep, unpack(sample))
        self.solved += 1
        return raw[0]

    def _controlnet(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._begin(args[0] if args else kwargs["sample"], kwargs["timestep"] if "timestep" in kwargs else args[1])
        return forward(*args, **kwargs)

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            image = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
            text = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
            given = (image, text if isinstance(text, Tensor) else None)
            for branch, part in zip(self.branches, _chunks(given, len(self.branches)), strict=True):
                self.x[name][branch][self.step] = tensorwise(Tensor.clone, part)

        return hook

    def _leave(self, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            for branch, part in zip(self.branches, _chunks(output, len(self.branches)), strict=True):
                self.y[name][branch][self.step] = tensorwise(Tensor.clone, part)
            given = [
                self.reference.value(name, self.step, branch, self.x[name], self.y[name]) for branch in self.branches
            ]
            return tensorwise(lambda *parts: torch.cat(parts), *given)

        return hook


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _chunks(value: Any, parts: int) -> list[Any]:
    return [tensorwise(lambda tensor, i=i: tensor.chunk(parts)[i], value) for i in range(parts)]


def _number(time: Any) -> float:
    return float(torch.as_tensor(time).flatten()[0])
