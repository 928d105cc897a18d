"""Where encoder propagation is refused, and with what words."""

import pytest

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.methods import DeepCache, EncoderPropagation


@pytest.mark.parametrize("order", [1, -1])
def test_refused_beside_deepcache(case, order):
    """Both keep down blocks, each by its own schedule."""
    stack = [EncoderPropagation(4), DeepCache()][::order]
    with pytest.raises(UsageError, match="EncoderPropagation.* both act on 'down_blocks|DeepCache.* both act on 'down"):
        accelerate(case("sd").pipe, stack)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": "sd_5"}, "unknown key set of EncoderPropagation 'sd_5'; did you mean 'sd_50'?"),
        ({"keys": "sd_50"}, "key set 'sd_50' is for 50 steps, this run has 8; use a stride or a list of steps"),
        ({"keys": [1, 3]}, "keys=.1, 3. must hold step 0: before it there is nothing to propagate"),
        ({"keys": []}, "must hold step 0"),
        ({"keys": [0, 8]}, "key step 8 is past the end of this run of 8 steps"),
        ({"split": 2}, "split=2 is for transformers; UNet2DConditionModel splits itself"),
    ],
    ids=str,
)
def test_keys_that_do_not_fit_are_one_clear_line(case, options, message):
    one = case("sd")
    with pytest.raises(UsageError, match=message) as caught:
        one.call(accelerate(one.pipe, [EncoderPropagation(**options)]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keys", [0, -2])
def test_a_stride_below_one(keys):
    with pytest.raises(UsageError, match="keys.*a stride of 1 or more"):
        EncoderPropagation(keys)


@pytest.mark.parametrize("options", [{"max_parallel": -1}, {"decoding": "both"}, {"propagate": "all"}, {"keys": 2.5}])
def test_bad_options(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        EncoderPropagation(**options)


@pytest.mark.parametrize("split", [0, 3, 28])
def test_a_split_outside_the_blocks(case, split):
    with pytest.raises(UsageError, match=f"split={split} is outside the 3 blocks; use 1 to 2"):
        accelerate(case("dit").pipe, [EncoderPropagation(4, split=split)])


@pytest.mark.parametrize("name", ["sd3", "sana", "hunyuan"])
def test_a_network_without_two_halves(case, name):
    with pytest.raises(UsageError, match="needs an encoder and a decoder.*is neither"):
        accelerate(case(name).pipe, [EncoderPropagation(4)])
