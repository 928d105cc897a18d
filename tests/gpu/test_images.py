"""On a GPU: the driver is the pipeline, every method keeps what it promises, generators, batches."""

import pytest
import torch

from postdiff import catalog
from tests.gpu import properties
from tests.gpu.placed import HALF, NAMES, placed

pytestmark = pytest.mark.gpu

ON_UNETS, ON_TRANSFORMERS = "sd", "pixart_alpha"
ONLY_UNETS = {"block_cache", "deepcache", "deepcache_nonuniform", "postdiff", "todo"}
ONLY_TRANSFORMERS = {"dbcache", "first_block_cache", "mag_cache", "sea_cache", "tea_cache"}
PRESETS = [(name, ON_UNETS) for name in catalog.names("methods") if name not in ONLY_TRANSFORMERS]
PRESETS += [(name, ON_TRANSFORMERS) for name in catalog.names("methods") if name not in ONLY_UNETS]


@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("name", ["sd", "sdxl", "pixart_alpha", "flux"])
def test_empty_driver_is_the_pipeline(on, name, dtype):
    properties.empty_driver_is_the_pipeline(*on(name, dtype))


@pytest.mark.parametrize(("name", "family"), PRESETS)
def test_every_preset(on, name, family):
    properties.preset_keeps_what_it_promises(*on(family, HALF), name)


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=NAMES.get)
def test_cpu_generators_draw_what_they_draw_on_the_cpu(on, device, dtype):
    one, _ = on("sd", dtype)
    twin, _ = placed("sd", dtype, torch.device("cpu"))
    properties.cpu_generators_draw_what_they_draw_on_the_cpu(one, twin, device)


def test_generators_of_the_device_serve(on, device):
    properties.generators_of_the_device_serve(on("sd", torch.float32)[0], device)


def test_no_generator_at_all(on, device):
    properties.none_at_all_follows_the_global_seed(on("sd", torch.float32)[0], device)


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=NAMES.get)
@pytest.mark.parametrize(
    ("name", "methods"),
    [("sd", []), ("sd", ["postdiff"]), ("sdxl", ["encoder_propagation"]), ("pixart_alpha", ["taylor_seer"])],
    ids=str,
)
def test_images_do_not_depend_on_their_batch(on, name, methods, dtype):
    properties.alone_as_in_a_batch(on(name, dtype)[0], methods)


@pytest.mark.parametrize("name", ["dbcache", "first_block_cache", "sea_cache", "tea_cache"])
def test_what_is_decided_for_each_image_does_not_either(on, name):
    properties.alone_as_in_a_batch(on("pixart_alpha", torch.float32)[0], [name])


@pytest.mark.parametrize(
    ("name", "methods"),
    [("sd", ["postdiff"]), ("sd", ["faster_diffusion"]), ("pixart_alpha", ["tea_cache"]), ("flux", ["fora"])],
    ids=str,
)
def test_an_exception_leaves_nothing(on, name, methods):
    properties.an_exception_leaves_nothing(*on(name, HALF), methods)
