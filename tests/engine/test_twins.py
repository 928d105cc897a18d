"""Pipelines that people ran in 2026, each by a row of data: the driver is the pipeline, and methods run or refuse."""

import functools
import inspect
from math import inf
from typing import ClassVar
from unittest import mock

import pytest
import torch

from postdiff import accelerate, catalog
from postdiff.engine.errors import UsageError
from postdiff.engine.family import FAMILIES, family_of
from postdiff.engine.intercept import intercept
from postdiff.methods import FORA, CFGCutoff, GuidanceInterval, MixedResolution
from postdiff.methods.base import Method
from tests.support import tiny, tiny_presets
from tests.support.snapshot import scheduler_keys, snapshot
from tests.support.twins import TWINS

HALVES = ("sd_ip_adapter", "sdxl_ip_adapter", "sd3_controlnet", "sd3_controlnet_inpaint")
GUIDED_FROM_0 = ("z_image", "z_image_truncated", "z_image_controlnet", "z_image_controlnet_inpaint", "krea2")
# How a run without guidance is asked for, where not by a scale of 1.
UNGUIDED = {
    # What an image makes of a prompt comes in two halves, of which these pipelines take one only where they guide.
    **{name: {"guidance_scale": 1 + 1e-6} for name in HALVES},
    # They guide by c + w (c - u).
    **{name: {"guidance_scale": 0.0} for name in GUIDED_FROM_0},
    "ltx2": {"guidance_scale": 1.0, "audio_guidance_scale": 1.0},
}
# They take the size of an image, or one of their own, or average a table of places; the last two have no step for it.
OF_NO_OTHER_SIZE = (
    *("sdxl_img2img_refiner", "sd_instruct_pix2pix", "sd_pag_img2img", "sdxl_pag_img2img", "hidream", "kandinsky5_t2i"),
    *("flux_kontext_inpaint", "flux2_klein_inpaint", "qwen_edit_inpaint", "hunyuan_dit_pag"),
    *("sana_sprint", "sana_sprint_img2img"),
)
# One of each kind is asked everything; of the others, what is not asked here is slow.
KINDS = (
    *(
        "sdxl_inpaint_9",
        "sd_instruct_pix2pix",
        "sdxl_pag",
        "sdxl_union",
        "sd_ip_adapter",
        "flux_kontext_guided",
        "flux2",
    ),
    *(
        "flux2_klein_image",
        "qwen_edit_plus",
        "z_image_truncated",
        "flux_controlnet_guided",
        "z_image_controlnet",
        "wan22",
    ),
    *("wan22_ti2v", "ltx", "ltx2", "krea2", "chroma", "hidream", "hunyuan_video15", "kandinsky5_t2i", "sana_sprint"),
)
EACH = [pytest.param(name, marks=() if name in KINDS else pytest.mark.slow) for name in TWINS]
# Names of arguments that are made of control images by networks of their own.
CONTROL = ("control", "residual")
LINE = 400


class Watch(Method):
    """Notes what a run looks like to a method, and the timesteps that its solver is given."""

    seen: ClassVar[list] = []

    def start(self, state):
        self.seen.append((state.timesteps.tolist(), []))

    def step(self, forward, output, timestep, sample, state):
        self.seen[-1][1].append(float(torch.as_tensor(timestep).max()))  # one a row in some pipelines
        return forward(output, timestep, sample)


@functools.cache
def bare(name):
    """A twin, which every test must leave as it was, and what it generates without a driver."""
    twin = TWINS[name]()
    return twin, twin.call(twin.pipe)


def attributes(twin):
    """All that a run may not change; autoencoders of videos note things of their own calls."""
    noted = {name: value for name, value in snapshot(twin.pipe).items() if not name.startswith("vae.")}
    return noted, scheduler_keys(twin.pipe.scheduler)


@pytest.mark.parametrize("name", TWINS)
def test_the_empty_driver_is_the_pipeline(name):
    twin, expected = bare(name)
    before = attributes(twin)
    fast = accelerate(twin.pipe)
    assert torch.equal(twin.call(fast), expected) and torch.equal(twin.call(fast), expected)
    assert attributes(twin) == before


@pytest.mark.parametrize("name", EACH)
def test_a_run_is_the_one_that_methods_plan_for(name):
    twin, expected = bare(name)
    Watch.seen.clear()
    assert torch.equal(twin.call(accelerate(twin.pipe, [Watch()])), expected)
    planned, made = Watch.seen[-1]
    assert all(times == planned for times, _ in Watch.seen), "methods of further networks plan for another run"
    assert planned == made


@pytest.mark.parametrize("name", EACH)
def test_all_is_restored_after_an_exception(name):
    twin, expected = bare(name)
    fast = accelerate(twin.pipe, [MixedResolution(switch=0)])
    before, calls, processors = attributes(twin), iter(range(2)), getattr(fast.network, "attn_processors", None)

    def fail(module, *_):
        if next(calls) == 1:
            raise RuntimeError("boom")

    handle = fast.network.register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="boom"):
            twin.call(fast)
    finally:
        handle.remove()
    if hasattr(twin.pipe, "pag_applied_layers"):  # what the pipeline itself leaves behind
        fast.network.set_attn_processor(processors)
    assert attributes(twin) == before
    assert torch.equal(twin.call(fast), expected)


