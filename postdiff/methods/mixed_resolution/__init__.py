"""The method `mixed_resolution`."""

from postdiff.methods.mixed_resolution.method import MixedResolution

__all__ = ["MixedResolution"]
