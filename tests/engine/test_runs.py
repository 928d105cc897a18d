"""Which run a call belongs to: several in one call, late starts, early ends, calls that are no guidance branch."""

from typing import ClassVar

import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    MotionAdapter,
    StableDiffusionAdapterPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    T2IAdapter,
    UniPCMultistepScheduler,
    WanPipeline,
)

from postdiff import accelerate, catalog
from postdiff.engine.errors import UsageError
from postdiff.engine.family import Family
from postdiff.engine.timeline import Timeline
from postdiff.methods import (
    CFGCutoff,
    DeepCache,
    EncoderPropagation,
    FirstBlockCache,
    GuidanceInterval,
    MixedResolution,
    TeaCache,
)
from postdiff.methods.base import Method
from tests.support import modern, tiny, tiny_presets, unets
from tests.support.cases import common, embed, encoded_text, generators
from tests.support.parts import BETAS, unet

pytestmark = pytest.mark.slow

IDENTITIES = catalog.names("methods")
STACKS = {
    "deepcache": lambda: [DeepCache(interval=3)],
    "mixed_resolution": lambda: [MixedResolution(beta=0.5, switch=3)],
    "cfg_cutoff": lambda: [CFGCutoff(gate=2)],
    "guidance_interval": lambda: [GuidanceInterval(low=0.0, high=3.0)],
    "encoder_propagation": lambda: [EncoderPropagation(keys=3)],
}


class Watch(Method):
    """Notes what a run looks like to a method, and the timesteps that its solver is given."""

    seen: ClassVar[list] = []

    def start(self, state):
        self.seen.append((state.timesteps.tolist(), []))

    def step(self, forward, output, timestep, sample, state):
        self.seen[-1][1].append(float(timestep))
        return forward(output, timestep, sample)


@pytest.fixture
def watched():
    Watch.seen.clear()
    return Watch.seen


def _identity(name):
    return tiny_presets.build_methods(tiny_presets.preset(name).identity)


SD = Family.like("StableDiffusionPipeline")  # of subclasses with a call of their own


class TwoPasses(StableDiffusionPipeline):
    """Draws, adds noise and draws again, as a "hires fix" does."""

    def __call__(self, *args, **kwargs):
        first = super().__call__(*args, **{**kwargs, "output_type": "latent", "return_dict": False})[0]
        noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(99))
        noisy = self.scheduler.add_noise(first, noise, self.scheduler.timesteps[:1])
        return super().__call__(*args, **{**kwargs, "latents": noisy})


class HandsOn(StableDiffusionPipeline):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)


def _as(cls, case):
    pipe = cls(**case.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def two_passes():
    case = tiny.build("sd", smallest=True)
    case.pipe = _as(TwoPasses, case)
    return case, case.call(case.pipe)


@pytest.fixture(scope="module")
def free_init():
    adapter = MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=4, motion_num_attention_heads=2
    ).eval()
    case = unets.animatediff()
    parts = {**case.pipe.components, "unet": unet(levels=2), "motion_adapter": adapter}
    case.pipe = AnimateDiffPipeline(**parts)
    case.pipe.enable_free_init(num_iters=2, use_fast_sampling=False)
    case.pipe.set_progress_bar_config(disable=True)
    whole = case.arguments
    case.arguments = lambda ids: {**whole(ids), "num_inference_steps": 4}
    return case, case.call(case.pipe, [0])


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_call_of_two_passes(two_passes, name):
    case, expected = two_passes
    try:
        fast = accelerate(case.pipe, _identity(name), SD)
    except UsageError as refused:
        pytest.skip(str(refused))
    assert torch.equal(case.call(fast), expected)
    assert fast.counts["network calls"] >= 2


@pytest.mark.parametrize("name", IDENTITIES)
def test_free_init_denoises_several_times(free_init, name):
    case, expected = free_init
    try:
        fast = accelerate(case.pipe, _identity(name))
        found = case.call(fast, [0])
    except UsageError as refused:
        pytest.skip(str(refused))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("stack", STACKS)
