"""What must hold of every method that reuses earlier results, shipped or private: nothing here knows any of them.

A check raises an AssertionError, or anything else, where a method is wrong. It returns None where it is right, and a
reason where it has nothing to ask. Each makes sure that the method left something out and computed something again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of
from postdiff.engine.intercept import intercept
from postdiff.engine.ownership import owned, put_together, taken_apart
from postdiff.engine.replay import Watch
from postdiff.methods import CFGCutoff, EncoderPropagation, MixedResolution
from postdiff.methods.base import Method
from postdiff.methods.cache import Cache
from postdiff.methods.formulas import Setting
from postdiff.presets import build_methods
from tests.support.cases import Case
from tests.support.slow_run import reference_of, slow_run
from tests.support.subjects import IMAGES, NO_HIT, Subject, at_work, case_of, close, drawn, together
from tests.support.tiny import DEEP, build
from tests.support.work import layers_of, watched

__all__ = ["CHECKS"]

SWITCH, LEFT_OUT = 3, 3  # steps, of 6


def against_reference(subject: Subject, family: str, beside: Callable[[], list[Method]], found: Tensor, ids: list[int]):
    case, setting, _ = case_of(family)
    reference = reference_of(subject.stack(), setting)
    if reference is None:
        return "no formula"
    close(found, slow_run(case, setting, ids, reference, beside))
    return None


def check_reference(subject: Subject, family: str) -> str | None:
    """Its formula, over a run in which everything is computed."""
    return against_reference(subject, family, list, together(subject, family)[::2], list(IMAGES[::2]))


def check_reference_where_guidance_ends(subject: Subject, family: str) -> str | None:
    """The conditional branch goes on as it was."""
    case, setting, _ = case_of(family)
    if len(setting.family.cfg) < 2 or "guidance" in _resources(subject, setting.network):
        return "no guidance to end"

    def beside() -> list[Method]:
        return [CFGCutoff(gate=SWITCH)]

    found, _ = at_work(case, [*beside(), *subject.stack()], [0, 1])
    assert not torch.equal(found, drawn(case, subject.stack(), [0, 1])), "guidance did not end"
    return against_reference(subject, family, beside, found[1:], [1])


def check_reference_where_the_size_changes(subject: Subject, family: str) -> str | None:
    """What was kept at another size is of no use; the order of the two methods says nothing."""
    case, _, _ = case_of(family)

    def beside() -> list[Method]:
        return [MixedResolution(switch=SWITCH)]

    found, work = at_work(case, [*beside(), *subject.stack()], [0, 1])
    assert SWITCH in work.steps, "the first step at the new size was not computed"
    assert all(SWITCH in rows for rows in work.rows.values()), "not all of the first step at the new size was computed"
    assert torch.equal(found, drawn(case, [*subject.stack(), *beside()], [0, 1])), "order matters"
    return against_reference(subject, family, beside, found[1:], [1])


@dataclass
class LeaveOut(Method):
    """The prediction of the step before in the place of a call of the network, at one step."""

    at: int = LEFT_OUT

    def denoise(self, forward: Any, sample: Tensor, kwargs: dict[str, Any], state: Any) -> Tensor:
        if state.index == 0:
            self._kept: dict[Any, Tensor] = {}
        if state.index != self.at:
            self._kept[state.branches] = owned(forward(sample, kwargs))
        return owned(self._kept[state.branches])


def check_reference_where_a_step_is_left_out(subject: Subject, family: str) -> str | None:
    """What was due at a step at which the network is not called is computed at the next one."""
    case, _, _ = case_of(family)
    if any(type(method).__name__ == "EncoderPropagation" for method in subject.stack()):
        return "calls the network for several steps at once"
    found, _ = at_work(case, [LeaveOut(), *subject.stack()], [0, 1], leave_out=(LEFT_OUT,))
    return against_reference(subject, family, lambda: [LeaveOut()], found[1:], [1])


@dataclass
class Standstill(Method):
    """Hands the network at every step what it was handed at the first."""

    def denoise(self, forward: Any, sample: Tensor, kwargs: dict[str, Any], state: Any) -> Tensor:
        if state.index == 0:
            self._first = {**getattr(self, "_first", {}), state.branches: owned((sample, kwargs))}
        return forward(*owned(self._first[state.branches]))


def check_standstill(subject: Subject, family: str) -> str | None:
    """Where nothing changes from step to step, whatever is reused or extrapolated is right."""
    case, setting, _ = case_of(family)
    if setting.controlnet is not None or _named(subject, "EncoderPropagation"):
        return "has other sources of change"
    unguided = {setting.family.scale: 1.0} if setting.family.cfg else {}
    with watched(case.pipe, setting.network) as work:
        found = drawn(case, [Standstill(), *subject.stack()], **unguided)
    assert work.hits(), NO_HIT
    close(found, drawn(case, [Standstill()], **unguided))
    return None


def check_batch(subject: Subject, family: str) -> str | None:
    """An image in a batch is that image drawn alone."""
    found = together(subject, family)
    for i in IMAGES[::2]:
        close(found[i : i + 1], drawn(case_of(family)[0], subject.stack(), [i]))
    return None


def check_parallel(subject: Subject, family: str) -> str | None:
    """One call of the network for several steps is as many calls, also where guidance or a size ends between them."""
    case, setting, _ = case_of(family)
    if not _propagates(subject, setting):
        return "no encoder propagation beside it"
    cuts = len(setting.family.cfg) > 1 and "guidance" not in _resources(subject, setting.network)
    stacks = [(subject.stack, [0]), (subject.stack, 4), (lambda: [*subject.stack(), MixedResolution(switch=2)], [0])]
    if cuts:
        stacks.append((lambda: [*subject.stack(), CFGCutoff(gate=SWITCH)], [0]))
    for stack, keys in stacks:
        found, _ = at_work(case, [*stack(), EncoderPropagation(keys)], [0, 1])
        close(found, drawn(case, [*stack(), EncoderPropagation(keys, "sequential")], [0, 1]))
    return None


def check_second_call(subject: Subject, family: str) -> str | None:
    """A call depends on none before it: of the same images, of others, of another size, or one that broke off."""
    case, setting, bare = case_of(family)
    driver, expected = accelerate(case.pipe, subject.stack()), together(subject, family)
    ids = list(IMAGES)
    assert torch.equal(case.call(driver, ids), expected) and torch.equal(case.call(driver, ids), expected)
    case.call(driver, [2])
    if (given := case.arguments([0])).get("height"):
        case.call(driver, ids, height=given["height"] * 2, width=given["width"] * 2)
    assert torch.equal(case.call(driver, ids), expected), "a call of another batch or size is seen in the next"
    for owner, name in _places_to_break(case, setting):
        with intercept(owner, name, _breaking_off()), suppress(_Stop):
            case.call(driver, ids)
            raise AssertionError("nothing broke off")
        assert torch.equal(case.call(case.pipe, ids), bare), "an exception left something in the pipeline"
        assert torch.equal(case.call(driver, ids), expected), "a call that broke off is seen in the next"
    return None


class _Stop(Exception):
    pass


def _places_to_break(case: Case, setting: Setting) -> list[tuple[Any, str]]:
    last = list(layers_of(setting.network).values())[-1]
    return [(case.pipe.scheduler, "step"), (last, "forward")]


def _breaking_off() -> Callable[..., Any]:
    calls = iter(range(1))  # the second one does

    def around(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise _Stop
        return forward(*args, **kwargs)

    return around


def check_neutral_setting(subject: Subject, family: str) -> str | None:
    """The setting that computes everything equals the baseline, bit for bit."""
    if subject.identity is None:
        return "no neutral setting"
    case, _, bare = case_of(family)
    assert torch.equal(drawn(case, build_methods(subject.identity)), bare), "the neutral setting is not the baseline"
    assert not torch.equal(together(subject, family), bare), "the method did nothing"
    return None


def check_consumers_in_place(subject: Subject, family: str) -> str | None:
    """Whoever is given an output may write into it: a hook behind a module, or the next module itself."""
    case, setting, _ = case_of(family)
    found = []
    for change in (_scaled_in_place, _scaled):
        with _hooked(setting.network, change):
            found.append(at_work(case, subject.stack(), [0, 1])[0])
    assert torch.equal(*found), "what is kept was written to"
    with _writing_norms(setting.network):
        against_reference(subject, family, list, at_work(case, subject.stack(), [0, 1])[0][1:], [1])
    return None


@contextmanager
def _writing_norms(network: nn.Module) -> Iterator[None]:
    """The first norm of every transformer block writes into what the block was given."""

    def write(module: nn.Module, args: Any) -> None:
        args[0].mul_(1.02)

    with ExitStack() as stack:
        for name, module in network.named_modules():
            if "blocks." in name and name.endswith((".norm1", ".norm")) and ".resnets." not in name:
                stack.callback(module.register_forward_pre_hook(write).remove)
        yield


def _scaled_in_place(module: nn.Module, args: Any, output: Any) -> Any:
    for tensor in taken_apart(output)[0]:
        tensor.mul_(1.05)
    return output


def _scaled(module: nn.Module, args: Any, output: Any) -> Any:
    tensors, form = taken_apart(output)
    return put_together([tensor * 1.05 for tensor in tensors], form)


@contextmanager
def _hooked(network: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """On modules whose output nothing else holds."""
    with ExitStack() as stack:
        for name, module in network.named_modules():
            within = name.rpartition(".")[0].endswith((".attentions", ".resnets", "blocks"))
            if name.endswith(("attn", "attn1", "attn2", "ff", "mid_block")) or (
                within and not name.startswith("down_blocks")
            ):
                stack.callback(module.register_forward_hook(hook).remove)
        yield


def check_one_module_in_two_places(subject: Subject, family: str) -> str | None:
    """It is what two copies of it would be, or the network is refused in words."""
    deep = f"{family}_deep" if f"{family}_deep" in DEEP else family
    served = 0
    for part in ("", ".transformer_blocks.0.attn1", ".attn1", ".attn"):
        shared, copied = (build(deep, smallest=True) for _ in range(2))
        if not _in_two_places(shared, part, lambda module: module):
            continue
        _in_two_places(copied, part, copy.deepcopy)
        assert torch.equal(shared.call(shared.pipe), copied.call(copied.pipe)), "the two networks differ"
        try:
            found, _ = at_work(shared, subject.stack())
        except UsageError as refusal:
            assert any(words in str(refusal) for words in ("in several places", "cannot be told apart")), refusal
        else:
            assert torch.equal(found, drawn(copied, subject.stack())), f"two copies would draw something else ({part})"
        served += 1
    return None if served else "no place for it"


def _in_two_places(case: Case, part: str, change: Callable[[nn.Module], nn.Module]) -> bool:
    """Put `change` of the first of several like modules, or of a part of it, in the place of the second's."""
    network, done = getattr(case.pipe, family_of(case.pipe).network), False
    for name in ("transformer_blocks", "blocks", "down_blocks.0.attentions", "up_blocks.1.attentions"):
        with suppress(AttributeError, IndexError):
            stack = network.get_submodule(name)
            first = stack[0] if part == "" else stack.get_submodule("0" + part)
            if part == "":
                stack[1] = change(first)
            else:
                owner, _, own = ("1" + part).rpartition(".")
                setattr(stack.get_submodule(owner), own, change(first))
            done = True
    return done


