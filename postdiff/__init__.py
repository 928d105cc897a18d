"""PostDiff: training-free acceleration of diffusion models, composable and measured.

from postdiff import accelerate
from postdiff.methods import CrossAttentionCache, DeepCache, MixedResolution

fast = accelerate(pipe, [MixedResolution(beta=0.5, switch=0.5), DeepCache(interval=2), CrossAttentionCache()])
image = fast("a red apple").images[0]
"""

from postdiff.engine.driver import Driver, accelerate

__all__ = ["Driver", "accelerate"]

__version__ = "0.1.0"
