"""Every preset that reuses earlier results goes through the generic checks, and so does whoever adds one.

A private method from `POSTDIFF_PATH` needs a preset and no test of its own: run this file with that variable set.
"""

import itertools

import pytest

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from tests.support.generic_checks import CHECKS
from tests.support.mutations import COLUMNS, MUTATIONS, ROOT, mutated
from tests.support.subjects import CACHES, NO_HIT, SETTINGS, asked, private, subject, together
from tests.support.tiny import build

# Families of U-Nets, of transformers, and of networks that are called once a branch.
FAST = ("sd", "dit", "flux_cfg")
SLOW = (
    *("sdxl", "controlnet", "inpaint9", "text_to_video", "animatediff", "lcm", "pixart_alpha", "sd3", "sana"),
    *("hunyuan", "flux", "qwen_image", "cogview4", "wan"),
)


def cases(families, names):
    return [each for each in itertools.product(families, names, CHECKS) if asked(each[2], each[1], each[0])]


def thinned(family, name, check):
    """Of the slower families a third of all cells, spread evenly: every method there, and every check, has some."""
    place = SLOW.index(family) + CACHES.index(name) + list(CHECKS).index(check)
    return pytest.mark.thorough if place % 3 else pytest.mark.slow


SHIPPED = cases(FAST, (*CACHES, *SETTINGS))
SHIPPED += [pytest.param(*each, marks=thinned(*each)) for each in cases(SLOW, CACHES)]


@pytest.mark.parametrize(("family", "name", "check"), SHIPPED)
def test_shipped(family, name, check):
    assert CHECKS[check](subject(name, family), family) is None, "there was nothing to ask"


ONE_PLACE = [("dit", "transformer_blocks", name) for name in ("mag_cache", "tea_cache", "first_block_cache")]
ONE_PLACE += [
    ("dit", "transformer_blocks", "encoder_propagation"),
    ("sd_deep", "down_blocks.0.attentions", "deepcache"),
]


@pytest.mark.parametrize(("family", "stack", "name"), ONE_PLACE)
def test_what_a_place_decides_needs_modules_in_one_place(family, stack, name):
    """A block that stands twice in a chain, or both in the part that is left out and in the one that runs."""
    pipe = build(family, smallest=True).pipe
    modules = (getattr(pipe, "transformer", None) or pipe.unet).get_submodule(stack)
    modules[1] = modules[0]
    with pytest.raises(UsageError, match="stands in several places"):
        accelerate(pipe, subject(name).stack())


@pytest.mark.parametrize(("name", "family", "check"), list(itertools.product(private(), FAST, CHECKS)))
def test_private(name, family, check):
    try:
        together(subject(name), family)
        reason = CHECKS[check](subject(name), family)
    except UsageError as refusal:
        reason = f"refused: {refusal}"
    except AssertionError as failure:
        if NO_HIT not in str(failure):
            raise
        reason = NO_HIT
    if reason is not None:
        pytest.skip(reason)


def test_faults_can_still_be_put_in():
    """And the tables tell of each: run `python -m tests.support.mutations` after a change."""
    for mutation in MUTATIONS:
        mutated((ROOT / "postdiff" / mutation.file).read_text(), mutation)
        assert f": {mutation.fault} |" in (ROOT / "tests" / "support" / "mutations.md").read_text()
    assert f"sees, of {len(MUTATIONS)} |" in (ROOT / "docs" / "proved.md").read_text()


def test_the_table_of_faults_has_a_column_for_every_check():
    assert list(COLUMNS) == list(CHECKS)
