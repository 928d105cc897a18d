"""What network and solver take, against the rows that methods see; several networks in a run; further results."""

import pytest
import torch

from postdiff import accelerate
from postdiff.cost.on_meta import OnMeta, Seen, pin_to_cpu
from postdiff.engine import packing, token_grid
from postdiff.engine.branches import on_batched
from postdiff.engine.errors import UsageError
from postdiff.engine.family import FAMILIES, Family
from postdiff.engine.intercept import intercept
from postdiff.engine.layouts import layout_of
from postdiff.methods import FORA, CFGCutoff, CrossAttentionCache, GuidanceInterval, MixedResolution
from postdiff.methods.base import Method
from tests.support.twins import TWINS


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def places(*images):
    """(tokens, 3) of images, each (number, rows, columns)."""
    each = [torch.cartesian_prod(torch.tensor([n]), torch.arange(h), torch.arange(w)) for n, h, w in images]
    return torch.cat(each)


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize("frames", [None, 3])
def test_tokens_are_unpacked_as_they_were_packed(side, frames):
    latents = random(2, 4, *([frames] if frames else []), 4, 6)
    tokens = packing.pack(latents, side)
    assert tokens.shape == (2, (frames or 1) * 24 // side**2, 4 * side**2)
    assert torch.equal(packing.unpack(tokens, (4, 6), side, frames), latents)


@pytest.mark.parametrize(
    ("told", "grid"),
    [
        ({"img_ids": places((0, 2, 3))}, (2, 3, None, 0)),
        ({"img_ids": places((0, 2, 3), (1, 4, 1), (2, 1, 1))}, (2, 3, None, 5)),
        ({"img_ids": places((0, 2, 3), (10, 4, 1))[None].expand(2, -1, -1)}, (2, 3, None, 4)),
        ({"position_ids": torch.cat([torch.zeros(5, 3), places((0, 2, 3))])}, (2, 3, None, 0)),
        ({"img_shapes": [[(1, 2, 3), (1, 4, 1)]] * 2}, (2, 3, None, 4)),
        ({"num_frames": 2, "height": 1, "width": 3}, (1, 3, 2, 0)),
    ],
)
def test_own_tokens_are_found_among_those_of_other_images(told, grid):
    found = token_grid.own_tokens(6 + grid[3], told)
    assert found == token_grid.TokenGrid(*grid) and len(found) == 6
    with pytest.raises(UsageError, match="packs its latents, or images with them, in a way"):
        token_grid.own_tokens(7 + grid[3], told)


def test_places_that_are_scattered_are_not_guessed():
    with pytest.raises(UsageError, match="in a way that the driver does not know"):
        token_grid.own_tokens(7, {"img_ids": places((0, 1, 3), (1, 1, 1), (0, 1, 3))})
    with pytest.raises(UsageError, match="in a way that the driver does not know"):
        token_grid.own_tokens(7, {"img_ids": places((1, 1, 1), (0, 2, 3))})


def test_other_images_keep_their_size_and_are_cut_with_their_rows():
    """Tokens of a 2 x 4 grid before 5 of other images; the network then sees a 2 x 2 grid."""
    family = Family("transformer", cfg=("cond", "uncond"), layout="tokens")
    ids = torch.cat([places((0, 2, 4)), places((7, 1, 2)), places((8, 3, 1))])
    tokens, mask = random(4, 13, 5), torch.ones(4, 6 + 13)
    mask[:, :2] = 0
    given = {"img_ids": ids, "attention_mask": mask}
    layout = layout_of(family, methods=True)
    rows = layout.opened(tokens, given)
    assert rows.shape == (4, 5, 2, 4)
    same, told = layout.closed(rows, given, (2, 4))
    assert torch.equal(same, tokens) and told.keys() == {"img_ids", "attention_mask"}
    assert torch.equal(layout.result(layout.predicted(tokens, rows)), tokens[:, :8])
    half = on_batched(lambda each: each[:2], given, 4, family)
    small, told = layout.closed(rows[:2, :, :, ::2], half, (2, 4))
    assert small.shape[1] == 9 and torch.equal(small[:, 4:], tokens[:2, 8:])
    assert torch.equal(told["img_ids"], torch.cat([places((0, 2, 2)), places((7, 1, 2)), places((8, 3, 1))]))
    assert told["attention_mask"].shape == (2, 6 + 9) and not told["attention_mask"][:, :2].any()


def test_a_list_with_an_item_a_row_is_cut_by_rows():
    """Its items may be as long as there are rows: they are not what is cut."""
    family = Family("transformer", layout="list")
    texts = [random(length, 2) for length in (4, 5, 4, 3)]
    found = on_batched(lambda rows: rows[2:], {"texts": texts, "pair": texts[:2]}, 4, family)
    assert [id(each) for each in found["texts"]] == [id(each) for each in texts[2:]]
    rest = on_batched(lambda rows: rows[:1], {"residuals": texts}, 4, Family("transformer"))
    assert [len(each) for each in rest["residuals"]] == [1, 5, 1, 3]


class Steps(Method):
    """Counts calls of the solver and of every network's first block."""

    def attach(self, network, state):
        def count(name):
            def around(forward, *args, **kwargs):
                state.counts[name] += 1
                return forward(*args, **kwargs)

            return around

        yield intercept(state.scheduler, "step", count("steps"))
        yield intercept(network.blocks[0], "forward", count(f"calls of {id(network)}"))


def test_networks_that_take_turns_share_one_schedule():
    twin = TWINS["wan22"]()
    first, second = twin.pipe.transformer, twin.pipe.transformer_2
    fast = accelerate(twin.pipe, [Steps(), FORA(interval=4)])
    twin.call(fast)
    calls = [fast.counts[f"calls of {id(network)}"] for network in (first, second)]
    assert fast.network is first and fast.counts["steps"] == 4 and all(calls) and sum(calls) == 4 * 2
    modules = len(list(FORA().claims(first)))
    # Each network computes its own modules once a branch, for a result of the other is none of its own.
    assert fast.counts["fora misses"] == 2 * 2 * modules
    assert twin.call(accelerate(twin.pipe, [MixedResolution(beta=0.5, switch=3), CFGCutoff(gate=2)])).isfinite().all()
    alone = TWINS["wan22"]()
    alone.pipe.register_modules(transformer_2=None)
    alone.pipe.register_to_config(boundary_ratio=None)
    expected = alone.call(alone.pipe, guidance_scale_2=None)
    assert torch.equal(alone.call(accelerate(alone.pipe, [FORA(interval=1)]), guidance_scale_2=None), expected)


@pytest.mark.parametrize("name", ["sdxl_pag", "sd_pag_unguided", "sdxl_pag_controlnet"])
@pytest.mark.parametrize(
    "method", [CFGCutoff(gate=2), GuidanceInterval(low=0.5, high=5.0), CrossAttentionCache(gate=3)]
)
def test_a_batch_that_the_network_takes_apart_is_left_whole(name, method):
    twin = TWINS[name]()
    fast = accelerate(twin.pipe, [method])
    with pytest.raises(UsageError, match="computes parts of a batch, and this pipeline's perturbed attention"):
        twin.call(fast)
    assert not fast.counts
    if name == "sdxl_pag":
        plain = TWINS[name]()  # after an exception the pipeline itself leaves its attention processors behind
        assert plain.call(accelerate(plain.pipe, [method]), pag_scale=0.0).isfinite().all()


def test_further_results_stand_for_as_many_branches():
    """A video and its sound in one call: the branch that goes on alone gives both for all."""
    twin = TWINS["ltx2"]()
    shapes = []

    def note(module, args, output):
        shapes.append([len(each) for each in output[:2]])

    handle = twin.pipe.transformer.register_forward_hook(note)
    twin.call(accelerate(twin.pipe, [CFGCutoff(gate=2)]))
    handle.remove()
    assert shapes == [[4, 4]] * 4


def test_a_row_has_few_columns():
    assert len(Family.__dataclass_fields__) <= 16
    assert len(FAMILIES) > 90


@pytest.mark.parametrize(
    "name", ["flux_kontext_guided", "flux2_klein_image", "krea2", "flux_controlnet_guided", "wan22"]
)
def test_work_is_counted_without_weights(name):
    """Networks on the meta device see shapes alone; the pipeline goes on with numbers."""
    twin, seen = TWINS[name](), Seen()
    for part in ("transformer", "transformer_2", "controlnet"):
        if (network := getattr(twin.pipe, part, None)) is not None:
            network.to("meta")
    twin.pipe = pin_to_cpu(twin.pipe)
    twin.call(accelerate(twin.pipe, [MixedResolution(beta=0.5, switch=2), OnMeta(seen)]))
    full = (8, 6) if name.startswith("flux2") else (16, 12)  # there 2 x 2 pixels are one, of four times the channels
    half = (full[0] // 2, full[1] // 2)
    assert [seen.sizes[step] for step in range(4)] == [half, half, full, full]
