"""A tiny data set in the format of COCO, and the command line with a fresh outputs folder."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

# The same fixtures that the laboratory's tests have.
from tests.lab.conftest import command, outputs, refused  # noqa: F401

COLOURS = ("red", "green", "blue", "yellow", "black")
THINGS = ("heart", "apple", "car", "star")


def annotations(images=20, each=3):
    """An annotation file's content: `images` images out of order, `each` captions an image, numbered from behind."""
    numbers = [7 * (images - i) for i in range(images)]
    all_images = [{"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg"} for number in numbers]
    captions = [
        {
            "id": 1000 - place * images - i,
            "image_id": number,
            # Some of the real ones end in a line break and hold two spaces.
            "caption": f"a {COLOURS[(i + place) % 5]} {THINGS[i % 4]},  number {place}\n",
        }
        for place in range(each)
        for i, number in enumerate(numbers)
    ]
    return {"info": {}, "images": all_images, "annotations": captions}


@pytest.fixture
def coco(tmp_path):
    """Folder with `captions.json`, `captions.zip` (the same inside `annotations/`) and `images/`."""
    content = annotations()
    (tmp_path / "images").mkdir()
    for place, image in enumerate(content["images"]):
        pixels = np.full((24, 32, 3), 12 * place, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / image["file_name"])
    (tmp_path / "captions.json").write_text(json.dumps(content))
    with zipfile.ZipFile(tmp_path / "captions.zip", "w") as archive:
        archive.writestr("annotations/captions_val2014.json", json.dumps(content))
        archive.writestr("annotations/instances_val2014.json", "{}")
    return tmp_path
