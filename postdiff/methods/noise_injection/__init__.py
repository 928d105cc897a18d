"""The method `noise_injection`."""

from postdiff.methods.noise_injection.method import NoiseInjection

__all__ = ["NoiseInjection"]
