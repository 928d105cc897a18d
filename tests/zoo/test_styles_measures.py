"""What is said of the model that combines: scores, likeness, and the loss on pairs that it never saw."""

from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, DDPMScheduler

from experiments.styles import likeness
from experiments.styles.captions import Subject
from experiments.styles.differences import named_right
from experiments.styles.held_loss import v_losses
from experiments.styles.measure import asked, by_style, measure_copies, measure_loss, retrieved
from experiments.styles.unet import NOISE
from tests.support.styles import train


def test_scores_tell_right_from_wrong(drawings, split):
    labels = torch.tensor([0, 3, 59])
    scores = torch.nn.functional.one_hot(labels, 60).float()
    assert retrieved(scores, labels).tolist() == [1, 1, 1]
    assert retrieved(-scores, labels).tolist() == [0, 0, 0]
    row = by_style(torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 2, 3]))
    assert row == {"cartoon": 0.5, "stencil": 1, "pixel": 1, "outline": 0, "mean": 0.625, "images": 5}
    # The discs of cartoon and outline differ; those of cartoon and pixel are near copies.
    copies = measure_copies(drawings, split)["nearest copy, seen"]
    assert 0 < copies["pixel"] < copies["outline"] and copies["least"] <= copies["pixel"]


def test_the_true_drawing_is_told_from_the_nearest_of_training(drawings, split):
    subjects = asked(split)["held"]
    assert all(
        (one.concept, one.style) in split.pairs and one.colour in split.seen_colours(one.style) for one in subjects
    )
    assert len({(one.concept, one.style, one.colour) for one in subjects}) == len(subjects) == 3 * len(split.pairs)
    right = drawings.images([(split.concepts.index(one.concept), one.style, one.colour) for one in subjects])
    true, nearest = likeness.to_true_and_nearest(right, subjects, drawings, split)
    assert true.max() < 1e-4 and nearest.min() > 0.01
    # What copies an image of training is at zero from that one.
    concept, style = next(one for one in split.seen_pairs() if one[1] == subjects[0].style)
    copy = drawings.image(split.concepts.index(concept), style, subjects[0].colour)[None]
    true, nearest = likeness.to_true_and_nearest(copy, subjects[:1], drawings, split)
    assert nearest.item() < 1e-4 < 0.01 < true.item()


def test_seeds_and_prompts_are_compared_with_their_like():
    subjects = [Subject("cat", "pixel", "red"), Subject("key", "pixel", "red"), Subject("key", "pixel", "blue")]
    values = torch.tensor([[0.2, 0.4, 0.9], [0.2, 0.6, 0.9]]).view(2, 3, 1, 1, 1)
    images = values * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    seeds = likeness.of_seeds(images)
    assert seeds.shape == (3,) and seeds[[0, 2]].max() < 1e-4 < seeds[1]
    prompts = likeness.of_prompts(images, subjects)
    # The third differs in colour from the first, and in nothing but that from the second.
    assert prompts.shape == (2,)
    torch.testing.assert_close(prompts, likeness.lpips(images[:, 0], images[:, 1]))


def test_a_style_is_known_by_its_difference():
    generator = torch.Generator().manual_seed(0)
    concept = torch.rand(6, 1, 3, 8, 8, generator=generator)
    styles = torch.rand(1, 4, 3, 8, 8, generator=generator)
    right, cosine = named_right(concept + 0.5 * styles, concept.flip(0) + styles)
    # Whatever the concept looks like, and however weakly it is applied.
    assert right.min() == 1 and cosine.min() > 0.999
    right, cosine = named_right(concept + styles.flip(1), concept + styles)
    assert right.max() == 0 and cosine.mean() < 0


def test_who_knows_the_latents_has_no_loss():
    scheduler, latents = DDPMScheduler(**NOISE), torch.randn(40, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    levels, places = [], iter(range(40))

    def knowing(noisy, t, context):
        # v of the latents and of the noise that is seen when they are known.
        levels.extend(t.tolist())
        own = latents[[next(places) for _ in t]]
        signal = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (noisy - signal.sqrt() * own) / (1 - signal).sqrt()
        return SimpleNamespace(sample=signal.sqrt() * noise - (1 - signal).sqrt() * own)

    losses, t = v_losses(knowing, torch.zeros(40, 16, 4), latents)
    assert losses.max() < 1e-6 and levels == t.tolist()
    assert sorted(t.tolist()) == [12 + 25 * place for place in range(40)], "evenly over the schedule"
    # Who says nothing has the mean square of v, and at pure noise that of the latents.
    silent, again = v_losses(lambda noisy, *_: SimpleNamespace(sample=0 * noisy), torch.zeros(40, 16, 4), latents)
    assert torch.equal(t, again)
    torch.testing.assert_close(silent[t.argmax()], latents[t.argmax()].square().mean(), atol=0.05, rtol=0)


def test_the_loss_is_told_of_held_out_and_of_seen_pairs(drawings, split, state, tmp_path):
    train(tmp_path, state / "vae", drawings, split, 1)
    vae = AutoencoderKL.from_pretrained(state / "vae")
    table, again = (measure_loss(tmp_path / "model", vae, drawings, split) for _ in range(2))
    for name, subjects in asked(split).items():
        row = table[f"v-loss, {name} pairs"]
        assert row["images"] == len(subjects)
        quarters = {f"t from {start}": row[f"t from {start}"] for start in (0, 250, 500, 750)}
        assert min(quarters.values()) > 0 and quarters.items() <= again[f"v-loss, {name} pairs"].items()
        # Of few concepts some styles have no pair that is held out.
        styles = [row[style] for style in {str(one.style) for one in subjects}]
        assert min(quarters.values()) <= max(styles) and min(styles) <= max(quarters.values())