def check_claims(subject: Subject, family: str) -> str | None:
    """A method stands around no module that it does not claim, and says so if it decides by features."""
    case, setting, _ = case_of(family)
    for method in subject.stack():
        rules = [replay.rule for replay in method.replays(setting.network)] if isinstance(method, Cache) else []
        looks = any(isinstance(rule, Watch) for rule in rules)
        assert method.adaptive or not looks, "decides by the features of an image, and `adaptive` says otherwise"
    claimed = {claim for method in subject.stack() for claim in method.claims(setting.network)}
    found: set[str] = set()

    def look(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        found.update(name for name, module in setting.network.named_modules() if name and "forward" in vars(module))
        return forward(*args, **kwargs)

    with intercept(case.pipe.scheduler, "step", look):
        drawn(case, subject.stack())
    assert found <= claimed, f"stands around '{min(found - claimed)}' and does not claim it"
    return None


def _resources(subject: Subject, network: nn.Module) -> set[str]:
    return {claim for method in subject.stack() for claim in method.claims(network)}


def _named(subject: Subject, *names: str) -> bool:
    return any(type(method).__name__ in names for method in subject.stack())


def _propagates(subject: Subject, setting: Setting) -> bool:
    """Whether encoder propagation can stand beside it."""
    claims = set(EncoderPropagation().claims(setting.network))
    return not claims & _resources(subject, setting.network)


CHECKS: dict[str, Callable[[Subject, str], str | None]] = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")
}
