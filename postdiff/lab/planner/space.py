"""Which settings there are: a file of `configs/plans`, one choice each of several kinds, and numbers of steps.

summary: one line
network: unet
full: {steps: 20}
steps: [4, 6, 8, 10, 15, 20]
choices:
  scheduler: {usual: {}, unipc: unipc}
  cache: {none: [], deep_2: [{deepcache: {interval: 2}}]}

masks: {fills: [output, linear]}

The first of each choice changes nothing. `scheduler` and the other keys of a row are set; every other choice is a
list of methods, and lists are joined in the order of the file, so that the first stands outermost.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from postdiff import catalog, presets
from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.engine.values import expanded
from postdiff.lab.config.layers import Count, Text, merged
from postdiff.lab.config.schema import RunConfig
from postdiff.lab.planner.kinds import kind_of

__all__ = ["Masks", "Setting", "Space", "read", "usual"]

MOST = 100_000  # combinations of a file
OF_A_ROW = ("scheduler", "guidance_scale", "network", "height", "width")


@dataclass(frozen=True)
class Setting:
    """One way to generate: a choice of each kind, and a number of steps.

    Attributes:
        steps: inference steps.
        choices: {kind: name of the choice}, without those that change nothing.
        keys: keys of its row other than steps and methods.
        methods: the stack as a row has it.
    """

    steps: int
    choices: Mapping[str, str]
    keys: Mapping[str, Any]
    methods: Sequence[Any]

    @property
    def name(self) -> str:
        """Of its row: `steps_12+small_30+deep_2`."""
        return "+".join([f"steps_{self.steps}", *self.choices.values()])

    @property
    def label(self) -> str:
        """As tables have it: `12 steps, small_30, deep_2`."""
        return ", ".join([f"{self.steps} steps", *self.choices.values()])

    @property
    def plain(self) -> bool:
        """Whether it is the full run with fewer steps, and nothing else."""
        return not self.choices

    @property
    def config(self) -> dict[str, Any]:
        """What it sets in a run."""
        return {**self.keys, "steps": self.steps, "methods": list(self.methods)}

    def at(self, steps: int) -> Setting:
        """The same with another number of steps."""
        return dataclasses.replace(self, steps=steps)


@dataclass
class Masks:
    """Masks of computed steps that are searched for the full run's steps.

    Attributes:
        fills: what stands in at the other steps, as of `StepMask`; none means that none are searched.
        tried: different masks for each.
    """

    fills: list[Literal["output", "residual", "linear", "quadratic"]] = field(default_factory=list)
    tried: Annotated[int, Field(ge=2, le=10_000)] = 100


@dataclass
class _File:
    summary: Text = ""
    network: Literal["unet", "transformer", "any"] = "any"
    full: dict[str, Any] = field(default_factory=dict)
    steps: Annotated[list[Count], Field(min_length=1)] = field(default_factory=lambda: [1])
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)
    masks: Masks = field(default_factory=Masks)


@dataclass(frozen=True)
class Space:
    """All settings of a file.

    Attributes:
        name: of the file.
        network: what the model must have: "unet", "transformer" or "any".
        full: keys of the full run; its steps are the most that a setting has.
        steps: numbers of steps, rising.
        choices: {kind: {name: what it sets}}.
        masks: which masks of steps are searched.
    """

    name: str
    network: str
    full: Mapping[str, Any]
    steps: Sequence[int]
    choices: Mapping[str, Mapping[str, Any]]
    masks: Masks = field(default_factory=Masks)

    def __len__(self) -> int:
        return len(self.steps) * math.prod(map(len, self.choices.values()))

    def up_to(self, steps: int) -> Space:
        """The same for a full run of so many steps."""
        rising = sorted({*(each for each in self.steps if each < steps), steps})
        return dataclasses.replace(self, full={**self.full, "steps": steps}, steps=rising)

    @property
    def combinations(self) -> list[Setting]:
        """One setting of the most steps for each combination of choices; the plain one first."""
        first = [next(iter(named)) for named in self.choices.values()]
        found = []
        for names in itertools.product(*self.choices.values()):
            keys: dict[str, Any] = {}
            methods: list[Any] = []
            for kind, name in zip(self.choices, names, strict=True):
                if kind in OF_A_ROW:
                    keys |= {kind: self.choices[kind][name]} if name not in first else {}
                else:
                    methods += self.choices[kind][name]
            chosen = {kind: name for kind, name, plain in zip(self.choices, names, first, strict=True) if name != plain}
            found.append(Setting(self.steps[-1], chosen, keys, methods))
        return found


def usual(card: Any) -> str:
    """Name of the shipped space for a model: by its network, and whether it is one of few steps.

    Args:
        card: its model card.
    """
    return "few_steps" if card.scheduler.name == "lcm" else kind_of(card)


def read(name: str) -> Space:
    """Read `configs/plans/<name>.yaml`, or any file that ends in .yaml.

    Raises:
        UsageError: no such file, or a mistake in it.
    """
    file = expanded(name) if name.endswith(".yaml") else catalog.path("plans", name)
    content = merged(_File, [(str(file), catalog.read(file))])
    count = math.prod(map(len, content.choices.values())) * len(content.steps)
    if not 1 <= count <= MOST:
        raise UsageError(f"{file} makes {count} settings; list 1 to {MOST}, and one name at least under each choice")
    for key in content.full:
        if key not in (known := [each.name for each in dataclasses.fields(RunConfig)]):
            raise unknown(f"key of 'full' in {file.name}", key, known)
    for kind, named in content.choices.items():
        for choice, value in named.items():
            where = f"{file}: '{shown(choice)}' of '{shown(kind)}'"
            if not choice.replace("_", "a").isalnum():
                raise UsageError(f"{where} is no name; use letters, digits and '_'")
            if kind not in OF_A_ROW and not isinstance(value, list):
                raise UsageError(f"{where} must be a list of methods; write [] for none")
            if kind not in OF_A_ROW:
                presets.build_methods(value)
    for kind, named in content.choices.items():
        if next(iter(named.values())) not in ([], {}, None):
            raise UsageError(
                f"{file}: the first of '{shown(kind)}' must change nothing, so that the plain run is a setting too; "
                "write [] there, or {} for a key of a row"
            )
    names = [name for named in content.choices.values() for name in list(named)[1:]]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"{file} has two choices named '{min(twice)}'; give each a name of its own")
    return Space(file.stem, content.network, content.full, sorted({*content.steps}), content.choices, content.masks)
