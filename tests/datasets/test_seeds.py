"""Lines with seeds of their own: from a column of a file to the numbers that an image is drawn with, and to ids."""

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from postdiff.datasets import files
from postdiff.datasets.manifest import Manifest
from postdiff.engine.errors import UsageError
from postdiff.lab.config import experiment
from postdiff.lab.data import data_cards
from postdiff.lab.data import samples as samples_
from postdiff.lab.pipelines import cards, models
from postdiff.lab.plan import plan
from postdiff.lab.records.record import Record
from tests.datasets.test_runs_on_data import own_card, tiny  # noqa: F401

# As the 30,000 captions of COCO come with seeds.
COCO = (
    "image_id,source,prompt,evaluation_seed\r\n000000203564,coco-30k,a red heart,41337\r\n"
    '000000179765,coco-30k,"an owl, asleep",63155\r\n000000322141,coco-30k,a blue car,41337\r\n'
)
SEEDS = [41337, 63155, 41337]
COLUMN = ["--seed-column", "evaluation_seed"]


@pytest.fixture
def coco_30k(tmp_path):
    file = tmp_path / "coco_30k.csv"
    file.write_text(COCO, newline="")
    return file


def numbers(sample):
    return torch.randn(4, generator=samples_.generator(sample))


def drawn_with(seed):
    return torch.randn(4, generator=torch.Generator("cpu").manual_seed(seed))


def prepared(name, **words):
    return plan.plan_rows(experiment.load("tiny", {"data": name, **words}).select(["two"]))[0]


def test_a_manifest_keeps_them(coco_30k, outputs, command, refused):
    words = ["data", "prepare", "own", "--from", str(coco_30k)]
    code, out, err = command(*words, *COLUMN)
    assert (code, err) == (0, "") and "data=own  (seeds each line's own plus [0])" in out
    found = Manifest.load(outputs / "data" / "own.parquet")
    assert [line.seed for line in found.lines] == SEEDS and found.seeds == (0,)
    assert found.rule["seed_column"] == "evaluation_seed" and found.rule["told"].endswith("each with its own seed")
    assert [entry.seed for entry in data_cards.read(data_cards.card("own"))] == SEEDS
    # Without them it is another choice, which does not take its place.
    assert "holds another choice (all 3 prompts, each with its own seed)" in refused(*words)
    assert command(*words, "--out", str(outputs / "without.parquet"))[0] == 0
    without = Manifest.load(outputs / "without.parquet")
    assert "seed_column" not in without.rule and without.content != found.content


def test_a_card_names_their_column(coco_30k, tiny, tmp_path, monkeypatch):  # noqa: F811
    card = tmp_path / "extra" / "configs" / "data" / "own.yaml"
    card.parent.mkdir(parents=True)
    card.write_text(yaml.safe_dump({"prompts": str(coco_30k), "seed_column": "evaluation_seed"}))
    ready = prepared("own")
    assert [sample.own_seed for sample in ready.samples] == SEEDS and ready.config.seeds == [0]
    for sample, seed in zip(ready.samples, SEEDS, strict=True):
        assert torch.equal(numbers(sample), drawn_with(seed))
    # A run's seeds are added, so that every seed of the run draws all lines once more.
    more = prepared("own", seeds=[0, 5])
    assert [sample.seed for sample in more.samples] == [0, 0, 0, 5, 5, 5]
    assert torch.equal(numbers(more.samples[4]), drawn_with(63155 + 5))
    # The file alone says nothing of seeds: its lines are drawn as those of any other.
    plain = prepared(str(coco_30k))
    assert all(sample.own_seed is None for sample in plain.samples)
    assert not torch.equal(numbers(plain.samples[0]), drawn_with(0))


def test_a_line_has_the_same_numbers_in_any_choice(coco_30k, outputs, command):
    words = ["--from", str(coco_30k), *COLUMN, "--count", "2", "--seed", "3"]
    assert command("data", "prepare", "two", *words)[0] == 0
    entries = data_cards.read(data_cards.card("two"))
    assert len(entries) == 2
    for sample in samples_.samples(entries, [0]):
        own = dict(zip(["a red heart", "an owl, asleep", "a blue car"], SEEDS, strict=True))[sample.prompt]
        assert torch.equal(numbers(sample), drawn_with(own))


