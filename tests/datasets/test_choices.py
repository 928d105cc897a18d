"""Which captions, prompts and classes are chosen: every rule, worked out by hand."""

import collections
import hashlib
import json

import pytest

from postdiff.datasets import choice, coco
from postdiff.datasets.lines import Line
from postdiff.engine.errors import UsageError
from tests.datasets.conftest import annotations


@pytest.fixture
def captions():
    return coco.parse(json.dumps(annotations()), "captions.json")


def rank(seed, kind, name):
    return hashlib.sha256(f"{seed}:{kind}:{name}".encode()).hexdigest()


def test_all_images_come_by_number_with_the_caption_that_is_first_in_the_file(captions):
    lines, message = coco.choose(captions, "first", None, 0)
    assert message == "all 20 images; the first caption of each"
    assert [line.image for line in lines] == [f"COCO_val2014_{7 * n:012d}.jpg" for n in range(1, 21)]
    # Image 7 stands last; its first caption has number 1000 - 19, and is not that with the lowest number.
    assert lines[0] == Line("7-981", "a black star, number 0", "COCO_val2014_000000000007.jpg")


def test_fewer_images_are_the_first_by_hash(captions):
    lines, message = coco.choose(captions, "first", 6, 5)
    assert message == "6 of 20 images, seed 5; the first caption of each"
    expected = sorted((7 * n for n in range(1, 21)), key=lambda n: rank(5, "image", n))[:6]
    assert [int(line.id.split("-")[0]) for line in lines] == expected
    assert coco.choose(captions, "first", 3, 5)[0] == lines[:3], "a smaller choice begins a larger one"
    assert coco.choose(captions, "first", 6, 6)[0] != lines


def test_a_random_caption_of_each_image(captions):
    lines, _ = coco.choose(captions, "random", None, 1)
    numbers = {7 * (20 - i): [1000 - place * 20 - i for place in range(3)] for i in range(20)}
    expected = [f"{n}-{min(numbers[n], key=lambda c: rank(1, 'caption', c))}" for n in sorted(numbers)]
    assert [line.id for line in lines] == expected
    assert len({line.prompt[-1] for line in lines}) > 1


def test_random_captions_may_share_an_image(captions):
    lines, message = coco.choose(captions, "captions", 30, 0)
    assert message == "30 of 60 captions drawn with seed 0" and len({line.id for line in lines}) == 30
    assert len({line.image for line in lines}) < 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"].append(c["images"][0]), "image 21: two images have the id 140"),
        (lambda c: c["images"][2].update(file_name="../x.jpg"), "image 3: image '../x.jpg' is no file name"),
        (lambda c: c["images"][0].pop("file_name"), "image 1: image None is no file name"),
        (lambda c: c["annotations"].append(c["annotations"][4]), "annotation 61: two annotations have the id 996"),
        (lambda c: c["annotations"][1].update(image_id=3), "annotation 2 belongs to image 3, which the file does not"),
        (lambda c: c["annotations"][1].update(caption=" \n"), "annotation 2: the prompt is empty"),
        (lambda c: c["annotations"][1].update(caption="x" * 5000), "annotation 2: the prompt has 5000 characters"),
        (lambda c: c["annotations"][1].update(caption=None), "annotation 2: the prompt must be text"),
        (lambda c: c["annotations"][0].pop("caption"), "annotation 1 has no key 'caption'; use captions_"),
        (lambda c: c["annotations"][0].update(id=-4), "annotation 1 has no whole number 'id'"),
        (lambda c: c["annotations"].clear(), "holds no captions"),
        (lambda c: c.pop("images"), "is no COCO annotation file"),
    ],
)
def test_broken_annotations(change, message):
    content = annotations()
    change(content)
    with pytest.raises(UsageError, match=message):
        coco.parse(json.dumps(content), "captions.json")


def test_a_truncated_annotation_file():
    with pytest.raises(UsageError, match=r"captions.json is not JSON at line 1, column \d+ .*fetch it again"):
        coco.parse(json.dumps(annotations())[:500], "captions.json")


@pytest.mark.parametrize(("rule", "most"), [("first", 20), ("random", 20), ("captions", 60)])
def test_no_more_than_there_are(captions, rule, most):
    assert len(coco.choose(captions, rule, most, 0)[0]) == most
    with pytest.raises(UsageError, match=f"count={most + 1}, but captions.json has {most} .*; use at most that"):
        coco.choose(captions, rule, most + 1, 0)


LINES = [Line(f"n{i}", f"prompt {i}") for i in range(10)]


def test_prompts_in_order_or_drawn():
    assert choice.choose_prompts(LINES, "in_order", 3, 0, "p.txt") == (LINES[:3], "the first 3 of 10 prompts")
    drawn, message = choice.choose_prompts(LINES, "random", 4, 2, "p.txt")
    assert message == "4 of 10 prompts drawn with seed 2"
    assert drawn == [LINES[i] for i in sorted(range(10), key=lambda i: rank(2, "line", i))[:4]]
    with pytest.raises(UsageError, match="count=11, but p.txt has 10 prompts; use at most that"):
        choice.choose_prompts(LINES, "random", 11, 0, "p.txt")
    with pytest.raises(UsageError, match="unknown rule for prompts 'ramdom'; did you mean 'random'"):
        choice.choose_prompts(LINES, "ramdom", 1, 0, "p.txt")


CLASSES = [Line(str(i), f"name {i}", None, i) for i in range(10)]


def test_balanced_classes_stay_balanced_when_cut():
    lines, _ = choice.choose_classes(CLASSES, "balanced", 50, 0)
    assert set(collections.Counter(line.label for line in lines).values()) == {5}
    assert [line.label for line in lines[:10]] == list(range(10)) and len({line.id for line in lines}) == 50
    assert all(line.prompt == f"name {line.label}" for line in lines)
    with pytest.raises(UsageError, match="count=51 is no multiple of 10 classes.*use 60, or --choose random"):
        choice.choose_classes(CLASSES, "balanced", 51, 0)


def test_random_classes_are_uniform_and_each_drawn_by_itself():
    lines, _ = choice.choose_classes(CLASSES, "random", 2000, 4)
    counts = collections.Counter(line.label for line in lines)
    # Chi squared with 9 degrees of freedom passes 27.9 once in a thousand.
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 27.9 and len(set(counts.values())) > 1
    assert choice.choose_classes(CLASSES, "random", 7, 4)[0] == lines[:7]
