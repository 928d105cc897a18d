"""The size that is generated is the size that is recorded, counted and named by ids, also if one side alone is
given.
"""

import contextlib
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

from postdiff.engine.errors import UsageError
from postdiff.lab.config import experiment
from postdiff.lab.pipelines import sizes
from postdiff.lab.pipelines.cards import ModelCard, StageCard
from postdiff.lab.plan.plan import plan_rows
from tests.lab import runs
from tests.support import tiny as pipelines

RUN = ("run", "tiny", "--rows", "plain", "steps=2", "count=1", "seeds=[0]", "metrics=[]", "bench.repeats=0")
GIVEN = [({"height": 48}, (48, 32)), ({"width": 48}, (32, 48)), ({"height": 48, "width": 40}, (48, 40))]


def ids(**changes):
    [plan] = plan_rows(experiment.load("tiny", {"metrics": [], **changes}).select(["plain"]))
    return plan.run_id, plan.speed_id, plan.images_id, plan.references_id


@pytest.mark.parametrize(("given", "size"), GIVEN)
@pytest.mark.parametrize("where", ["run", "card"])
def test_one_side_is_completed_by_the_models_own(tiny, outputs, tmp_path, monkeypatch, command, given, size, where):
    card = {"folder": str(tiny / "model"), **(given if where == "card" else {})}
    file = tmp_path / "mine" / "configs" / "models" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(card))
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{tmp_path / 'mine'}")
    words = [f"{key}={value}" for key, value in given.items()] if where == "run" else []
    code, _, err = command(*RUN, "model=mine", *words)
    assert code == 0, err
    found = runs.record(outputs, "plain")
    assert (found.config["height"], found.config["width"]) == size
    [image] = (outputs / "images" / found.images).rglob("*.png")
    with Image.open(image) as opened:
        assert opened.size == size[::-1]
    spelt_out = {"model": str(tiny / "model"), "height": size[0], "width": size[1]}
    assert ids(model="mine", **(given if where == "run" else {})) == ids(**spelt_out)


@pytest.mark.parametrize("name", ["sd", "sdxl", "pixart_alpha", "dit", "deepfloyd_if", "lcm", "text_to_video"])
def test_the_usual_size_is_what_a_pipeline_draws(name):
    case, made = pipelines.build(name, smallest=True), []

    def unasked(*args, **kwargs):
        asked = {key: value for key, value in kwargs.items() if key not in sizes.SIDES}
        made.append(case.pipe(*args, **{**asked, "output_type": "pt", "return_dict": True}))
        return made[0]

    with contextlib.suppress(AttributeError, TypeError, KeyError):  # a case wants latents back
        case.call(unasked)
    found = made[0].frames if hasattr(made[0], "frames") else made[0].images
    assert sizes.of_pipeline(case.pipe) == tuple(found.shape[-2:])


def test_a_side_that_the_model_does_not_report(tiny, outputs, tmp_path, refused):
    folder = shutil.copytree(tiny / "model", tmp_path / "m")
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "sample_size": None}))
    assert "height=32 alone: the model does not tell its usual width; give width too" in refused(
        *RUN, f"model={folder}", "height=32"
    )


@pytest.mark.parametrize("words", [("height=33",), ("width=31",), ("height=33", "width=33"), ("height=1",)])
def test_sizes_that_cannot_be_drawn(tiny, outputs, refused, words):
    assert "row 'plain'" in refused(*RUN, f"model={tiny / 'model'}", *words)
    assert not list((outputs / "records").rglob("*.json"))


def test_macs_are_of_the_size_asked_for(command):
    def counted(*words):
        code, out, err = command("macs", "demo", "--rows", "steps_20", "--format", "json", "steps=2", *words)
        assert code == 0, err
        return out

    assert counted("height=128") == counted("height=128", "width=64") != counted()


def test_random_weights_know_their_usual_size():
    assert sizes.of_structure("emoji") == (64, 64) and sizes.of_structure("sd15") == (512, 512)


def test_a_stage_of_a_cascade(tiny):
    card = StageCard(folder=str(tiny / "model"))
    assert sizes.of_card(card) == (32, 32) == sizes.of_card(ModelCard(folder=str(tiny / "model")))


@pytest.mark.parametrize(
    ("shape", "asked", "message"),
    [
        ((1, 3, 32, 32), (64, 32, None), "generates 32 x 32 px where height=64 and width=32"),
        ((1, 3, 32, 24), (32, 32, None), "generates 32 x 24 px"),
        ((1, 5, 3, 32, 32), (32, 32, 6), "makes 5 frames where frames=6"),
        ((1, 3, 32, 32), (32, 32, None), None),
        ((1, 3, 32, 32), (None, None, None), None),
        ((1, 6, 3, 32, 32), (32, 32, 6), None),
    ],
)
def test_what_comes_back_is_looked_at(shape, asked, message):
    name = "frames" if len(shape) == 5 else "images"
    result = SimpleNamespace(**{name: torch.zeros(shape)})
    if message is None:
        sizes.check_generated(None, result, *asked)
        return
    with pytest.raises(UsageError) as error:
        sizes.check_generated(None, result, *asked)
    assert message in str(error.value)