IDS = ("run_id", "images_id", "references_id", "speed_id", "content_id", "prompts_hash")


def test_they_belong_to_every_identity(tiny, tmp_path):  # noqa: F811
    card, file = tmp_path / "extra" / "configs" / "data" / "own.yaml", tmp_path / "own.csv"
    card.parent.mkdir(parents=True)

    def ids(content, **keys):
        file.write_text(content)
        card.write_text(yaml.safe_dump({"prompts": str(file), **keys}))
        ready = prepared("own")
        return [getattr(ready, name) for name in IDS]

    plain = ids("prompt\na\nb\n")
    assert ids("prompt,s\na,1\nb,2\n") == plain, "a column that nobody asked for changes nothing"
    seeded = [ids(f"prompt,s\na,1\nb,{seed}\n", seed_column="s") for seed in (2, 3)]
    assert all(len({*together}) == 3 for together in zip(plain, *seeded, strict=True))


def test_an_image_is_that_of_the_pipeline_with_this_seed(coco_30k, tiny, outputs, command):  # noqa: F811
    assert command("data", "prepare", "own", "--from", str(coco_30k), *COLUMN)[0] == 0
    code, _, err = command("run", "tiny", "--rows", "two", "data=own", "metrics=[]", "batch_size=1")
    assert code == 0, err
    record = Record.read(outputs / "records" / "tiny" / "two.json")
    assert record.seeds == [0] and record.n_done == 3 and len(record.config["line_seeds"]) == 12
    with (outputs / "records" / "tiny" / "two.csv").open(newline="") as stream:
        assert [(row["seed"], row["own_seed"]) for row in csv.DictReader(stream)] == [("0", str(own)) for own in SEEDS]
    pipe = models.load(cards.card("emoji"), "float32", "cpu")
    config = record.config
    size = {"height": config["height"], "width": config["width"], "guidance_scale": config["guidance_scale"]}
    for place, (prompt, seed) in enumerate([("a red heart", 41337), ("an owl, asleep", 63155)]):
        generator = torch.Generator("cpu").manual_seed(seed)
        expected = pipe(prompt, num_inference_steps=2, generator=generator, output_type="np", **size).images[0]
        with Image.open(outputs / "images" / str(record.images) / "0" / f"{place:05d}.png") as opened:
            kept = np.array(opened)
        assert np.array_equal(kept, (expected * 255).round().astype(np.uint8))


VALUES = [
    ("", "has no seed; give every line one"),
    ("  ", "has no seed"),
    ("x", "seed 'x' is no whole number from 0 and below 2**63; correct it"),
    ("-1", "seed '-1' is no whole number"),
    ("0.5", "seed '0.5' is no whole number"),
    ("41337.0", "seed '41337.0' is no whole number"),
    ("1e3", "seed '1e3' is no whole number"),
    ("²", "seed '²' is no whole number"),
    (str(2**63), f"seed '{2**63}' is no whole number"),
    ("9" * 5000, "is no whole number"),
    (None, "has no seed"),
    (True, "seed True is no whole number"),
    (-1, "seed -1 is no whole number"),
    (2**70, f"seed {2**70} is no whole number"),
    (0.5, "seed 0.5 is no whole number"),
    (float("nan"), "seed nan is no whole number"),
    ([1], "seed [1] is no whole number"),
    ({"a": 1}, "seed {'a': 1} is no whole number"),
]


@pytest.mark.parametrize(("value", "message"), VALUES)
def test_seeds_that_are_none(value, message):
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        lines = [{"prompt": "a", "s": 3}, {"prompt": "b", "s": value}]
        files.read(Path("p.jsonl"), text="\n".join(map(json.dumps, lines)), seeds="s")
    assert "p.jsonl, line 2" in str(error.value) and len(str(error.value)) < 200
    if isinstance(value, str):
        for name, separator in {"p.csv": ",", "p.tsv": "\t"}.items():
            with pytest.raises(UsageError, match=re.escape(message)):
                files.read(Path(name), text=f"prompt{separator}s\nb{separator}{value}\n", seeds="s")