def test_every_pass_is_accelerated_as_a_call_of_its_own(two_passes, stack):
    case, _ = two_passes
    plain = _as(StableDiffusionPipeline, case)
    fast = accelerate(plain, STACKS[stack]())
    arguments = case.arguments([0, 1])
    first = fast(**{**arguments, "return_dict": False})[0]
    noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(99))
    noisy = plain.scheduler.add_noise(first, noise, plain.scheduler.timesteps[:1])
    second = fast(**{**arguments, "return_dict": False, "latents": noisy})[0]
    assert torch.equal(case.call(accelerate(case.pipe, STACKS[stack](), SD)), second)


def test_runs_of_a_call_are_reported_apart(two_passes, watched):
    case, _ = two_passes
    case.call(accelerate(case.pipe, [Watch()], SD))
    assert len(watched) == 2
    for planned, made in watched:
        assert planned == made and len(made) == tiny.FEW_STEPS


@pytest.mark.parametrize("name", [*tiny.CASES, "sdxl_img2img", "flux_img2img"])
def test_the_run_that_methods_plan_for_is_the_run_that_is_made(case, watched, name):
    if name == "flux_img2img":
        one = modern.flux()
        one.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    else:
        one = case(name)
    one.call(accelerate(one.pipe, [Watch()]))
    [(planned, made)] = watched
    assert made == pytest.approx(planned)


@pytest.mark.parametrize("solver", ["ddim", "euler", "dpm++", "pndm", "heun"])
@pytest.mark.parametrize("stack", STACKS)
def test_a_run_that_ends_early_is_the_beginning_of_the_whole_one(solver, stack, watched):
    """`denoising_end` of SDXL hands latents to a refiner; image-to-image begins late."""
    one = unets.sdxl(solver)
    one.pipe.set_progress_bar_config(disable=True)
    kept, ended = [], []

    def keep(pipe, index, timestep, tensors):
        kept.append(tensors["latents"].clone())
        return tensors

    def count(pipe, index, timestep, tensors):
        ended.append(index)
        return tensors

    fast = accelerate(one.pipe, [*STACKS[stack](), Watch()])
    early = one.call(fast, denoising_end=0.5, callback_on_step_end=count)
    planned, made = watched[-1]
    assert planned == made and 0 < len(made) < 8 * one.pipe.scheduler.order
    one.call(fast, callback_on_step_end=keep)
    assert torch.equal(early, kept[ended[-1]])


@pytest.mark.parametrize("stack", STACKS)
def test_a_first_pass_that_ends_early(stack):
    """The timesteps of the second are set while the first one's have not all come."""
    one = unets.sdxl("ddim")

    class Half(type(one.pipe)):
        def __call__(self, *args, **kwargs):
            half = super().__call__(*args, **{**kwargs, "denoising_end": 0.5})[0]
            return super().__call__(*args, **{**kwargs, "latents": half})

    pipe = Half(**one.pipe.components, add_watermarker=False)
    for each in (one.pipe, pipe):
        each.set_progress_bar_config(disable=True)
    fast = accelerate(one.pipe, STACKS[stack]())
    same = generators([0, 1])
    half = one.call(fast, denoising_end=0.5, generator=same)
    assert torch.equal(
        one.call(accelerate(pipe, STACKS[stack](), Family.like("StableDiffusionXLPipeline"))),
        one.call(fast, latents=half, generator=same),
    )


@pytest.mark.parametrize("stack", STACKS)
def test_a_second_pass_over_the_same_timesteps(small, stack):
    """Two loops of a pipeline's own, which sets its solver's timesteps once."""

    class Twice(StableDiffusionPipeline):
        @torch.no_grad()
        def __call__(self, *args, passes=2, **kwargs):
            self.scheduler.set_timesteps(kwargs["num_inference_steps"])
            self._guidance_scale, self._num_timesteps = kwargs["guidance_scale"], None
            latents = kwargs["latents"]
            text = torch.cat([kwargs["negative_prompt_embeds"], kwargs["prompt_embeds"]])
            for _ in range(passes):
                for t in self.scheduler.timesteps:
                    output = self.unet(torch.cat([latents] * 2), t, encoder_hidden_states=text, return_dict=False)[0]
                    uncond, cond = output.chunk(2)
                    guided = uncond + self.guidance_scale * (cond - uncond)
                    latents = self.scheduler.step(guided, t, latents, return_dict=False)[0]
            return (latents,)

    one, _ = small("sd")
    pipe, latents = _as(Twice, one), embed([0, 1], 4, 8, 8)
    fast = accelerate(pipe, STACKS[stack](), SD)
    same = generators([0, 1])
    first = one.call(fast, latents=latents, passes=1, generator=same)
    second = one.call(fast, latents=first, passes=1, generator=same)
    assert torch.equal(one.call(fast, latents=latents), second)


