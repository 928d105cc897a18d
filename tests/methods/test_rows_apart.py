"""Beside a method that computes some images of a batch alone, every other method still serves each image for itself."""

import pytest
import torch

from postdiff import accelerate, catalog
from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of
from postdiff.methods import ToMe
from tests.methods.test_properties import assert_alike
from tests.support.subjects import case_of, subject
from tests.support.tiny_presets import build_methods
from tests.support.work import watched

FAMILIES = ("sd", "controlnet", "pixart_alpha", "flux_cfg")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", catalog.names("methods"))
def test_an_image_of_a_pair_with_easy_cache_does_not_depend_on_its_batch(name, family):
    case, _, _ = case_of(family)

    def stack():
        return [*subject("easy_cache", family).stack(), *build_methods([name])]

    try:
        with watched(case.pipe, getattr(case.pipe, family_of(case.pipe).network)) as work:
            together = case.call(accelerate(case.pipe, stack()), [0, 1, 2])
    except UsageError as reason:
        pytest.skip(f"refused: {reason}")
    assert work.hits() or name == "mixed_resolution_three", "each of its sizes has too few of six steps"
    for i in (0, 2):
        assert_alike(family, together[i : i + 1], case.call(accelerate(case.pipe, stack()), [i]))


def test_one_draw_for_all_images_is_refused_beside_it():
    """An image alone is drawn for at fewer calls of the network than a batch."""
    case, _, _ = case_of("sd")
    easy = subject("easy_cache", "sd").stack()
    with pytest.raises(UsageError, match="both act on 'one random draw for all rows of a network call'"):
        accelerate(case.pipe, [*easy, ToMe()])
    together = case.call(accelerate(case.pipe, [*easy, ToMe(rand=False)]), [0, 1, 2])
    assert torch.isfinite(together).all()
    assert_alike("sd", together[2:], case.call(accelerate(case.pipe, [*easy, ToMe(rand=False)]), [2]))
