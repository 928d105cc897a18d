"""What a visit to a GPU is spent on, in order of worth. A stage is a row of data; a new method or training adds one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MISSES", "STAGES", "Stage"]


@dataclass(frozen=True)
class Stage:
    """A process of its own, whose results stay whatever becomes of later ones.

    Attributes:
        name: of its log; letters, digits and "_".
        worth: what one knows after it.
        share: of the time, against the shares of the stages after it.
        least: seconds below which it is not begun, since it would end with nothing.
        experiment: what `postdiff bench` times; it can be repeated so without this program.
        rows: of it; empty means all.
        words: further words of the command line.
        tiny: those of a dry run, in which models are a few layers deep.
        command: in the place of an experiment: what follows `python`. "{folder}" and "{device}" are filled in, and
            "{seconds}" with how long it may take. Exit code 0 says that all is well.
    """

    name: str
    worth: str
    share: float
    least: float
    experiment: str = ""
    rows: tuple[str, ...] = ()
    words: tuple[str, ...] = ("bench.warmup=0",)  # the call that counts memory and work comes first, and warms up
    tiny: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


def _tiny(model: str, size: int = 32) -> tuple[str, ...]:
    return (f"model={model}", "dtype=float32", f"height={size}", f"width={size}", "bench.repeats=2")


def _rows(names: Sequence[str], *batches: int) -> tuple[str, ...]:
    return tuple(f"{name}_b{batch}" for batch in batches for name in names)


_METHODS = ("original", "deepcache", "mixed_resolution", "postdiff_cut", "parallel", "sequential")
_SD, _SDXL, _PIXART, _FLUX = (_tiny(f"tiny_{name}") for name in ("sd15", "sdxl", "pixart", "flux"))

STAGES = (
    Stage(
        name="tests",
        worth="the code computes on this GPU what it computes on a CPU",
        share=1.2,
        least=20,
        command=(
            *("-m", "pytest", "-m", "gpu", "tests/gpu", "-n", "0", "-v", "-p", "no:cacheprovider"),
            "--junitxml={folder}/tests.xml",
        ),
    ),
    Stage("sd15_768", "PostDiff at the size of its paper", 2.4, 45, "speed/sd15_768", tiny=_SD),
    Stage(
        "sd15_768_50_steps",
        "Faster Diffusion as its paper runs it",
        1.6,
        40,
        "speed/sd15_ddim50",
        _rows(_METHODS, 1) + _rows(("original", "parallel"), 8),
        tiny=_SD,
    ),
    Stage("sd15_512", "the same where fixed costs weigh more", 1.0, 30, "speed/sd15_512_gpu", tiny=_SD),
    Stage(
        "sdxl",
        "PostDiff on a large U-Net",
        1.8,
        40,
        "speed/sdxl_1024",
        _rows((*_METHODS, "stacked"), 1) + _rows(("original", "deepcache", "postdiff_cut", "stacked"), 8),
        tiny=_SDXL,
    ),
    Stage(
        "compiled",
        "what compiled code and memory format add to the best stack",
        1.5,
        60,
        "speed/compiled",
        words=("bench.warmup=1",),
        tiny=(*_SD, "network.compile=false"),
    ),
    Stage("pixart", "PostDiff on a transformer", 1.2, 35, "speed/pixart_1024", tiny=_PIXART),
    Stage(
        "flux",
        "blocks of today's size, text and image in one sequence",
        0.8,
        30,
        "speed/flux_blocks",
        tiny=(*_FLUX, "steps=4"),
    ),
    Stage(
        "sd15_512_50_steps",
        "many small steps",
        0.8,
        35,
        "speed/sd15_512_ddim50",
        _rows(_METHODS, 1, 8),
        tiny=_SD,
    ),
    Stage(
        "sdxl_50_steps",
        "many steps on a large U-Net",
        0.8,
        45,
        "speed/sdxl_ddim50",
        _rows(("original", "deepcache", "postdiff_cut", "parallel"), 1),
        tiny=_SDXL,
    ),
)

# In the end every row that misses its goal is profiled, as far as time goes.
MISSES = Stage("misses", "where the time of what missed its goal went", 1.0, 20)
