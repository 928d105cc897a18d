"""The method `adaptive_diffusion`."""

from postdiff.methods.adaptive_diffusion.method import AdaptiveDiffusion

__all__ = ["AdaptiveDiffusion"]
