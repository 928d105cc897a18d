"""The method `guided_channels`."""

from postdiff.methods.guided_channels.method import GuidedChannels

__all__ = ["GuidedChannels"]
