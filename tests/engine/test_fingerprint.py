"""What has been changed between two calls: nested arguments, and a network's attributes, parts, hooks and weights."""

import numpy as np
import pytest
import torch

from postdiff.engine.fingerprint import Fingerprint, noted, unchanged
from postdiff.engine.ownership import own
from tests.support import tiny


@pytest.mark.parametrize("inference", [False, True])
def test_arguments(inference):
    with torch.inference_mode(inference):
        text, empty = torch.randn(4, 3), torch.full((2,), torch.nan)
        asked = {"text": text, "scale": 0.5, "more": [text[:1], None, ("a", {"b": 1})]}
        then = noted(asked)
        assert unchanged(asked, then)
        assert unchanged({**asked, "text": text.clone()}, then), "equal values in other memory"
        assert unchanged({**asked, "text": text.chunk(2)[0]}, noted({**asked, "text": text.chunk(2)[0]})), "cut anew"
        changes = ({"scale": 0.4}, {"text": text + 1}, {"text": text[:2]}, {"text": None}, {"new": 1}, {"more": [text]})
        for changed in (*changes, {"more": [text[:1], None, ("a", {"b": 2})]}, {"text": text.double()}, {"scale": "a"}):
            assert not unchanged({**asked, **changed}, then)
        assert unchanged(empty, noted(empty)) or inference, "the same tensor, whatever is in it"
        array = np.ones(2)
        assert unchanged([array], noted([array])) and not unchanged([array], noted([array.copy()]))
        text[3].add_(1)
        assert not unchanged(asked, then), "written to since"


def test_arguments_that_share_memory_are_not_looked_at(monkeypatch):
    residuals = [torch.randn(3), torch.randn(3)]
    then = noted(residuals)
    monkeypatch.setattr(torch, "equal", None)
    assert unchanged(own(residuals), then)


@pytest.fixture
def network():
    return tiny.build("sd", smallest=True).pipe.unet


CHANGES = {
    "attribute": lambda net: setattr(net.up_blocks[0], "s1", 0.9),
    "list": lambda net: net.up_blocks[0].marks.append(3),
    "dict": lambda net: net.up_blocks[0].table.update(a=2),
    "processor's": lambda net: setattr(next(iter(net.attn_processors.values())), "scale", 2),
    "processor": lambda net: net.set_attn_processor(type(next(iter(net.attn_processors.values())))()),
    "part": lambda net: setattr(net, "conv_out", torch.nn.Conv2d(8, 4, 3, padding=1)),
    "weight": lambda net: setattr(net.conv_out, "bias", torch.nn.Parameter(torch.zeros(4))),
    "written": lambda net: net.conv_out.weight.mul_(1.0),
    "hook": lambda net: net.up_blocks[0].register_forward_hook(lambda *_: None),
    "mode": lambda net: net.train(),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_network(network, kind):
    network.up_blocks[0].marks, network.up_blocks[0].table = [1, 2.0], {"a": 1}
    then = Fingerprint(network.modules())
    network.up_blocks[0].marks[1] = 2.0 + 0 * len(kind)
    assert then.holds(), "an equal number"
    with torch.no_grad():
        CHANGES[kind](network)
    assert not then.holds()


def test_a_call_by_itself_changes_nothing(small):
    one, _ = small("sd")
    then = Fingerprint(one.pipe.unet.modules())
    one.call(one.pipe)
    assert then.holds()
