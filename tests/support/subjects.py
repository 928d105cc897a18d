"""Stacks that the generic checks are asked of, tiny pipelines for them, and what they draw."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from postdiff import accelerate, catalog
from postdiff.engine.family import family_of
from postdiff.methods.base import Method
from postdiff.methods.formulas import Setting
from tests.methods.test_properties import NO_ENCODER, NO_GUIDANCE, REFUSED
from tests.support.cases import Case
from tests.support.slow_run import setting_of
from tests.support.tiny import build
from tests.support.tiny_presets import build_methods, preset
from tests.support.work import Work, watched

__all__ = [
    "CACHES",
    "IMAGES",
    "NO_HIT",
    "SETTINGS",
    "Subject",
    "asked",
    "at_work",
    "case_of",
    "close",
    "drawn",
    "private",
    "subject",
    "together",
]

IMAGES = (0, 1, 2)
NO_HIT = "the method left nothing out; choose another setting"
CHAINS = ("dbcache", "first_block_cache", "mag_cache", "sea_cache", "tea_cache")
AT_SOLVER = ("lazy_cache", "sada")
ALIKE = "sada"  # in six steps of tiny networks hardly any two images differ; its own tests have some that do
DECIDED_WHOLE = ("adaptive_diffusion", "easy_cache")
CACHES = (
    *("block_cache", "cross_attention_cache", "deepcache", "deepcache_nonuniform", "encoder_propagation", "fora"),
    *(
        "pyramid_attention_broadcast",
        "taylor_seer",
        "tgate",
        *CHAINS,
        *DECIDED_WHOLE,
        "spectrum",
        "step_mask",
        *AT_SOLVER,
    ),
)
# What presets do not reach: {name, which begins with a preset's: stack}.
SETTINGS: dict[str, list[Any]] = {
    "adaptive_diffusion: every second": [{"adaptive_diffusion": {"threshold": 9.0, "warmup": 3, "last": 0, "most": 1}}],
    "cross_attention_cache: mean": [{"cross_attention_cache": {"gate": 2, "fill": "ave", "text": "uncond"}}],
    "cross_attention_cache: guided": [{"cross_attention_cache": {"gate": 2, "fill": "cfg"}}],
    "cross_attention_cache: first unguided": [{"cross_attention_cache": {"gate": 2, "fill_step": "first_unguided"}}],
    "cross_attention_cache: no cutoff": [{"cross_attention_cache": {"gate": 2, "cutoff": False}}],
    "dbcache: back": [
        {"dbcache": {"front": 1, "back": 1, "threshold": 0.4, "warmup": 0, "most": 3, "in_a_row": 2, "last": 1}}
    ],
    "deepcache: restarts": [{"deepcache": {"interval": 3, "branch": 2, "restarts": [1]}}],
    "encoder_propagation: sequential": [{"encoder_propagation": {"keys": 2, "decoding": "sequential"}}],
    "first_block_cache: higher": [{"first_block_cache": {"threshold": 0.5}}],
    "mag_cache: measured ratios": [
        {"mag_cache": {"ratios": [1.0, 0.9, 0.8, 1.15, 0.97, 0.9], "threshold": 0.25, "retention": 0.1, "most": 2}}
    ],
    "sada: every other": [{"sada": {"first": 0, "late": 0, "interval": 2, "terms": 2}}],
    "sada: true lengths": [{"sada": {"first": 0, "late": 50, "scale": "ode"}}],
    "spectrum: penalised": [
        {"spectrum": {"warmup": 2, "growth": 0.0, "intercept": "penalised", "history": 2, "degree": 1}}
    ],
    "step_mask: chebyshev": [{"step_mask": {"computed": [0, 1, 2, 4], "fill": "chebyshev"}}],
    "step_mask: residual": [{"step_mask": {"computed": [0, 1, 4], "fill": "residual"}}],
    "step_mask: quadratic": [{"step_mask": {"computed": [0, 1, 3, 4], "fill": "quadratic"}}],
    "taylor_seer: unequal distances": [{"taylor_seer": {"interval": 2, "order": 2, "warmup": 2}}],
    "tea_cache: polynomial": [{"tea_cache": {"threshold": 0.6, "polynomial": [2.0, -0.5, 0.3]}}],
    "tgate: both intervals": [
        {"tgate": {"gate": 4, "self_attention_interval": 2, "fidelity_interval": 3, "warmup": 0, "text": "cond"}}
    ],
}
# At these images decide apart, with guidance and without, and after a change of size: {(preset, family): threshold}.
THRESHOLDS = {
    ("dbcache", "dit"): 0.5,
    ("dbcache", "pixart_alpha"): 0.35,
    ("dbcache", "sd3"): 0.5,
    ("dbcache", "sana"): 0.09,
    ("dbcache", "hunyuan"): 0.5,
    ("dbcache", "flux"): 0.5,
    ("dbcache", "qwen_image"): 0.5,
    ("dbcache", "wan"): 0.12,
    ("adaptive_diffusion", "sd"): 0.1,
    ("adaptive_diffusion", "dit"): 0.1,
    ("adaptive_diffusion", "flux_cfg"): 0.04,
    ("adaptive_diffusion", "controlnet"): 0.1,
    ("adaptive_diffusion", "inpaint9"): 0.1,
    ("adaptive_diffusion", "animatediff"): 0.1,
    ("adaptive_diffusion", "sana"): 0.1,
    ("adaptive_diffusion", "lcm"): 0.055,
    ("adaptive_diffusion", "hunyuan"): 0.085,
    ("adaptive_diffusion", "sd3"): 0.13,
    ("adaptive_diffusion", "qwen_image"): 0.02,
    ("adaptive_diffusion", "wan"): 0.1,
    ("easy_cache", "dit"): 1.5,
    ("easy_cache", "sdxl"): 1.5,
    ("easy_cache", "animatediff"): 0.8,
    ("easy_cache", "text_to_video"): 1.1,
    ("easy_cache", "qwen_image"): 0.32,
    ("easy_cache", "flux_cfg"): 0.4,
    ("easy_cache", "sd3"): 0.4,
    ("easy_cache", "flux"): 0.4,
    ("easy_cache", "lcm"): 0.8,
    ("easy_cache", "sana"): 0.8,
    ("easy_cache", "hunyuan"): 0.8,
    ("easy_cache", "cogview4"): 0.2,
    ("easy_cache", "wan"): 0.6,
    ("first_block_cache", "dit"): 0.5,
    ("first_block_cache", "pixart_alpha"): 0.2,
    ("first_block_cache", "sd3"): 0.5,
    ("first_block_cache", "sana"): 0.07,
    ("first_block_cache", "hunyuan"): 0.5,
    ("first_block_cache", "flux"): 0.5,
    ("first_block_cache", "qwen_image"): 0.5,
    ("first_block_cache", "wan"): 0.15,
    ("lazy_cache", "sd"): 0.1,
    ("lazy_cache", "flux_cfg"): 0.3,
    ("lazy_cache", "sdxl"): 0.1,
    ("lazy_cache", "controlnet"): 0.1,
    ("lazy_cache", "inpaint9"): 0.1,
    ("lazy_cache", "text_to_video"): 0.09,
    ("lazy_cache", "animatediff"): 0.12,
    ("lazy_cache", "flux"): 0.3,
    ("lazy_cache", "qwen_image"): 0.15,
    ("lazy_cache", "cogview4"): 0.05,
    ("lazy_cache", "wan"): 0.5,
    ("sea_cache", "dit"): 1.2718,
    ("sea_cache", "flux_cfg"): 0.9787,
    ("sea_cache", "pixart_alpha"): 1.1765,
    ("sea_cache", "sd3"): 0.9424,
    ("sea_cache", "sana"): 1.5291,
    ("sea_cache", "hunyuan"): 1.6089,
    ("sea_cache", "flux"): 0.9758,
    ("sea_cache", "qwen_image"): 0.9708,
    ("sea_cache", "cogview4"): 0.9454,
    ("sea_cache", "wan"): 1.5473,
    ("tea_cache", "pixart_alpha"): 0.3,
    ("tea_cache", "sana"): 0.3,
    ("tea_cache", "wan"): 0.2,
}


@dataclass(frozen=True)
class Subject:
    """A stack to check; two of one name are one.

    Attributes:
        specs: as in a preset.
        identity: a setting that must equal the baseline; None if there is no such.
    """

    name: str
    specs: Any = field(compare=False)
    identity: Any = field(compare=False, default=None)

    def stack(self) -> list[Method]:
        return build_methods(self.specs)

    @property
    def adaptive(self) -> bool:
        return any(method.adaptive for method in self.stack())


@functools.cache
def case_of(family: str) -> tuple[Case, Setting, Tensor]:
    """(tiny pipeline, what formulas read of its runs, what it draws bare)."""
    case = build(family, smallest=True)
    return case, setting_of(case), case.call(case.pipe, list(IMAGES))


def close(found: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    assert torch.isfinite(found).all(), "not finite"
    off = float((found - expected).abs().max() / expected.abs().max())
    assert off <= tolerance, f"off by {off:.2g}"


def drawn(case: Case, methods: Iterable[Method], ids: Iterable[int] = IMAGES, **changes: Any) -> Tensor:
    return case.call(accelerate(case.pipe, list(methods)), list(ids), **changes)


def at_work(
    case: Case, methods: Iterable[Method], ids: Iterable[int] = IMAGES, leave_out: tuple[int, ...] = (), **changes: Any
) -> tuple[Tensor, Work]:
    """What is drawn, and the work of it; the method must have left something out, and computed something again."""
    with watched(case.pipe, getattr(case.pipe, family_of(case.pipe).network)) as work:
        found = drawn(case, methods, ids, **changes)
    assert work.hits(leave_out), NO_HIT
    assert work.misses(), "the method computed nothing again; choose another setting"
    return found, work


@functools.cache
def together(subject: Subject, family: str) -> Tensor:
    """The images drawn as one batch."""
    found, work = at_work(case_of(family)[0], subject.stack())
    assert not subject.adaptive or subject.name.startswith(ALIKE) or work.apart(), (
        "all images decided alike; choose another setting"
    )
    return found


def subject(name: str, family: str = "") -> Subject:
    """A preset, where needed with a threshold for the family, or one of `SETTINGS`."""
    if name in SETTINGS:
        return Subject(name, SETTINGS[name])
    one, threshold = preset(name), THRESHOLDS.get((name, family))
    specs = one.methods if threshold is None else [{name: {**one.methods[0][name], "threshold": threshold}}]
    return Subject(name, specs, one.identity)


def private() -> list[str]:
    """Presets of `POSTDIFF_PATH` that are to save work."""
    names = (name for name in catalog.names("methods") if not catalog.shipped(catalog.path("methods", name)))
    return [name for name in names if preset(name).saves]


def asked(check: str, name: str, family: str) -> bool:
    """Whether a check has anything to ask of a shipped preset, or of a setting, on a family."""
    of = name.partition(":")[0]
    if family in REFUSED[of] or (name in SETTINGS and not check.startswith(("reference", "parallel", "consumers"))):
        return False
    if of == "adaptive_diffusion" and family in ("sdxl", "text_to_video", "pixart_alpha", "flux", "cogview4"):
        return False  # no threshold is known at which images decide apart there
    if name == "adaptive_diffusion: every second":
        return check == "reference_where_the_size_changes"
    return {
        "reference_where_guidance_ends": not _ends_guidance(name)
        and family not in NO_GUIDANCE
        # At no threshold Wan's second half is both replayed and computed, for what its first block adds moves little.
        and (of, family) != ("first_block_cache", "wan")
        # At no threshold is a call both left out and made there.
        and (of, family) != ("lazy_cache", "wan"),
        # A size in mid-run leaves too few steps to leave one out, or none where images decide apart.
        "reference_where_the_size_changes": name not in ("sada", "sada: true lengths")
        and (of, family) != ("lazy_cache", "sd3")
        and of != "adaptive_diffusion"
        and (of, family) != ("easy_cache", "lcm"),
        # There the changes of two images never fall below the threshold.
        "consumers_in_place": (name, family) != ("dbcache: back", "dit"),
        # In the network of two like blocks no call is left out.
        "one_module_in_two_places": (of, family) != ("adaptive_diffusion", "sana"),
        "reference_where_a_step_is_left_out": of != "encoder_propagation"
        and (of, family) not in (("easy_cache", "lcm"), ("adaptive_diffusion", "sd3"), ("lazy_cache", "sd3")),
        # What is guessed at the solver's step goes by its sample, which does not stand still.
        "standstill": of not in ("encoder_propagation", *AT_SOLVER) and family != "controlnet",
        "parallel": not of.startswith(("deepcache", "encoder"))
        and of not in (*CHAINS, *DECIDED_WHOLE, *AT_SOLVER)
        and family not in NO_ENCODER,
    }.get(check, True)


def _ends_guidance(name: str) -> bool:
    """Whether it does so before the check would."""
    return name.startswith("tgate") or (
        name in SETTINGS and "cutoff" not in name and name.startswith("cross_attention")
    )
