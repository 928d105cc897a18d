"""Beside a method that computes some images of a batch alone, every other method still serves each image for itself."""

from dataclasses import dataclass, field

import pytest
import torch

from postdiff import accelerate, catalog
from postdiff.engine.claims import DRAWS, ROWS, WHOLE_CALLS
from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of
from postdiff.methods import ToMe
from postdiff.methods.base import Method
from tests.methods.test_properties import assert_alike
from tests.support.subjects import CACHES, SETTINGS, asked, case_of, subject
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


@dataclass
class _Onlooker(Method):
    """Notes of how many images each call of the network has rows."""

    innermost = 1
    images: list[int] = field(default_factory=list)

    def denoise(self, forward, sample, kwargs, state):
        self.images.append(len(state.images))
        return forward(sample, kwargs)


@pytest.mark.parametrize("family", ["sd", "dit", "flux_cfg"])
@pytest.mark.parametrize("name", (*CACHES, *SETTINGS))
def test_who_hands_images_out_alone_claims_rows_and_draws(name, family):
    """How often the network is called depends on an image's neighbours then, and so would one draw for all of them."""
    if not asked("reference", name, family):
        pytest.skip("refused there")
    case, setting, _ = case_of(family)
    onlooker = _Onlooker()
    case.call(accelerate(case.pipe, [*subject(name, family).stack(), onlooker]), [0, 1, 2])
    claimed = {claim for method in subject(name, family).stack() for claim in method.claims(setting.network)}
    assert 3 in onlooker.images
    apart = {*onlooker.images} != {3} or (subject(name, family).adaptive and WHOLE_CALLS in claimed)
    assert not apart or {ROWS, DRAWS} <= claimed


def test_one_draw_for_all_images_is_refused_beside_it():
    """An image alone is drawn for at fewer calls of the network than a batch."""
    case, _, _ = case_of("sd")
    easy = subject("easy_cache", "sd").stack()
    with pytest.raises(UsageError, match="both act on 'one random draw for all rows of a network call'"):
        accelerate(case.pipe, [*easy, ToMe()])
    together = case.call(accelerate(case.pipe, [*easy, ToMe(rand=False)]), [0, 1, 2])
    assert torch.isfinite(together).all()
    assert_alike("sd", together[2:], case.call(accelerate(case.pipe, [*easy, ToMe(rand=False)]), [2]))