def test_seeds_in_every_spelling():
    text = "prompt,s\na,0\nb, 7 \nc,9223372036854775807\nd,007\n"
    assert [line.seed for line in files.read(Path("p.csv"), text=text, seeds="s")] == [0, 7, 2**63 - 1, 7]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["own", "--from", "{csv}", "--seed-column", "evaluation_sed"], "did you mean 'evaluation_seed'"),
        (["own", "--from", "{csv}", "--seed-column", "prompt"], "line 2: seed 'a red heart' is no whole number"),
        (["own", "--from", "{txt}", "--seed-column", "seed"], "unknown column 'seed'"),
        (
            ["own", "--from", "{txt}", "--classes", "2", "--seed-column", "s"],
            "is for prompts, and classes may be drawn more",
        ),
        (["own", "--from", "{json}", "--seed-column", "s"], "is for prompts, and captions come from a COCO file"),
        (
            ["imagenet_50k", "--seed-column", "s"],
            "is for prompts, and classes may be drawn more than once; leave it out",
        ),
    ],
)
def test_columns_of_seeds_that_cannot_be(coco, coco_30k, outputs, refused, words, message):
    (coco / "a.txt").write_text("a\nb\n")
    places = {"csv": coco_30k, "txt": coco / "a.txt", "json": coco / "captions.json"}
    assert message in refused("data", "prepare", *(word.format(**places) for word in words))
    assert not list(outputs.rglob("*.parquet"))


def test_a_card_whose_set_is_prepared_has_the_column_under_source(tmp_path, monkeypatch, refused, outputs):
    source = {"kind": "prompts", "file": "b.txt"}
    own_card(tmp_path, monkeypatch, source=source, seed_column="s")
    assert "'column' and 'seed_column' of a set that is prepared stand under 'source'" in refused(
        "run", "demo", "data=own"
    )
    (tmp_path / "extra" / "configs" / "data" / "own.yaml").write_text(
        yaml.safe_dump({"source": {**source, "kind": "captions", "seed_column": "s"}})
    )
    assert "a column of seeds ('s') is for prompts, and captions" in refused("run", "demo", "data=own")


# Beside the checkout, or wherever the variable says; they are too large to be part of it.
PUBLISHED = Path(os.environ.get("POSTDIFF_PUBLISHED_PROMPTS") or Path(__file__).parents[3] / "shared/data/prompts")


@pytest.mark.parametrize(
    ("name", "count", "seeds"),
    [
        ("PartiPrompts.tsv", 1632, None),
        ("coco_30k.csv", 30_000, "evaluation_seed"),
        ("mlperf_coco2014_5k_captions_source.tsv", 5000, None),
    ],
)
def test_files_as_they_are_published(name, count, seeds):
    if not (PUBLISHED / name).is_file():
        pytest.skip(f"{name} is not here")
    lines = files.read(PUBLISHED / name, seeds=seeds)
    assert len(lines) == count and all((line.seed is None) == (seeds is None) for line in lines)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "parti.tsv",
            "Prompt\tCategory\tChallenge\tNote\na red heart\tAbstract\tBasic\t\nan owl\tAbstract\tBasic\tx\n",
        ),
        (
            "mlperf.tsv",
            "id\timage_id\tcaption\theight\twidth\tfile_name\tcoco_url\n70\t5\ta red "
            "heart\t6\t4\tC.jpg\thttp://x/C.jpg\n"
            "277\t6\tan owl\t6\t4\tD.jpg\thttp://x/D.jpg\n",
        ),
        ("coco.csv", "image_id,source,prompt,evaluation_seed\r\n07,coco,a red heart,1\r\n08,coco,an owl,2\r\n"),
    ],
)
def test_files_of_published_shape_are_read_and_prepared_as_they_are(tmp_path, outputs, command, name, content):
    (tmp_path / name).write_text(content, newline="")
    assert [line.prompt for line in data_cards.read(data_cards.card(str(tmp_path / name)))] == ["a red heart", "an owl"]
    assert command("data", "prepare", "own", "--from", str(tmp_path / name))[0] == 0
    assert [line.prompt for line in data_cards.read(data_cards.card("own"))] == ["a red heart", "an owl"]
