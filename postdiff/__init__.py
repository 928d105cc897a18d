"""PostDiff: training-free acceleration of diffusion models, composable and measured.

from postdiff import accelerate
from postdiff.methods import CrossAttentionCache, DeepCache, MixedResolution

fast = accelerate(pipe, [MixedResolution(beta=0.5, switch=0.5), DeepCache(interval=2), CrossAttentionCache()])
image = fast("a red apple").images[0]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from postdiff.engine.driver import Driver, accelerate

__all__ = ["Driver", "accelerate"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Loaded when first used, so that `postdiff --help` need not wait for torch.
    if name in __all__:
        from postdiff.engine import driver

        return getattr(driver, name)
    raise AttributeError(f"module 'postdiff' has no attribute '{name}'")
