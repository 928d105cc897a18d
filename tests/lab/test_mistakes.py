"""A few of the thousands of mistakes that `mistakes` generates, drawn by a seed, and oddities that are none."""

from __future__ import annotations

import os
import time

import pytest

from postdiff import catalog
from postdiff.engine.errors import UsageError
from postdiff.lab.config import experiment
from postdiff.lab.config.layers import merged
from postdiff.lab.config.schema import RunConfig
from postdiff.lab.pipelines.cards import ModelCard
from postdiff.safe_yaml import parsed
from tests.lab import mistake_data, mistake_files, mistake_models, mistakes, survey

SAMPLE, SEED = 32, 5


def every_mistake():
    return [one for each in (mistakes, mistake_files, mistake_models, mistake_data) for one in each.everything()]


def test_mistakes_end_in_one_line(tiny_root, tmp_path, command, monkeypatch, outputs):
    """The whole of them: `python -m tests.lab.survey`."""
    known = every_mistake()
    assert len(mistakes.different(known)) > 5000
    for one in mistakes.chosen(known, SAMPLE, SEED):
        told = survey.make(one, tiny_root, tmp_path / "survey")
        assert not told.faults, (one.kind, told.faults, told.err[-500:], told.left)


def test_the_same_seed_draws_the_same():
    known = every_mistake()
    first, again, other = ([one.kind for one in mistakes.chosen(known, 200, seed)] for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("off", "off"),
        ("yes", "yes"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        ("0x10", 16),
        ("0o17", 15),
        ("+4", 4),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("~", None),
        ("TRUE", True),
        ("'017'", "017"),
        ("{1: a, 1.0: b, true: c}", {"1": "a", "1.0": "b", "true": "c"}),
        ("{a: &x {b: 1}, c: {<<: *x, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("[&x [1, 2], *x]", [[1, 2], [1, 2]]),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ("!!str 1", "1"),
        ("=", "="),
    ],
)
def test_yaml_means_what_version_1_2_says(text, value):
    assert parsed(text, "it") == value


@pytest.mark.parametrize(
    "row",
    [
        *(
            "a",
            "8",
            "0.5",
            "_x",
            "+1",
            "=",
            "a.b-c",
            "x" * 120,
            "ロウ",
            "あ" * 53,
            "क्षेत्र",
            "ñandú",
            "Ünï",
            "ไทย",
            "عربي",
        ),
        *("é", "1e3", "true", "null", "a+b=c"),
    ],
)
def test_rows_in_any_language(row, tmp_path, monkeypatch):
    file = tmp_path / "configs" / "experiments" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"rows:\n  {row}:\n", encoding="utf-8")
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))
    [found] = experiment.load("mine").rows
    assert found.name == found.label == row


def test_a_row_in_japanese_is_run(tiny, tmp_path, outputs, command, monkeypatch):
    row = "あ" * 53
    file = tmp_path / "here" / "configs" / "experiments" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"base: {{model: tiny, data: tiny, steps: 2}}\nrows: {{{row}: {{}}}}\n", encoding="utf-8")
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{tmp_path / 'here'}")
    words = ("count=1", "seeds=[0]", "metrics=[]", "bench.repeats=1", "bench.warmup=0")
    code, out, err = command("run", "mine", "--rows", row, *words)
    assert code == 0 and row in out, err
    assert (outputs / "records" / "mine" / f"{row}.speed.json").is_file()


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("\ufeffrows: {a: {steps: 3}}", "steps", 3),
        ("rows:\r\n  a:\r\n    steps: 3\r\n", "steps", 3),
        ("rows: {a: {wandb: off}}", "wandb", "off"),
        ("rows: {a: {wandb: false}}", "wandb", "off"),
        ("rows: {a: {guidance_scale: 3}}", "guidance_scale", 3.0),
        ("rows: {a: {guidance_scale: 1e1}}", "guidance_scale", 10.0),
        ("rows: {a: {seeds: [0x10, 0]}}", "seeds", [16, 0]),
        ("base: &b {steps: 3}\nrows: {a: {<<: *b, batch_size: 2}}", "steps", 3),
        ("base:\nrows: {a: }", "steps", 20),
        ("rows: {'a{n}': {over: {n: [3]}, steps: '{n}'}}", "steps", 3),
    ],
)
def test_odd_files_that_are_fine(text, key, value, tmp_path, monkeypatch):
    file = tmp_path / "configs" / "experiments" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8", newline="")
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))
    assert getattr(experiment.load("mine").rows[0].config, key) == value


def test_labels_and_notes_become_one_line(tmp_path, monkeypatch):
    file = tmp_path / "configs" / "experiments" / "mine.yaml"
    file.parent.mkdir(parents=True)
    labels = "  a: {label: 2026-01-01}\n  b:\n    label: |\n      a\n      b\n    note: 5\n"
    file.write_text(f"summary: |\n  two\n  lines\nrows:\n{labels}")
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))
    found = experiment.load("mine")
    assert found.summary == "two lines"
    assert [(row.label, row.note) for row in found.rows] == [("2026-01-01", ""), ("a b", "5")]


def test_numbers_may_stand_for_text_but_not_the_other_way_round():
    mirror = merged(RunConfig, [("line", {"mirror": {"tags": [2026], "project": 7}})]).mirror
    assert (mirror.tags, mirror.project) == (["2026"], "7")
    card = merged(ModelCard, [("card", {"hub": "a/b", "revision": 1234567, "vae": {"folder": 7}})])
    assert (card.revision, card.vae.folder) == ("1234567", "7")
    with pytest.raises(UsageError, match="line: steps: Value '3' is no Integer"):
        merged(RunConfig, [("line", {"steps": "3"})])


def test_many_rows_are_read_in_no_time(tmp_path, monkeypatch):
    file = tmp_path / "configs" / "experiments" / "mine.yaml"
    file.parent.mkdir(parents=True)
    over = f"{{n: {[*range(1, 101)]}, m: {[*range(20)]}}}"
    file.write_text(f"rows:\n  'r{{n}}_{{m}}': {{over: {over}, steps: '{{n}}'}}\n")
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))
    began = time.process_time()
    assert len(experiment.load("mine", {"count": 2}).rows) == 2000
    assert time.process_time() - began < 2000 * 0.002, "more than 2 ms a row"


def test_a_pipe_in_the_place_of_a_file(tiny, tmp_path, monkeypatch, refused):
    folder = tmp_path / "configs" / "experiments"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "mine.yaml")
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))
    assert "mine.yaml is no file that can be read" in refused("run", "mine")
    assert catalog.path("experiments", "mine") == folder / "mine.yaml"
