"""What `experiments/frontier.py` reads off rows made up, and that every row of the experiments has its place."""

import csv
import hashlib
import json
import math

import pytest

from experiments import frontier
from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import load
from postdiff.lab.records.record import Value, fresh_path
from tests.lab.test_results import record
from tests.support.frontier import METRICS, found, row, rows

LPIPS, TEXT = METRICS


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """A fresh outputs folder."""
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path))


def test_families_and_settings_against_fewer_steps():
    made = json.loads(json.dumps(found()))
    assert made["rows"]["hard_10"]["macs"] == 0.25 and made["rows"]["hard_10"]["time"] == pytest.approx(0.3)
    mean, low, high = made["rows"]["steps_10"][LPIPS]
    assert low < mean < high and mean == pytest.approx(0.02)
    cache = made["family"][LPIPS]["macs"]["cache"]
    [crossing] = cache["crossings"]
    assert crossing["cost"] == pytest.approx(0.25) and not crossing["below"] and crossing["found"] == 1
    assert crossing["low"] < 0.25 < crossing["high"] and cache["settings"] == 8
    gains = {1 / gain["cost"]: gain["mean"] for gain in cache["gains"]}
    assert gains == {2: pytest.approx(1.5), 3: pytest.approx(1.5 ** (1 - math.log2(1.5))), 4: pytest.approx(1)}
    assert made["setting"][LPIPS]["macs"]["cache, hard"]["crossings"] == cache["crossings"]
    soft = made["setting"][LPIPS]["macs"]["cache, soft"]
    assert soft["ahead"] == 0 and not soft["crossings"]
    assert made["family"][TEXT]["macs"]["cache"]["ahead"] == made["family"][TEXT]["time"]["cache"]["ahead"] == 1
    assert set(made["family"][LPIPS]["macs"]) == {"cache", "other"}
    assert made["full"]["label"] == "20 steps" and made["prompts"] == 32


def test_over_time_where_all_rows_were_timed():
    """A saving of work that is no saving of time moves the crossing to where time is equal."""
    made = found()
    [crossing] = made["family"][LPIPS]["time"]["cache"]["crossings"]
    # 2 ** h(t) = 2 / 1.5 * 3 ** h(t / 0.6) with h(t) = -log2(t)
    halvings = (math.log(1.5 / 2) - math.log2(0.6) * math.log(3)) / math.log(1.5)
    assert crossing["cost"] == pytest.approx(2**-halvings)
    assert set(found(timed=False)["family"][LPIPS]) == {"macs"}


def test_what_cannot_be_compared_is_told():
    with pytest.raises(UsageError, match="fewer steps have not been run"):
        frontier.compared([each for each in rows() if each.family != "fewer steps"], METRICS)
    with pytest.raises(UsageError, match="no clip_score of single images; add it with 'postdiff score'"):
        frontier.compared(rows(), ["clip_score"])
    assert frontier.score_of(rows()) == TEXT
    assert frontier.said(found()["family"][LPIPS]["macs"]["cache"]).startswith("behind beyond 4.00x [")


def written(name, label, seeds=(0, 1), value=0.5, experiment="frontier", **changes):
    """A record and its CSV: LPIPS is the index of the prompt, and `value` more for each seed."""
    file = fresh_path(experiment, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".csv").open("w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(["index", "seed", LPIPS])
        lines.writerows([index, seed, index + value * seed] for seed in seeds for index in range(3))
    sums = {"values": hashlib.sha256(file.with_suffix(".csv").read_bytes()).hexdigest()}
    metrics = {LPIPS: Value(1.0, None, {}, 6, False, {})}
    record(experiment=experiment, row=name, label=label, metrics=metrics, **sums | changes).write(file)


@pytest.mark.usefixtures("outputs")
def test_rows_are_read_from_records():
    written("steps_20", "20 steps")
    written("steps_10", "10 steps", value=1.0)
    written("steps_5", "5 steps", n_done=1)
    first, second = frontier.rows_of(["frontier", "frontier_adaptive"])
    assert first.values[LPIPS].tolist() == [0.25, 1.25, 2.25] and second.values[LPIPS].tolist() == [0.5, 1.5, 2.5]
    assert (first.family, first.time) == ("fewer steps", None)
    written("unipc_20", "UniPC, 20 steps", prompts="others")
    with pytest.raises(UsageError, match="'unipc_20' of frontier is of another model, prompts or seeds"):
        frontier.rows_of(["frontier"])
    written("unipc_20", "UniPC, 20 steps", values="0" * 64)
    with pytest.raises(UsageError, match="not what its record was made with"):
        frontier.rows_of(["frontier"])


@pytest.mark.usefixtures("outputs")
def test_nothing_run_is_told(capsys):
    assert frontier.main([]) == 2
    assert "begin with 'postdiff run frontier'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "least"), [("frontier", 160), ("frontier_transformer", 160), ("frontier_adaptive", 12)]
)
def test_labels_tell_families(name, least):
    """Rows without methods, and of the model's own solver, have no comma; the others have, and end with their steps."""
    asked = load(name)
    assert len(asked.rows) >= least and asked.rows[0].name == "steps_20"
    for each in asked.rows:
        plain = not each.config.methods and each.config.scheduler == asked.rows[0].config.scheduler
        assert plain == ("," not in each.label) == (each.name == f"steps_{each.config.steps}")
        assert each.label.endswith(f"{each.config.steps} steps")
        assert each.config.reference_scheduler is not None, "all are compared with the model's own solver"


def test_a_row_alone_has_no_stretch():
    made = found()["family"][LPIPS]["macs"]["other"]
    assert made["settings"] == 1 and made["least"] == made["most"] and not made["gains"]
    assert row("a", "b, 2 steps", 0.1, 0.1, 1.0).setting == "b"
