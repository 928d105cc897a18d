"""Tables from records: values, formats, and marks on what must be read with care."""

import csv
import io
import json

import pytest

from postdiff.engine.errors import UsageError
from postdiff.lab.config import experiment
from postdiff.lab.records.record import Record, Value, fresh_path
from postdiff.lab.tables import table
from postdiff.lab.tables.rows import flat_rows
from tests.lab.test_results import record


@pytest.fixture
def rows(tiny):
    """Writes both rows' records, with changes to the second; gives the experiment."""

    def write(**changes):
        cached = {"row": "cached", "label": "Cached", "macs": {"denoiser": {"dense": 2_000_000_000}}, **changes}
        for one in (record(), record(**cached)):
            one.write(fresh_path("tiny", one.row))
        for row, seconds in {"plain": 2.0, "cached": 0.5}.items():
            latency = {"median_s": seconds, "q25_s": seconds * 0.9, "q75_s": seconds * 1.1, "batch_size": 1}
            timed = record(kind="speed", row=row, metrics={}, macs={}, counts={}, latency={**latency, "session": "s"})
            timed.write(fresh_path("tiny", row, "speed"))
        return experiment.load("tiny")

    return write


def test_figures(rows):
    plain, cached = flat_rows(rows())
    assert plain["row"] == "plain" and plain["label"] == "Plain" and plain["paired_psnr"] == 31.5
    assert plain["macs_saving"] == 1 and cached["macs_saving"] == 2 and cached["macs_g"] == 2
    assert plain["speedup"] == 1 and cached["speedup"] == 4
    assert plain["reported_paired_psnr"] == 20 and plain["gap_paired_psnr"] == 11.5
    assert "reported_paired_psnr" not in cached and plain["notes"] == cached["notes"] == ""


@pytest.mark.parametrize("kind", ["quality", "speed"])
def test_figures_reported_for_another_model_are_left_out(rows, kind):
    found = rows()
    fresh_path("tiny", "plain").unlink()
    fresh_path("tiny", "plain", "speed").unlink()
    latency = {"median_s": 1.0, "q25_s": 1.0, "q75_s": 1.0, "batch_size": 1, "session": "s"}
    own = {"row": "plain", "kind": kind, "latency": latency}
    for changed, message in (({"model": "other"}, False), ({"steps": 4}, True)):
        record(**own, changed=changed).write(fresh_path("tiny", "plain", kind))
        assert ("reported_paired_psnr" in flat_rows(found)[0]) == message


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"n_done": 3}, "partial, 3 of 4 images"),
        ({"git": {"commit": "1", "dirty": True}}, "uncommitted code"),
        ({"device": "another, 2 threads"}, "mixed devices"),
        ({"seeds": [0]}, "other prompts or seeds"),
        ({"prompts": "x"}, "other prompts or seeds"),
        ({"changed": {"steps": 4, "bench": {}}}, "not as in the experiment file, steps=4"),
    ],
)
def test_notes(rows, changes, note):
    found = rows(**changes)
    assert note in flat_rows(found)[1]["notes"]
    text = table.render(found)
    assert "Cached*" in text and f"* {note}" in text


def test_rows_without_a_record_are_shown_as_such(rows):
    found = rows()
    fresh_path("tiny", "cached").unlink()
    assert flat_rows(found)[1]["notes"] == "speed alone"
    fresh_path("tiny", "cached", "speed").unlink()
    assert flat_rows(found)[1]["notes"] == "no record"
    with pytest.raises(UsageError, match="postdiff run tiny"):
        fresh_path("tiny", "plain").unlink()
        fresh_path("tiny", "plain", "speed").unlink()
        flat_rows(found)


def test_ratios_refer_to_the_first_row_of_the_file(rows):
    [cached] = flat_rows(rows().select(["cached"]))
    assert cached["macs_saving"] == 2 and cached["speedup"] == 4


def test_times_of_two_sessions_have_no_ratio(rows):
    found = rows()
    file = fresh_path("tiny", "cached", "speed")
    later = Record.read(file)
    later.latency["session"] = "later"
    later.write(file)
    cached = flat_rows(found)[1]
    assert cached["speedup"] is None and "not timed together" in cached["notes"]


def test_text_fits_a_terminal(rows):
    many = {
        name: Value(12.3456, 1.2345, {}, 4, True, {})
        for name in (
            "paired_psnr",
            "paired_ssim",
            "paired_feature_distance",
            "emoji_frechet_distance",
            "emoji_text_score",
        )
    }
    text = table.render(rows(metrics=many))
    assert max(map(len, text.splitlines())) <= 120
    assert text.count("Cached") == 2, "two blocks, each with the labels"
    assert "12.3 ± 1.2" in text and "0.50 [0.45-0.55]" in text and "4.00x" in text


def test_formats(rows):
    found = rows()
    assert [row["row"] for row in json.loads(table.render(found, "json"))] == ["plain", "cached"]
    read = list(csv.DictReader(io.StringIO(table.render(found, "csv"))))
    assert float(read[1]["macs_saving"]) == 2
    markdown = table.render(found, "markdown").splitlines()
    assert len({line.count("|") for line in markdown[:4]}) == 1 and markdown[2].startswith("| Plain |")
    latex = table.render(found, "latex")
    assert r"\begin{tabular}" in latex and r"$\pm$" in latex and "reported" in latex
    with pytest.raises(UsageError, match="unknown format"):
        table.render(found, "xml")


def test_latex_escapes(rows):
    assert table._latex_text("50 % of a_b & c") == r"50 \% of a\_b \& c"