@pytest.mark.parametrize("method", [FORA(interval=1), CFGCutoff(gate=1.0), GuidanceInterval(low=0.0, high=inf)])
@pytest.mark.parametrize("name", EACH)
def test_a_neutral_setting_changes_nothing(name, method):
    twin, expected = bare(name)
    try:
        found = twin.call(accelerate(twin.pipe, [method]))
    except UsageError as refused:
        pytest.skip(str(refused))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", EACH)
def test_guidance_cut_off_at_once_is_a_run_without(name):
    twin, expected = bare(name)
    try:
        found = twin.call(accelerate(twin.pipe, [CFGCutoff(gate=0)]))
    except UsageError as refused:
        assert "no guidance to cut off" in str(refused) or "perturbed attention needs all" in str(refused)
        return
    if (guider := getattr(twin.pipe, "guider", None)) is not None:
        with mock.patch.object(guider, "_enabled", False):
            without = twin.call(twin.pipe)
    else:
        without = twin.call(twin.pipe, **UNGUIDED.get(name, {family_of(twin.pipe).scale: 1.0}))
    torch.testing.assert_close(found, without, rtol=1e-3, atol=1e-4)
    assert not torch.equal(found, expected)


def reported(pipe, run):
    """What the network is called with in the first step of a run: {argument: its tensors and numbers} of every call."""
    calls, steps = [], []
    network = getattr(pipe, family_of(pipe).network)
    names = list(inspect.signature(network.forward).parameters)

    def note(forward, *args, **kwargs):
        calls.append({name: leaves(value) for name, value in (dict(zip(names, args, strict=False)) | kwargs).items()})
        return forward(*args, **kwargs)

    def step(forward, *args, **kwargs):
        steps.append(len(calls))
        return forward(*args, **kwargs)

    with intercept(network, "forward", note), intercept(pipe.scheduler, "step", step):
        run()
    return calls[: steps[0]]


def leaves(value):
    if isinstance(value, torch.Tensor):
        return [value.clone()]
    if isinstance(value, dict):
        value = value.values()
    return [leaf for each in value for leaf in leaves(each)] if hasattr(value, "__iter__") else [value]


def halved(value, size):
    """Images of that size at half the sides."""
    if isinstance(value, list):
        return [halved(each, size) for each in value]
    of_size = isinstance(value, torch.Tensor) and tuple(value.shape[-2:]) == size
    return value[..., ::2, ::2] if of_size else value


@pytest.mark.parametrize("name", [each for each in EACH if each.values[0] not in OF_NO_OTHER_SIZE])
def test_a_small_phase_calls_the_network_as_a_small_run_does(name):
    """Shapes of everything, and values of all but latents, control maps, and times, whose levels may go by the size."""
    twin, _ = bare(name)
    given = twin.arguments(list(twin.ids))
    size = (given["height"], given["width"])
    half = {name: halved(value, size) for name, value in given.items() if name != "generator"}
    half |= {"height": size[0] // 2, "width": size[1] // 2}
    if "max_area" in given:
        half["max_area"] = half["height"] * half["width"]
    mixed = accelerate(twin.pipe, [MixedResolution(beta=0.5, switch=1)])
    small = reported(twin.pipe, lambda: twin.call(twin.pipe, **half))
    calls = reported(twin.pipe, lambda: twin.call(mixed))
    sample = next(iter(small[0]))
    for mine, theirs in zip(calls, small, strict=True):
        assert mine.keys() == theirs.keys()
        for argument, values in mine.items():
            for one, other in zip(values, theirs[argument], strict=True):
                if not isinstance(one, torch.Tensor):
                    assert one == other, argument
                elif argument in (sample, "audio_hidden_states", "timestep") or any(
                    part in argument for part in CONTROL
                ):
                    assert one.shape == other.shape, argument
                elif argument not in ("added_cond_kwargs", "padding_mask"):  # in pixels, of the full size
                    torch.testing.assert_close(one, other)


PRESETS = catalog.names("methods")
THIRDS = [
    pytest.param(name, PRESETS[third::3], marks=pytest.mark.thorough if (place + third) % 3 else pytest.mark.slow)
    for place, name in enumerate(TWINS)
    for third in range(3)
]


@pytest.mark.parametrize(("name", "presets"), THIRDS)
def test_every_preset_runs_or_is_refused_in_words(name, presets):
    twin, expected = bare(name)
    before, ran = attributes(twin), 0
    for preset in presets:
        one = tiny_presets.preset(preset)
        for specs in (one.identity, one.methods):
            try:
                found = twin.call(accelerate(twin.pipe, tiny_presets.build_methods(specs)))
            except UsageError as refused:
                assert len(str(refused)) < LINE and "\n" not in str(refused), refused
            else:
                ran += 1
                assert torch.isfinite(found).all(), preset
                assert specs is not one.identity or torch.equal(found, expected), preset
            assert hasattr(twin.pipe, "pag_applied_layers") or attributes(twin) == before, preset
    assert ran > 1  # a network of which no cache finds the blocks has some
    assert torch.equal(twin.call(twin.pipe), expected)


@pytest.mark.slow
def test_every_class_of_the_table_is_run():
    cases = [tiny.build(name, smallest=True) for name in (*tiny.FAMILY_CASES, *tiny.VARIANTS)]
    assert set(FAMILIES) <= {type(case.pipe).__name__ for case in (*cases, *(bare(name)[0] for name in TWINS))}
