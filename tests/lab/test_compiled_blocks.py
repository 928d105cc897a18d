"""torch.compile beside methods: methods stay outside of compiled code, and the same call compiles nothing twice."""

import pytest
import torch
from torch import nn

from postdiff import accelerate, presets
from postdiff.cost.macs import count_macs
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.lab.config.schema import NetworkConfig
from postdiff.lab.pipelines import compiled_blocks
from postdiff.lab.pipelines.network_options import NetworkOptions

FEW = {"num_inference_steps": 3}


@pytest.fixture
def spied(monkeypatch):
    """Modules that ran as compiled ones; nothing is compiled."""
    ran = []

    def compiled(cls, backend, attention):
        def run(module, *args, **kwargs):
            ran.append(module)
            return cls.forward(module, *args, **kwargs)

        return run

    monkeypatch.setattr(compiled_blocks, "_compiled", compiled)
    return ran


def held(pipe, driver):
    return NetworkOptions(pipe, NetworkConfig(compile=True)).around(driver)


def names(modules):
    return {type(module).__name__ for module in modules}


CUT = {"ResnetBlock2D", "Attention", "FeedForward"}
WHOLE = {"ResnetBlock2D", "BasicTransformerBlock"}


@pytest.mark.parametrize(
    ("case", "method", "expected"),
    [
        ("sd", [], WHOLE),
        ("sd", ["postdiff"], CUT),
        ("sd", ["deepcache"], WHOLE),
        ("sd", [{"tome": {"max_downsample": 8}}], CUT),
        ("pixart_alpha", ["tea_cache"], {"BasicTransformerBlock"}),
        ("pixart_alpha", ["fora"], {"Attention", "FeedForward"}),
        ("sd3", [], {"JointTransformerBlock"}),
        ("flux", ["fora"], {"FluxAttention", "FeedForward", "AdaLayerNormZero", "AdaLayerNormZeroSingle"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),  # sets have no order
)
def test_what_is_compiled_beside_a_method(small, spied, case, method, expected):
    one, _ = small(case)
    fast = accelerate(one.pipe, presets.build_methods(method))
    drawn = one.call(fast, **FEW)
    counts = dict(fast.counts)
    with held(one.pipe, fast):
        assert torch.equal(one.call(fast, **FEW), drawn)
    assert dict(fast.counts) == counts
    assert names(spied) == expected
    assert not any("forward" in vars(module) for module in fast.network.modules())


def test_counting_runs_uncompiled_and_finds_the_same(small, spied):
    one, _ = small("pixart_alpha")
    fast = accelerate(one.pipe, presets.build_methods(["fora"]))
    expected = count_macs(one.pipe, lambda: one.call(fast, **FEW))

    def compiled():
        with held(one.pipe, fast):
            one.call(fast, **FEW)

    assert count_macs(one.pipe, compiled) == expected and not spied


def test_watchers_inside_blocks_and_drivers_of_others_are_refused(small):
    one, _ = small("pixart_alpha")
    attention = one.pipe.transformer.transformer_blocks[0].attn1
    with (
        intercept(attention, "forward", lambda forward, *args, **kwargs: forward(*args, **kwargs)),
        pytest.raises(UsageError, match="something has replaced 'forward' inside the blocks of PixArt"),
        held(one.pipe, accelerate(one.pipe)),
    ):
        pass
    with pytest.raises(UsageError, match="cannot see what .* changes in the network"), held(one.pipe, print):
        pass
    with pytest.raises(UsageError, match="no repeated blocks in Linear; leave it out"):
        compiled_blocks.blocks(nn.Linear(2, 2))


def test_the_same_call_compiles_nothing_twice(small, monkeypatch):
    one, _ = small("pixart_alpha")
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compiled_blocks, "BACKEND", backend)
    fast = accelerate(one.pipe, presets.build_methods(["fora"]))
    expected = one.call(fast, **FEW)
    with held(one.pipe, fast):
        assert torch.equal(one.call(fast, **FEW), expected)
    first = len(graphs)
    with held(one.pipe, fast):
        assert torch.equal(one.call(fast, **FEW), expected)
    assert 0 < first == len(graphs)


def test_what_cannot_be_compiled_is_reported_in_one_line(small, monkeypatch):
    one, expected = small("pixart_alpha")

    def backend(graph, inputs):
        raise FileNotFoundError("no g++")

    monkeypatch.setattr(compiled_blocks, "BACKEND", backend)
    message = pytest.raises(
        UsageError, match="cannot compile the blocks of PixArtTransformer2DModel.*no g\\+\\+.*install"
    )
    with message as found, held(one.pipe, fast := accelerate(one.pipe)):
        one.call(fast, **FEW)
    assert "\n" not in str(found.value)
    assert torch.equal(one.call(one.pipe), expected)
