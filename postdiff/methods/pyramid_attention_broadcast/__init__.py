"""The method `pyramid_attention_broadcast`."""

from postdiff.methods.pyramid_attention_broadcast.method import PyramidAttentionBroadcast

__all__ = ["PyramidAttentionBroadcast"]
