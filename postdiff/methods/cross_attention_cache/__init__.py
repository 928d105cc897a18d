"""The method `cross_attention_cache`."""

from postdiff.methods.cross_attention_cache.method import CrossAttentionCache

__all__ = ["CrossAttentionCache"]
