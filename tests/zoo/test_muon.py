"""The optimiser of the model that combines: torch's own on matrices, in whole numbers instead of halves, and AdamW."""

import copy

import pytest
import torch
from torch import nn

from experiments.styles.muon import SIZE, Muon, groups, orthogonal


@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (40, 40), (1, 9)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.6 and values.max() < 1.3
    own_left, _, own_right = torch.linalg.svd(matrix, full_matrices=False)
    polar = own_left @ own_right
    # What is left of the difference to the orthogonal matrix nearest to it are the singular values.
    assert (orthogonal(matrix) - polar).norm() < 0.35 * polar.norm()
    torch.testing.assert_close(orthogonal(1e4 * matrix), orthogonal(matrix), rtol=0, atol=1e-4)


def steps(optimiser, module, count):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        for parameter in module.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator) / 10
        optimiser.step()
    return list(module.parameters())


def test_matrices_go_as_with_torch():
    torch.manual_seed(0)
    first = nn.Linear(48, 32, bias=False)
    second = copy.deepcopy(first)
    words = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    [theirs] = steps(torch.optim.Muon(first.parameters(), adjust_lr_fn="match_rms_adamw", **words), first, 4)
    [ours] = steps(Muon(groups(second, ()), lr=0.02, decay=0.1), second, 4)
    # Theirs is in bfloat16.
    assert (ours - theirs).norm() < 0.01 * theirs.norm()
    start = copy.deepcopy(second)
    steps(Muon(groups(second, ()), lr=1.0, decay=0.0), second, 1)
    change = (second.weight - start.weight).square().mean().sqrt()
    assert 0.7 * SIZE < change < 1.2 * SIZE


def test_the_rest_goes_as_with_adamw():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3))
    second = copy.deepcopy(first)
    assert [len(group["params"]) for group in groups(second, ("0.",))] == [1, 5]
    theirs = steps(torch.optim.AdamW(first.parameters(), lr=0.01, betas=(0.9, 0.98), weight_decay=0.01), first, 5)
    ours = steps(Muon(groups(second, ("0.",)), lr=0.01), second, 5)
    for one, other, (name, _) in zip(theirs, ours, first.named_parameters(), strict=True):
        same = torch.allclose(one, other, rtol=0, atol=1e-6)
        assert same == (name != "2.weight"), name


def test_threads_change_nothing():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 4))
    second = copy.deepcopy(first)
    one = steps(Muon(groups(first, ())), first, 3)
    two = steps(Muon(groups(second, ()), threads=2), second, 3)
    assert all(torch.equal(*pair) for pair in zip(one, two, strict=True))


def test_mixed_precision_does_not_reach_the_step():
    torch.manual_seed(0)
    first = nn.Linear(32, 32)
    second = copy.deepcopy(first)
    one = steps(Muon(groups(first, ())), first, 2)
    with torch.autocast("cpu", torch.bfloat16):
        two = steps(Muon(groups(second, ())), second, 2)
    assert all(torch.equal(*pair) for pair in zip(one, two, strict=True))


def test_a_parameter_without_a_gradient_stays():
    module = nn.Linear(4, 4)
    before = copy.deepcopy(module)
    module.bias.grad = torch.ones(4)
    Muon(groups(module, ())).step()
    assert torch.equal(module.weight, before.weight) and not torch.equal(module.bias, before.bias)
