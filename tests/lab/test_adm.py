"""Export of a row's images for the ADM evaluator."""

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from postdiff.engine.errors import UsageError
from postdiff.lab import export as adm
from postdiff.lab.data.samples import Sample
from postdiff.lab.images.image_folder import ImageFolder
from tests.metrics import networks

FEW = ["--rows", "plain", "seeds=[0,1]", "count=2"]


def test_a_row_becomes_one_file(tiny, outputs, command, refused):
    message = refused("export", "tiny", *FEW)
    assert "4 of 4 images of row 'plain' are missing" in message and "postdiff run tiny --rows plain" in message
    code, _, err = command("run", "tiny", *FEW, "bench.repeats=0", "metrics=[]")
    assert code == 0, err
    code, out, err = command("export", "tiny", *FEW)
    assert code == 0, err
    with np.load(out.strip()) as found:
        images = found["arr_0"]
        assert found.files == ["arr_0"] and images.shape == (4, 32, 32, 3) and images.dtype == np.uint8
    [folder] = (outputs / "images").glob("*")
    files = [folder / str(seed) / f"{index:05d}.png" for seed in (0, 1) for index in (0, 1)]
    assert np.array_equal(images, np.stack([np.array(Image.open(file)) for file in files]))
    assert "choose with --rows one of plain, cached" in refused("export", "tiny")
    assert "must end in .npz" in refused("export", "tiny", *FEW, "--out", str(outputs / "a.zip"))


def written(folder, images, labels=None):
    all_images = ImageFolder(folder)
    samples = [Sample(i, "", 0, label=None if labels is None else labels[i]) for i in range(len(images))]
    for sample, image in zip(samples, images, strict=True):
        all_images.write([sample], image[None])
    return all_images, samples


def test_classes_come_along(tmp_path):
    images = networks.images(0, 3, 16)
    folder, samples = written(tmp_path / "images", images, [7, 0, 7])
    adm.write(tmp_path / "out.npz", folder, samples)
    with np.load(tmp_path / "out.npz") as found:
        assert found["arr_1"].tolist() == [7, 0, 7] and found["arr_1"].dtype == np.int64
        assert np.array_equal(found["arr_0"], images.permute(0, 2, 3, 1).numpy())


def test_memory_does_not_grow_with_the_images(tmp_path):
    size = 128
    folder, samples = written(tmp_path / "images", torch.zeros(40, 3, size, size, dtype=torch.uint8))
    tracemalloc.start()
    adm.write(tmp_path / "out.npz", folder, samples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * size * size * 3, "a few images, and not all forty"


def test_images_of_unequal_size_are_refused(tmp_path):
    folder, samples = written(tmp_path / "images", [networks.images(0, 1, size)[0] for size in (16, 20)])
    with pytest.raises(UsageError, match="is 20 x 20, the first one 16 x 16"):
        adm.write(tmp_path / "out.npz", folder, samples)
