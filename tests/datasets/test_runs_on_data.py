"""Runs on a prepared set, on a file by itself, and on cards of one's own."""

import json

import pytest
import yaml

from postdiff.lab.config import experiment
from postdiff.lab.data import data_cards
from postdiff.lab.pipelines import models
from postdiff.lab.plan import plan
from postdiff.lab.records.record import Record


@pytest.fixture
def mini(coco, outputs, command):
    """The manifest `mini` of four lines, drawn with seeds 4 and 7."""
    words = ["--from", str(coco / "captions.json"), "--count", "4", "--seeds", "4,7"]
    assert command("data", "prepare", "mini", *words)[0] == 0
    return outputs / "data" / "mini.parquet"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An experiment `tiny` of two rows on the shipped model, two steps each, that sets no seeds."""
    base = {"model": "emoji", "reference_steps": 2, "metrics": ["emoji_text_score"], "bench": {"repeats": 0}}
    rows = {"two": {"label": "2 steps", "steps": 2}, "one": {"label": "1 step", "steps": 1}}
    file = tmp_path / "extra" / "configs" / "experiments" / "tiny.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump({"summary": "two short rows", "base": base, "rows": rows}, sort_keys=False))
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path / "extra"))


def test_a_prepared_set_is_run_scored_and_tabled(mini, tiny, outputs, command, monkeypatch):
    code, out, err = command("run", "tiny", "data=mini")
    assert code == 0, err
    record = Record.read(outputs / "records" / "tiny" / "two.json")
    assert record.full and (record.n_done, record.seeds) == (8, [4, 7])
    assert len(list((outputs / "images" / str(record.images)).rglob("*.png"))) == 8
    code, table, _ = command("table", "tiny")
    assert code == 0 and "2 steps" in table and "1 step" in table and table.strip() in out
    # The images that are there, measured with an interval and without drawing: the record and the table follow.
    load = models.load
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("a pipeline was loaded"))
    code, out, err = command("score", "tiny", "data=mini", "bootstrap=50")
    assert code == 0, err
    scored = Record.read(outputs / "records" / "tiny" / "two.json")
    value, before = scored.metrics["emoji_text_score"], record.metrics["emoji_text_score"]
    assert value.per_seed == before.per_seed and before.interval is None and scored.full
    assert value.interval[0] < value.value < value.interval[1]
    assert (scored.images, scored.macs, scored.seeds) == (record.images, record.macs, [4, 7])
    code, scored_table, _ = command("table", "tiny")
    assert code == 0 and scored_table != table and scored_table.strip() in out
    assert command("score", "tiny", "data=mini")[0] == 0  # as before, for what follows
    monkeypatch.setattr(models, "load", load)
    # The file by its path, and the seeds named, are the same run.
    for words in (["data=mini", "seeds=[4,7]"], [f"data={mini}"]):
        _, _, err = command("run", "tiny", *words)
        assert f"two: done already (run {record.run_id})" in err
    _, _, err = command("run", "tiny", "--rows", "two", "data=mini", "seeds=[4]")
    again = Record.read(outputs / "records" / "tiny" / "two.json")
    assert "done already" not in err and (again.seeds, again.images) == ([4], record.images)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own.txt", "a red heart\nan owl\n"),
        ("own.csv", "id,caption\n1,a red heart\n2,an owl\n"),
        ("own.json", json.dumps(["a red heart", "an owl"])),
    ],
)
def test_a_file_is_a_data_set_by_itself(tmp_path, outputs, command, name, content):
    (tmp_path / name).write_text(content)
    card = data_cards.card(str(tmp_path / name))
    assert [line.prompt for line in data_cards.read(card)] == ["a red heart", "an owl"] and card.seeds is None


def test_seeds_of_a_run_stand_above_those_of_the_data(mini, tiny):
    def seeds(**words):
        return plan.plan_rows(experiment.load("tiny", words).select(["two"]))[0].config.seeds

    assert seeds(data="mini", seeds=[9]) == [9] and seeds(data="mini") == [4, 7] and seeds(data="emoji", count=2) == [0]


def test_a_manifest_that_was_changed_is_not_run(mini, refused, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("weights were loaded before the mistake was told"))
    mini.write_bytes(mini.read_bytes()[:-40])
    assert "mini.parquet cannot be read as Parquet" in refused("run", "demo", "data=mini")


def own_card(tmp_path, monkeypatch, **keys):
    file = tmp_path / "extra" / "configs" / "data" / "own.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(keys))
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path / "extra"))


def test_a_card_names_column_and_seeds(tmp_path, monkeypatch):
    (tmp_path / "own.tsv").write_text("text\twords\nno\ta red heart\nno\tan owl\n")
    own_card(tmp_path, monkeypatch, prompts=str(tmp_path / "own.tsv"), column="words", seeds=[3, 5])
    card = data_cards.card("own")
    assert [line.prompt for line in data_cards.read(card)] == ["a red heart", "an owl"] and card.seeds == [3, 5]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prompts": "zoo/emoji/prompts.jsonl", "seeds": [1, 1]}, "seeds=[1, 1] must be a list of different"),
        ({"summary": "nothing"}, "must name either 'prompts' or a 'source'"),
        ({"prompts": "a.txt", "source": {"kind": "prompts", "file": "b.txt"}}, "must name either 'prompts' or a"),
    ],
)
def test_cards_that_say_too_little_or_too_much(tmp_path, monkeypatch, refused, outputs, keys, message):
    own_card(tmp_path, monkeypatch, **keys)
    assert message in refused("run", "demo", "data=own")


def test_home_folders_of_nobody(refused, outputs, tmp_path, monkeypatch):
    message = "names a home folder that is not known here; write the path in full"
    assert message in refused("run", "demo", "data=~nosuchuser/x.txt")
    assert message in refused("data", "statistics", "~nosuchuser/x")
    assert message in refused("data", "statistics", "emoji", "--images", "~nosuchuser/x")
    own_card(tmp_path, monkeypatch, prompts="~nosuchuser/x.txt")
    assert message in refused("run", "demo", "data=own")
    monkeypatch.setenv("POSTDIFF_OUTPUTS", "~nosuchuser/x")
    assert message in refused("run", "demo", "data=emoji")


def test_files_that_are_not_there(refused, outputs):
    for name in ("no/such.csv", "such.parquet", "no/such"):
        assert f"{name} is missing; name another one" in refused("run", "demo", f"data={name}")
