"""`postdiff plan` on the shipped model: costs that are exact, bad input, and a plan that is killed and goes on."""

import json
import random

import pytest
import yaml

from postdiff.lab.config.experiment import load
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.macs import row_macs
from postdiff.lab.pipelines import cards
from postdiff.lab.plan.plan import plan_rows
from postdiff.lab.planner import space
from postdiff.lab.planner.cost import Macs
from tests.lab import kills

SPACE = {
    "network": "unet",
    "full": {"steps": 4},
    "steps": [1, 2, 3, 4],
    "masks": {"fills": ["output"], "tried": 4},
    "choices": {
        "resolution": {"large": [], "small": [{"mixed_resolution": {"beta": 0.5, "switch": 0.5}}]},
        "cache": {"none": [], "deep": [{"deepcache": {"interval": 2, "branch": 0}}]},
    },
}


@pytest.fixture
def words(tmp_path, outputs):
    """A plan of few settings, few steps and eight prompts."""
    file = tmp_path / "few.yaml"
    file.write_text(yaml.safe_dump(SPACE, sort_keys=False))
    return ["plan", "--model", "emoji", "--budget", "0.6x", "--space", str(file), "--prompts", "8"]


def test_a_plan_from_nothing_and_again(words, outputs, command):
    """The second time nothing is generated; the file is an experiment, and its rows are what was chosen."""
    code, out, _ = command(*words)
    assert "searched_output" in out
    assert code == 0 and "Within 0.6x take" in out and "fewer steps" in out and "accelerate(pipe, [" in out
    assert command(*words, "--resume", "--dry-run")[0] == 0  # for it was begun
    images = {file: file.stat().st_mtime_ns for file in outputs.rglob("*.png")}
    assert images
    assert command(*words)[:2] == (0, out)
    assert {file: file.stat().st_mtime_ns for file in outputs.rglob("*.png")} == images
    file = outputs / "plans" / "emoji-0.6x.yaml"
    experiment = load(str(file), {"count": 2})
    assert [row.name for row in experiment.rows][:2] == ["full", "planned"] and experiment.baseline == "full"
    assert experiment.rows[1].label in out
    for record in outputs.glob("records/plan-*/*.json"):
        assert json.loads(record.read_text())["macs"]["denoiser"]["dense"] > 0
    [rung] = outputs.glob("plans/plan-*.yaml")  # what a shard or a job would run: all done already
    code, _, err = command("run", str(rung), "--no-bench")
    assert code == 0 and err.count("done already") == len(load(str(rung)).rows)
    assert command("run", str(file), "--rows", "planned", "count=2", "bench.repeats=0")[0] == 0
    assert (outputs / "records" / "emoji-0.6x" / "planned.json").is_file()


def test_resume_begins_nothing(words, outputs, refused):
    line = refused(*words, "--resume")
    assert "no plan of these settings was begun" in line and "leave out --resume" in line
    assert not list(outputs.rglob("*.png")) and not list(outputs.glob("plans/plan-*"))


def test_a_dry_run_generates_nothing(words, outputs, command):
    code, out, _ = command(*words, "--dry-run", "--format", "json")
    rows = {row["row"]: row for row in json.loads(out)}
    assert code == 0 and rows["steps_2"]["share"] == 0.5
    assert all(row["share"] <= 0.6 for row in rows.values())
    assert not list(outputs.rglob("*.png"))


def test_a_budget_that_nothing_keeps_to(words, command):
    words[words.index("0.6x")] = "0.01x"
    code, out, err = command(*words)
    assert code == 1 and out == ""
    [line] = [line for line in err.splitlines() if line.startswith("postdiff:")]
    assert "no setting is within 0.01x" in line and "the nearest is 1 steps" in line


BAD = {
    "--budget=0.4": "no unit",
    "--budget=0x": "leaves nothing",
    "--budget=-1x": "leaves nothing",
    "--budget=1.5x": "more than the full run",
    "--budget=9 TMACs": "more than the full run",
    "--objective=beauty": "unknown objective 'beauty'",
    "--objective=kid": "whole sets",
    "--space=nothing": "unknown plan 'nothing'",
    "--space=transformer": "has a unet",
    "--model=deepfloyd_if": "3 pipelines",
    "--model=sd15_img2img": None,
    "--prompts=2": "use 8 or more",
    "--data=EMPTY": "holds no prompts",
    "--out=plan.txt": "must end in .yaml",
    "model=sd15_512": "write --model sd15_512",
    "methods=[]": "is what a plan decides",
    "steps=0": "no number of steps",
    "stepz=3": "unknown key 'stepz'",
}


@pytest.mark.parametrize("word", BAD)
def test_a_mistake_is_one_line(word, words, tmp_path, refused):
    (tmp_path / "empty.txt").write_text("\n")
    option = word.partition("=")[0]
    given = list(words)
    if option in given:
        place = given.index(option)
        del given[place : place + 2]
    line = refused(*given, word.replace("EMPTY", str(tmp_path / "empty.txt")))
    assert BAD[word] is None or BAD[word] in line, line


def test_a_model_without_a_structure_is_refused(tiny, words, refused):
    words[words.index("emoji")] = "tiny"
    assert "names no structure" in refused(*words)


def test_damaged_counts_are_refused(words, outputs, command, refused):
    assert command(*words, "--dry-run")[0] == 0
    [file] = (outputs / "plans" / "macs").glob("*.json")
    file.write_text(file.read_text()[:-20])
    assert "remove it" in refused(*words)


@pytest.mark.slow
def test_predicted_macs_are_the_counted_ones(outputs):
    """30 settings of the shipped space, chosen by chance: counted with weights while an image is made."""
    found = space.read("unet")
    chance = random.Random(0)
    settings = [each.at(chance.randint(3, 12)) for each in chance.sample(found.combinations, 30)]
    pipelines = Pipelines()
    with Macs({"model": "emoji", "steps": 20}, cards.card("emoji")) as macs:
        for setting in settings:
            rows = {"x": {**setting.config, "count": 1, "seeds": [0], "metrics": []}}
            file = outputs / "one.yaml"
            file.parent.mkdir(exist_ok=True)
            file.write_text(yaml.safe_dump({"base": {"model": "emoji"}, "rows": rows}))
            [plan] = plan_rows(load(str(file)))
            counted = row_macs.count(plan, pipelines.sampler(plan)).macs["denoiser"]["dense"]
            assert macs.of(setting) == counted, setting.name


@pytest.mark.slow
def test_killed_and_taken_up(words, outputs, command, tmp_path):
    """Three times in turn, at a write chosen by chance; the same command then ends with the same choice."""
    whole = tmp_path / "whole"
    points = kills.points(words, whole, tmp_path)
    expected = yaml.safe_load((whole / "plans" / "emoji-0.6x.yaml").read_text())
    for at in random.Random(1).sample(range(1, len(points) // 4), 3):  # each begins where the last one ended
        kills.killed(words, outputs, tmp_path, at)
    assert command(*words, "--resume")[0] == 0
    assert yaml.safe_load((outputs / "plans" / "emoji-0.6x.yaml").read_text()) == expected
