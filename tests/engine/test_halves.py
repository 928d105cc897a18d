"""Encoder and decoder of a network by name, and networks that lack one of them."""

import pytest

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.engine.halves import halves_of
from postdiff.engine.selectors import unet_blocks
from postdiff.methods import EncoderPropagation
from tests.support import tiny


def test_a_unets_halves_in_order_of_execution():
    network = tiny.build("sd").pipe.unet
    found = halves_of(network, "test")
    assert list(found.encoder) == ["conv_in", *(f"down_blocks.{i}" for i in range(3)), "mid_block"]
    assert list(found.decoder) == [f"up_blocks.{i}" for i in range(3)] and found.skips
    assert list(found.decoder.values()) == list(network.up_blocks) == unet_blocks(network, "test")[1][::-1]
    video = halves_of(tiny.build("text_to_video").pipe.unet, "test")
    assert list(video.encoder)[:3] == ["conv_in", "transformer_in", "down_blocks.0"]
    network.mid_block = None
    assert list(halves_of(network, "test").encoder)[-1] == "down_blocks.2"


def test_one_up_block_is_no_decoder_to_keep():
    case = tiny.sd()
    blocks = {"block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    case.pipe.register_modules(unet=tiny.unet(**blocks))
    with pytest.raises(UsageError, match="propagate='decoder' keeps all up blocks but the finest, and .* has no other"):
        case.call(accelerate(case.pipe, [EncoderPropagation([0, 2], propagate="decoder")]))
    for propagate in ("encoder", "both"):
        case.call(accelerate(case.pipe, [EncoderPropagation([0, 2], propagate=propagate)]))
