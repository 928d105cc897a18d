"""Operations are counted as torch counts them; what is known of one on the meta device is told only where it holds."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from postdiff import accelerate, catalog
from postdiff.cost.on_meta import OnMeta
from postdiff.cost.operations import OperationCounter
from postdiff.cost.structures import real_size
from postdiff.cost.tally import Work
from postdiff.engine.errors import UsageError
from postdiff.lab.config import schedulers
from postdiff.presets import build_methods

pytestmark = pytest.mark.slow


def watched(call, known=None):
    found = []
    with OperationCounter(found.append, known):
        result = call()
    return sum(found, Work()), result


@pytest.fixture(scope="module")
def twin():
    import diffusers

    return real_size("emoji", schedulers.build(diffusers.DPMSolverMultistepScheduler(), None, {}))


@pytest.mark.parametrize("preset", [None, *catalog.names("methods")])
def test_recalled_outcomes_add_up_to_what_a_run_without_memory_costs(twin, preset):
    """torch's counter knows nothing of earlier operations; ours begins with all that the other presets have left."""
    methods = build_methods([preset] if preset else [])
    call = {"height": 64, "width": 64, "num_inference_steps": 4, "guidance_scale": 4.0}
    try:
        found, _ = twin.tally(methods, **call)
    except UsageError as reason:
        assert any(words in str(reason) for words in ("needs a transformer", "needs a VAE", "without weights"))
        pytest.skip(f"refused: {reason}")
    zeros = {name: torch.zeros(1, *shape) for name, shape in twin.structure.conditions.items()}
    with FlopCounterMode(display=False) as counter:
        accelerate(twin.pipe, [*methods, OnMeta()])(**zeros, **call, output_type="latent")
    network = counter.get_flop_counts()[type(twin.pipe.unet).__name__]  # methods have products outside of it
    ours = found.macs("denoiser")["all"]
    assert 2 * ours == sum(network.values()) > 0


def test_the_same_shapes_again_cost_the_same_and_return_the_same():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU()).to("meta")
    known = {}
    first, one = watched(lambda: net(torch.zeros(2, 3, 4, 4, device="meta")), known)
    entries = len(known)
    again, two = watched(lambda: net(torch.zeros(2, 3, 4, 4, device="meta")), known)
    assert first == again == Work(*[2 * 16 * 8 * 27] * 3)
    assert (one.shape, one.stride(), one.dtype) == (two.shape, two.stride(), two.dtype)
    assert len(known) == entries > 0
    other, _ = watched(lambda: net(torch.zeros(1, 3, 4, 4, device="meta")), known)
    assert other.dense * 2 == first.dense


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.new_zeros(2, 3).repeat(1, 2),
        lambda x: x.repeat(2, 1),
        lambda x: x.sum(1),
        lambda x: x.sum(0),
        lambda x: x * 2,
        lambda x: x * True,
        lambda x: x.to(torch.float64),
        lambda x: x.t().contiguous(),
        lambda x: x.t() + 1,
        lambda x: x.topk(2, dim=1)[1],
        lambda x: torch.cat([x, x], dim=1),
        lambda x: torch.cat([x, x], dim=0),
    ],
)
def test_every_argument_counts(call):
    """All through one memory, each twice: never the outcome of another call."""
    expected = call(torch.zeros(3, 4, device="meta"))
    for _ in range(2):
        _, result = watched(lambda: call(torch.zeros(3, 4, device="meta")), SHARED)
        assert (result.shape, result.stride(), result.dtype) == (expected.shape, expected.stride(), expected.dtype)


SHARED = {}


def test_results_are_new_each_time():
    known, x = {}, torch.zeros(3, 4, device="meta")
    _, first = watched(lambda: x + 1, known)
    _, second = watched(lambda: x + 1, known)
    first.t_()
    second.t_()
    _, third = watched(lambda: x + 1, known)
    assert third.shape == (3, 4)


def test_tensors_with_values_are_never_recalled():
    known = {}
    for ones in (1, 2):
        mask = torch.arange(3) < ones
        _, chosen = watched(lambda mask=mask: torch.arange(3.0)[mask], known)
        assert len(chosen) == ones
    assert not known


def test_composite_operations_in_inference_mode():
    net, x = nn.Linear(3, 4), torch.zeros(2, 3)
    with torch.inference_mode():
        plain = watched(lambda: torch.matmul(x, x.t().new_zeros(3, 4)))[0]
        assert watched(lambda: net(x))[0] == plain == Work(24, 24, 24)
