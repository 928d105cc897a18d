"""Five concepts, discs in the place of their drawings, and an autoencoder that knows nothing."""

from pathlib import Path

import pytest
import torch

from experiments.styles.drawings import Drawings
from experiments.styles.split import Split, choose
from experiments.styles.vae import StylesVAE
from tests.support.styles import CONCEPTS


@pytest.fixture(scope="module")
def split() -> Split:
    return choose(list(CONCEPTS))


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Drawings:
    """A disc of another size and colour for every concept, where the rendered icons would be."""
    folder = tmp_path_factory.mktemp("data")
    across = torch.linspace(-1, 1, 256)
    discs = []
    for place in range(len(CONCEPTS)):
        inside = across[:, None] ** 2 + across[None] ** 2 < (0.5 + 0.1 * place) ** 2
        colour = torch.tensor([40 * place, 120, 250 - 40 * place, 255]).view(4, 1, 1)
        discs.append((inside * colour).byte())
    sets = {"noto": torch.stack(discs), "high-contrast": torch.stack(discs).flip(0)}
    torch.save({"concepts": list(CONCEPTS), "drawings": sets}, folder / "drawings.pt")
    return Drawings(folder, list(CONCEPTS))


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an autoencoder that knows nothing."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("state")
    StylesVAE(channels=(8, 8, 8), from_emoji=False).vae.save_pretrained(folder / "vae")
    return folder
