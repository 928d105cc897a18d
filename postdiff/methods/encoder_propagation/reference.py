"""The formula of EncoderPropagation in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

from postdiff.methods.formulas import Reference, Setting, alone, blocks_of, hold

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """eps_t = D(E(x_k), t), k the last key step; a ControlNet belongs to the encoder."""
    network, keys = run.network, range(0, run.steps, method.keys)
    if not hasattr(network, "down_blocks"):
        blocks = blocks_of(network)
        split = method.split or max(1, round(len(blocks) * 18 / 28))
        return Reference({"encoder": (blocks[0], blocks[split - 1])}, hold(keys))
    encoder = {"conv_in": network.conv_in, "middle": network.mid_block}
    encoder |= {f"down {i}": block for i, block in enumerate(network.down_blocks)}
    if hasattr(network, "transformer_in"):
        encoder["time"] = network.transformer_in
    if run.controlnet is not None:
        encoder["controlnet"] = run.controlnet
    return Reference(alone(encoder), hold(keys))
