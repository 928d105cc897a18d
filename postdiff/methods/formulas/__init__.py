"""What the references of methods are written with. They are read and tested with; nothing that runs imports them."""

from postdiff.methods.formulas.attention import attention_and_ff, attentions, guided_mean, looks_at_text, text_of
from postdiff.methods.formulas.chain import blocks_of, extrapolated, residual, streams
from postdiff.methods.formulas.network import added, filled, forecast, magnitude, whole
from postdiff.methods.formulas.parts import alone, computed, continued, hold, relative, series
from postdiff.methods.formulas.run import AtSolver, Past, Reference, Setting, tensorwise
from postdiff.methods.formulas.solver import Held, at_solver

__all__ = [
    "AtSolver",
    "Held",
    "Past",
    "Reference",
    "Setting",
    "added",
    "alone",
    "at_solver",
    "attention_and_ff",
    "attentions",
    "blocks_of",
    "computed",
    "continued",
    "extrapolated",
    "filled",
    "forecast",
    "guided_mean",
    "hold",
    "looks_at_text",
    "magnitude",
    "relative",
    "residual",
    "series",
    "streams",
    "tensorwise",
    "text_of",
    "whole",
]
