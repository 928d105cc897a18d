"""The method `cfg_cutoff`."""

from postdiff.methods.cfg_cutoff.method import CFGCutoff

__all__ = ["CFGCutoff"]