def test_what_was_planned_for_a_step_that_never_comes_is_reported():
    class Short(StableDiffusionPipeline):
        """Ends after half the steps and says so to nobody."""

        def progress_bar(self, iterable=None, total=None):
            self._num_timesteps = None
            return super().progress_bar(iterable, total=total)

    one = tiny.build("sd", smallest=True)
    pipe = _as(Short, one)
    pipe.scheduler = _HalfLoop.from_config(pipe.scheduler.config)
    one.call(accelerate(pipe, [DeepCache(interval=2)]))
    with pytest.raises(UsageError, match="made 3 of the 6 steps .* planned for step 4 never came"):
        one.call(accelerate(pipe, [MixedResolution(beta=0.5, switch=4)]))
    one.call(accelerate(pipe, [MixedResolution(beta=0.5, switch=2)]))


class _Half(torch.Tensor):
    """A list of timesteps of which a loop sees the first half."""

    def __iter__(self):
        return iter(self.as_subclass(torch.Tensor)[: len(self) // 2])


class _HalfLoop(tiny.SCHEDULERS["ddim"]().__class__):
    def set_timesteps(self, *args, **kwargs):
        super().set_timesteps(*args, **kwargs)
        self.timesteps = self.timesteps.as_subclass(_Half)


@pytest.mark.parametrize(
    "name", ["fora", "taylor_seer", "pyramid_attention_broadcast", "cfg_cutoff", "guidance_interval"]
)
def test_skip_layer_guidance_is_a_call_of_its_own(case, name):
    one = case("sd3")
    skip = {"skip_guidance_layers": [1], "skip_layer_guidance_scale": 2.8, "skip_layer_guidance_start": 0.0}
    skip["skip_layer_guidance_stop"] = 1.0
    expected = one.call(one.pipe, **skip)
    assert not torch.equal(expected, one.call(one.pipe))
    assert torch.equal(one.call(accelerate(one.pipe, _identity(name)), **skip), expected)


@pytest.mark.parametrize("method", [FirstBlockCache(0.0), TeaCache(0.0), MixedResolution(beta=0.5, switch=0)])
def test_skip_layer_guidance_beside_methods_that_look(case, method):
    one = case("sd3")
    skip = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    assert torch.equal(one.call(accelerate(one.pipe, [method]), **skip), one.call(one.pipe, **skip))


def test_the_conditional_estimate_is_not_that_of_skip_layer_guidance(case):
    """The switch from x0 of the conditional branch must not see the call without a layer, which comes last."""
    one = case("sd3")
    method = MixedResolution(beta=0.5, switch=4, x0="conditional")
    none = {"skip_guidance_layers": [1], "skip_layer_guidance_scale": 0.0}
    whole = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    fast = accelerate(one.pipe, [method])
    torch.testing.assert_close(one.call(fast, **none, **whole), one.call(fast), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stack", STACKS)
def test_arguments_hidden_by_a_subclass(small, stack):
    one, _ = small("sd")
    hidden = _as(HandsOn, one)
    ours, theirs = (one.call(accelerate(pipe, STACKS[stack](), SD)) for pipe in (hidden, one.pipe))
    assert torch.equal(ours, theirs)
    alone = [one.call(accelerate(hidden, STACKS[stack](), SD), [i]) for i in (0, 1)]
    torch.testing.assert_close(torch.cat(alone), theirs, rtol=1e-4, atol=1e-5)


def test_a_generator_that_a_subclass_makes_is_the_runs(small):
    class Seeded(StableDiffusionPipeline):
        def __call__(self, *args, seed, **kwargs):
            return super().__call__(*args, **{**kwargs, "generator": torch.Generator().manual_seed(seed)})

    one, _ = small("sd")
    pipe = _as(Seeded, one)
    fast = accelerate(pipe, STACKS["mixed_resolution"](), SD)
    latents = embed([0, 1], 4, 8, 8)
    first, again, other = (one.call(fast, latents=latents, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("ids", [[0], [0, 1]])
@pytest.mark.parametrize("stack", STACKS)
def test_more_branches_than_the_row_says_are_refused(ids, stack):
    one = tiny.build("sd", small=True)
    parts = {**one.pipe.components, "unet": unet(levels=3)}
    pipe = StableDiffusionPAGPipeline(**parts, pag_applied_layers=["mid"], requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    expected = one.call(pipe, ids, pag_scale=3.0)
    assert torch.equal(one.call(accelerate(pipe, family=Family(network="unet")), ids, pag_scale=3.0), expected)
    with pytest.raises(UsageError, match="name its branches in order"):
        one.call(accelerate(pipe, STACKS[stack](), family=Family(network="unet")), ids, pag_scale=3.0)


def test_more_branches_that_are_named_are_served():
    one = tiny.build("sd", small=True)
    pipe = StableDiffusionPAGPipeline(
        **{**one.pipe.components, "unet": unet(levels=3)}, pag_applied_layers=["mid"], requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    family = Family(network="unet", cfg=("uncond", "cond", "perturbed"))
    fast = accelerate(pipe, [DeepCache(interval=3), MixedResolution(beta=0.5, switch=4)], family=family)
    both = one.call(fast, pag_scale=3.0)
    alone = torch.cat([one.call(fast, [i], pag_scale=3.0) for i in (0, 1)])
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-5)
    plain = accelerate(one.pipe, fast.methods)
    for scale in (5.0, 1.0):  # branches that are switched off
        found = one.call(fast, guidance_scale=scale, pag_scale=0.0)
        assert torch.equal(found, one.call(plain, guidance_scale=scale))
    assert fast.counts["network rows"] == 8 * 2
    one.call(fast, guidance_scale=0.0, pag_scale=3.0)
    assert fast.counts["network rows"] == 8 * 2 * 2


@pytest.mark.parametrize("stack", STACKS)
def test_a_solver_of_the_pipelines_own_is_refused(small, stack):
    class Private(StableDiffusionPipeline):
        def __call__(self, *args, **kwargs):
            mine = EulerDiscreteScheduler(**BETAS)
            mine.set_timesteps(kwargs["num_inference_steps"])
            latents = kwargs["latents"] * mine.init_noise_sigma
            text = torch.cat([kwargs["negative_prompt_embeds"], kwargs["prompt_embeds"]])
            self._guidance_scale = kwargs["guidance_scale"]
            self.scheduler.set_timesteps(kwargs["num_inference_steps"])
            for t in mine.timesteps:
                scaled = mine.scale_model_input(torch.cat([latents] * 2), t)
                uncond, cond = self.unet(scaled, t, encoder_hidden_states=text, return_dict=False)[0].chunk(2)
                latents = mine.step(uncond + self.guidance_scale * (cond - uncond), t, latents).prev_sample
            return (latents,)

    one, _ = small("sd")
    pipe, latents = _as(Private, one), embed([0, 1], 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(one.call(accelerate(pipe, family=SD), latents=latents), one.call(pipe, latents=latents))
        with pytest.raises(UsageError, match="steps with a solver of its own|other times than its scheduler"):
            one.call(accelerate(pipe, STACKS[stack](), SD), latents=latents)


@pytest.mark.parametrize("stack", STACKS)
def test_going_back_in_time_is_refused(small, stack):
    class Travels(StableDiffusionPipeline):
        """Takes every third step twice."""

        def progress_bar(self, iterable=None, total=None):
            self.scheduler.timesteps = self.scheduler.timesteps.as_subclass(_Again)
            return super().progress_bar(iterable, total=total)

    class _Again(torch.Tensor):
        def __iter__(self):
            plain = self.as_subclass(torch.Tensor)
            return iter([*plain[:4], *plain[2:]])

        def __getitem__(self, place):
            return self.as_subclass(torch.Tensor)[place]

    class Loops(tiny.SCHEDULERS["ddim"]().__class__):
        def set_timesteps(self, *args, **kwargs):
            super().set_timesteps(*args, **kwargs)
            self.timesteps = self.timesteps.as_subclass(_Again)

    one, _ = small("sd")
    pipe = _as(StableDiffusionPipeline, one)
    pipe.scheduler = Loops.from_config(pipe.scheduler.config)
    assert torch.equal(one.call(accelerate(pipe)), one.call(pipe))
    with pytest.raises(UsageError, match="goes from step 3 of 8 to step 2"):
        one.call(accelerate(pipe, STACKS[stack]()))


@pytest.mark.parametrize("method", [CFGCutoff(gate=4), FirstBlockCache(0.3), MixedResolution(beta=0.5, switch=4)])
def test_a_time_for_every_token(method):
    """Wan 2.2 5B is told a time a token; where all are alike it is the same video."""
    one = modern.wan()
    pipes = []
    for expand in (False, True):
        parts = one.pipe.components | {"scheduler": UniPCMultistepScheduler.from_config(one.pipe.scheduler.config)}
        pipe = WanPipeline(**parts, expand_timesteps=expand)
        pipe.set_progress_bar_config(disable=True)
        pipes.append(one.call(accelerate(pipe, [method])))
    torch.testing.assert_close(*pipes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stack", STACKS)
def test_feature_maps_of_an_adapter_follow_the_size(stack):
    one = tiny.build("sd")
    net = unet(levels=3)
    adapter = T2IAdapter(
        in_channels=3,
        channels=list(net.config.block_out_channels),
        num_res_blocks=1,
        downscale_factor=2,
        adapter_type="full_adapter",
    ).eval()
    parts = {**one.pipe.components, "unet": net, "adapter": adapter}
    del parts["image_encoder"]
    pipe = StableDiffusionAdapterPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    family = Family(network="unet")
    arguments = lambda ids: common(  # noqa: E731
        ids, image=embed(ids, 3, 32, 32, salt=4).clamp(0, 1), height=32, width=32, **encoded_text(ids)
    )
    one.arguments = arguments
    assert torch.equal(one.call(accelerate(pipe, family=family)), one.call(pipe))
    fast = accelerate(pipe, STACKS[stack](), family=family)
    both = one.call(fast)
    alone = torch.cat([one.call(fast, [i]) for i in (0, 1)])
    torch.testing.assert_close(both, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("late", [0, 3])
@pytest.mark.parametrize("message", ["element", "expanded", "number", "scaled", "half"])
def test_a_run_is_placed_by_what_its_first_call_is_reported(late, message):
    solver = FlowMatchEulerDiscreteScheduler(shift=3.0)
    solver.set_timesteps(10)
    if message == "scaled":  # in other units the solver's own word decides, which pipelines that begin late give
        solver.set_begin_index(late)
    first = solver.timesteps[late]
    given = {
        "element": first,
        "expanded": first.expand(4),
        "number": float(first),
        "scaled": first.repeat(4) / 1000,
        "half": first.repeat(4).bfloat16(),
    }[message]
    line = Timeline(solver, given, None)
    assert (line.start, line.steps) == (late, 10 - late)
    assert torch.equal(line.timesteps, solver.timesteps[late:])
    if message != "scaled":
        assert line.stands(given, 0) is True
        assert line.stands(solver.timesteps[late + 1], 0) is False
    assert Timeline(solver, given, 4).steps == 4
    assert Timeline(solver, given, 400).steps == 10 - late


def test_where_a_run_begins_is_waited_for_with_methods_alone(monkeypatch):
    """Sana tells its network the time in units of its own, which only numbers show."""
    waited, places = [], Timeline._places
    monkeypatch.setattr(
        Timeline, "_places", lambda self, message, wait: waited.append(wait) or places(self, message, wait)
    )
    case = tiny.build("sana", smallest=True)
    case.call(accelerate(case.pipe))
    assert True not in waited
    case.call(accelerate(case.pipe, [CFGCutoff(gate=2)]))
    assert True in waited
