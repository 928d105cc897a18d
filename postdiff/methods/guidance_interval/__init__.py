"""The method `guidance_interval`."""

from postdiff.methods.guidance_interval.method import GuidanceInterval

__all__ = ["GuidanceInterval"]
