"""What we rely on in diffusers, one assertion each: the first test to fail on an upgrade, and it says what moved."""

import inspect

import pytest

from postdiff.engine.family import FAMILIES
from postdiff.engine.selectors import cross_attentions, unet_layers
from tests.support.tiny import FAMILY_CASES, VARIANTS


@pytest.mark.parametrize("name", FAMILIES)
def test_pipeline_still_exists(name):
    import diffusers

    assert hasattr(diffusers, name), f"diffusers no longer exports {name}"


@pytest.mark.parametrize("name", [*FAMILY_CASES, *VARIANTS])
def test_network_and_scheduler_are_where_the_table_says(case, name):
    pipe = case(name).pipe
    family = next(FAMILIES[cls.__name__] for cls in type(pipe).__mro__ if cls.__name__ in FAMILIES)
    network = getattr(pipe, family.network)
    first = next(iter(inspect.signature(network.forward).parameters))
    assert first in ("sample", "hidden_states"), f"{type(network).__name__}.forward begins with {first}"
    step = inspect.signature(pipe.scheduler.step).parameters
    assert list(step)[:3] == ["model_output", "timestep", "sample"], f"{type(pipe.scheduler).__name__}.step moved"
    for names in (family.unbatched, family.multiples, family.resize):
        assert set(names) <= set(inspect.signature(network.forward).parameters)


@pytest.mark.parametrize("name", ["sd", "sdxl", "text_to_video", "animatediff", "deepfloyd_if", "if_stage_2"])
def test_unet_blocks_and_layers(case, name):
    unet = case(name).pipe.unet
    assert len(unet.down_blocks) == len(unet.up_blocks)
    for block in [*unet.down_blocks, *unet.up_blocks]:
        found = {path for path, _, _ in unet_layers(block)}
        lists = {f"{child}.{i}" for child, items in block.named_children() for i in range(len(items or []))}
        assert found == lists, f"{type(block).__name__} has children outside its layers"
    assert unet.get_submodule("mid_block")


@pytest.mark.parametrize(
    ("name", "count"),
    [("sd", 7), ("sd_deep", 11), ("sdxl", 10), ("upscale_x4", 7 + 3), ("pixart_alpha", 2), ("sana", 2), ("hunyuan", 2)],
)
def test_cross_attention_is_called_attn2(case, name, count):
    """In the x4 upscaler three blocks look at text with their first attention too."""
    pipe = case(name).pipe
    network = getattr(pipe, "unet", None) or pipe.transformer
    assert len(cross_attentions(network)) == count


def test_late_starts_are_announced(case):
    one = case("img2img")
    one.call(one.pipe)
    assert one.pipe._num_timesteps == 6, "image-to-image no longer notes how many steps it makes"


def test_solver_memory_has_the_names_we_resample(case):
    assert isinstance(case("sd_dpm++").pipe.scheduler.model_outputs, list)
    assert isinstance(case("sd_pndm").pipe.scheduler.ets, list)
    assert hasattr(case("sd_unipc").pipe.scheduler, "last_sample")
    assert hasattr(case("sd_dpm++").pipe.scheduler, "lower_order_nums")
