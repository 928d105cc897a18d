"""Key steps chosen from distances, against every possible set."""

import itertools

import pytest
import torch
from diffusers import DDIMScheduler

from postdiff.engine.errors import UsageError
from postdiff.lab.analysis.key_selection import select_keys, solver_weights, staleness


def distances(steps, seed):
    points = torch.randn(steps, 3, generator=torch.Generator().manual_seed(seed)).cumsum(0)
    return (points[:, None] - points).square().sum(-1)


def by_hand(distance, keys, weights):
    """The error of every step on the last key step before it."""
    return sum(
        weights[step] * float(distance[max(key for key in keys if key <= step), step]) for step in range(len(distance))
    )


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_choice_is_the_best_of_all(steps, weighted):
    for seed in range(4):
        distance = distances(steps, seed)
        weights = torch.rand(steps, generator=torch.Generator().manual_seed(seed)).tolist()
        weights = weights if weighted else [1.0] * steps
        for count in range(1, steps + 1):
            keys = select_keys(distance, count, weights if weighted else None)
            assert keys[0] == 0 and keys == sorted(set(keys)) and len(keys) == count
            every = [(0, *rest) for rest in itertools.combinations(range(1, steps), count - 1)]
            best = min(by_hand(distance, one, weights) for one in every)
            assert by_hand(distance, keys, weights) == pytest.approx(best, abs=1e-9)
            assert staleness(distance, keys, weights) == pytest.approx(best, abs=1e-9)


def test_keys_gather_where_features_change():
    # Still but for a jump at step 3 and one at step 7.
    place = torch.tensor([0.0, 0, 0, 5, 5, 5, 5, 9, 9, 9])
    assert select_keys((place[:, None] - place).square(), 3) == [0, 3, 7]


def test_only_what_a_key_gives_to_later_steps_is_read():
    distance = distances(6, 0)
    spoilt = distance.triu(1) + torch.full((6, 6), torch.nan).tril()
    assert select_keys(spoilt.nan_to_num(1e9), 3) == select_keys(distance, 3)


def test_weights_draw_keys_to_where_errors_count():
    steady = torch.arange(10.0)
    distance = (steady[:, None] - steady).square()
    assert select_keys(distance, 3, [1.0] * 5 + [0.0] * 5) == select_keys(distance[:5, :5], 3)


@pytest.mark.parametrize("count", [0, 7])
def test_a_number_of_keys_that_does_not_fit(count):
    with pytest.raises(UsageError, match=f"{count} key steps do not fit a run of 6 steps"):
        select_keys(distances(6, 0), count)


def test_weights_of_a_solver():
    assert solver_weights([3.0, 1.0, 0.5, 0.0]) == [4.0, 0.25, 0.25]
    assert solver_weights([3.0, 1.0, 0.0], "v_prediction") == pytest.approx([4 / 10, 1 / 2])
    with pytest.raises(UsageError, match="unknown kind of prediction 'velocity'"):
        solver_weights([1.0, 0.0], "velocity")


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_small_error_moves_the_end_of_a_run_by_its_weight(kind):
    """DDIM without a network: the change of the final latents by an error at one step, squared."""
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(6)
    start = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    levels = [*((1 - kept) / kept).sqrt().tolist(), 0.0]
    guesses = {step: 0.3 * start for step in range(6)}

    def end(wrong):
        latents = start
        for step, timestep in enumerate(scheduler.timesteps):
            latents = scheduler.step(guesses[step] + (step == wrong) * 1e-3, timestep, latents).prev_sample
        return latents

    for step, weight in enumerate(solver_weights(levels, kind)):
        moved = float(((end(step) - end(None)) / 1e-3).square().mean())
        later = _reaction(kind, levels[step + 1 :])
        assert moved == pytest.approx(weight * later, rel=1e-3)


def _reaction(kind, levels):
    """With a prediction held fast, what follows scales a change of x / alpha by this; 1 for epsilon."""
    scale = 1.0
    for now, then in itertools.pairwise(levels):
        if kind == "v_prediction":  # noise = alpha v + sigma x, and sigma x = alpha sigma (x / alpha)
            scale *= 1 + (then - now) * now / (1 + now**2)
        elif kind == "sample":  # noise = (x / alpha - x0) / level
            scale *= 1 + (then - now) / now
    return scale**2
