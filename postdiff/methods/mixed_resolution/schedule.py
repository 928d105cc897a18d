"""At which steps the size changes, and which noise levels the solver has for that.

Plain is: the steps are given, and the levels are the solver's own. All else comes from other papers: "auto" finds the
steps by the power law of the latents, `shift` lowers the levels of small steps, and renoise "aligned" raises the level
of the first step of a size.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from postdiff.engine.state import State
from postdiff.methods.mixed_resolution import level_shift, power_law, size_plan
from postdiff.methods.options import listed

__all__ = ["Schedule"]


@dataclass
class Schedule:
    """Of one run.

    Attributes:
        betas: sides of the small stages over the full side, rising.
        switch: moments as options give them, or "auto".
        shift: noise over signal at small steps is multiplied by beta ** shift.
        aligned: whether renoise is "aligned".
        law: of the clean latents, for "auto".
        tolerance: likewise.
        strict: likewise.
        method: in whose name to complain.
        raises: whether "aligned" writes into the solver's list of levels, which some solvers have not.
        raised: the steps whose levels are raised, once the solver has its levels.
    """

    betas: list[float]
    switch: float | int | list[float | int] | str
    shift: float
    aligned: bool
    law: power_law.PowerLaw | None
    tolerance: float
    strict: bool
    method: str
    raises: bool = field(default=False, init=False)
    raised: list[int] | None = field(default=None, init=False)

    def attach(self, state: State) -> list[AbstractContextManager[None]]:
        """What has the solver make its list of levels as this schedule wants it.

        Raises:
            UsageError: the law is of another model's latents, or the solver's levels cannot be changed.
        """
        if self.switch == "auto":
            self._law().check_model(state.vae, self.method)
        self.raises = self.aligned and getattr(state.scheduler, "sigmas", None) is not None
        if self.shift:
            return [level_shift.shifted(state.scheduler, lambda steps: self._lowered(state, steps))]
        if self.raises:
            named = "renoise='aligned'", "renoise='next'"
            return [level_shift.shifted(state.scheduler, lambda steps: self._raised(state, steps), *named)]
        return []

    def ends(self, state: State) -> list[int]:
        """The first step of every stage but the first; [] if the run is never low.

        Raises:
            UsageError: as `size_plan.switches` and `power_law.moments` do, or the law is of another size.
        """
        if self.switch == "auto":
            self._law().check_size(state.full_size, self.method)
        return self._switches(state) if self.raised is None else self.raised

    def _law(self) -> power_law.PowerLaw:
        assert self.law is not None, "the method's options are checked"
        return self.law

    def _switches(self, state: State) -> list[int]:
        if self.switch == "auto":
            levels = size_plan.levels(state)
            found = power_law.moments(self._law(), self.betas, self.tolerance, levels, self.strict, self.method)
            return size_plan.switches(found, state, self.method)
        return size_plan.switches(listed(self.switch), state, self.method)

    def _lowered(self, state: State, steps: int) -> list[float]:
        """What `shift` multiplies noise over signal by, of every step."""
        ends = self._switches(replace(state, steps=steps))
        return size_plan.spread([beta**self.shift for beta in self.betas], ends, steps)

    def _raised(self, state: State, steps: int) -> list[float]:
        """What "aligned" multiplies it by: the ratio of the sides, at the first step of a size."""
        self.raised = self._switches(replace(state, steps=steps, timesteps=state.scheduler.timesteps))
        return size_plan.growth(self.betas, self.raised, steps)
