"""What may be spent on an image: a share of the full run, multiply-accumulates, or seconds."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from postdiff.engine.errors import UsageError, shown

__all__ = ["Budget"]

# {unit as written, in lower case: (what it measures, its size)}
UNITS = {
    **{"x": ("share", 1.0), "macs": ("macs", 1.0)},
    **{f"{prefix}macs": ("macs", size) for prefix, size in (("m", 1e6), ("g", 1e9), ("t", 1e12), ("p", 1e15))},
    **{"s": ("seconds", 1.0), "ms": ("seconds", 1e-3)},
}
EXAMPLES = '0.4x, "12 TMACs" or "1.5 s"'
NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)\s*")


@dataclass(frozen=True)
class Budget:
    """The most that one image may cost.

    Attributes:
        kind: "share" of the full run's MACs, "macs" (of the denoiser, dense convention) or "seconds".
        value: how much.
        text: as it was written.
    """

    kind: str
    value: float
    text: str

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "0.4x", "12 TMACs", "800 ms".

        Raises:
            UsageError: no number, no unit or an unknown one, nothing at all, or more than the full run.
        """
        found = NUMBER.fullmatch(text)
        if found is None:
            raise UsageError(f"budget '{shown(text)}' is no number with a unit; write for instance {EXAMPLES}")
        number, unit = float(found[1]), found[2].lower()
        if not unit:
            raise UsageError(f"budget '{shown(text)}' has no unit; write for instance {EXAMPLES}")
        if unit not in UNITS:
            raise UsageError(f"budget '{shown(text)}' has an unknown unit '{shown(found[2])}'; write {EXAMPLES}")
        kind, size = UNITS[unit]
        if not 0 < number < math.inf:
            raise UsageError(f"budget '{shown(text)}' leaves nothing to compute with; give one above 0")
        if kind == "share" and number > 1:
            raise UsageError(f"budget '{shown(text)}' is more than the full run, which is 1x; give at most 1x")
        return cls(kind, number * size, " ".join(text.split()))

    def limit(self, full: float) -> float:
        """The same in the unit of costs: MACs or seconds.

        Args:
            full: what the full run costs in it.

        Raises:
            UsageError: it is more than that.
        """
        if self.kind == "share":
            return self.value * full * (1 + 1e-9)  # 0.55x of 20 steps are 11, however 0.55 is rounded
        if self.value > full:
            much = self.written(full)
            raise UsageError(f"budget '{shown(self.text)}' is more than the full run, which is {much}; give less")
        return self.value

    def written(self, cost: float) -> str:
        """A cost as people write it, in the unit that suits it."""
        if self.kind == "seconds":
            return f"{cost:.3g} s" if cost >= 0.1 else f"{1000 * cost:.3g} ms"
        for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
            if cost >= size:
                return f"{cost / size:.4g} {prefix}MACs"
        return f"{cost:.0f} MACs"
