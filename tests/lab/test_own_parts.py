"""What people add in folders of their own beside methods: one file each is found, listed, checked, used, and counted.

A broken one is told by file and line, and left out of lists.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from postdiff.engine.errors import UsageError
from postdiff.engine.family import FAMILIES, family_of
from postdiff.lab.config import experiment, schedulers
from postdiff.lab.data import conditions, data_cards
from postdiff.lab.data.conditions import ConditionConfig
from postdiff.lab.plan.plan import plan_rows
from tests.lab.bad import run

SCHEDULER = """
from diffusers import DDIMScheduler


class MyDDIM(DDIMScheduler):
    \"\"\"DDIM as we like it.\"\"\"
"""
CONDITION = """
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from postdiff.lab.data.conditions import Condition


@dataclass
class Grey(Condition):
    \"\"\"One grey everywhere.\"\"\"

    level: Annotated[int, Field(ge=0, le=255)] = 128

    def __call__(self, image):
        return image.point(lambda value: self.level)
"""
FAMILY = """
from postdiff.engine.family import Family

ROW = Family(network="transformer", cfg=("cond", "uncond"))
"""
SOUND = {"schedulers": SCHEDULER, "conditions": CONDITION, "families": FAMILY}


@pytest.fixture
def own(extended):
    """`own("schedulers", "text")` writes the file `mine`."""

    def write(kind, text):
        file = extended / kind / "mine.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    return write


def ids(**changes):
    [one] = plan_rows(experiment.load("tiny", changes).select(["plain"]))
    return one.run_id, one.images_id, one.references_id


@pytest.mark.parametrize("kind", SOUND)
def test_it_is_listed_and_a_broken_one_is_left_out(own, command, kind):
    own(kind, SOUND[kind])
    code, out, err = command("list", kind, "--format", "json")
    known = {entry["name"]: entry["summary"] for entry in json.loads(out)}
    assert (code, err) == (0, "") and known["mine"] and len(known) > 4


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize(
    ("text", "message"),
    [("\nraise ValueError('broken')\n", "line 2: ValueError: broken; mend it"), ("", "must define exactly one")],
)
def test_a_broken_one_is_left_out(own, command, kind, text, message):
    file = own(kind, text)
    code, out, err = command("list", kind, "--format", "json")
    names = {entry["name"] for entry in json.loads(out)}
    assert code == 0 and "mine" not in names and len(names) > 3
    [line] = err.splitlines()
    assert line.startswith("postdiff: left out: ") and str(file) in line and message in line


def test_a_scheduler_takes_over_the_models_settings_and_its_code_counts(own):
    import diffusers

    before = ids(scheduler="ddim")
    file = own("schedulers", SCHEDULER)
    made = schedulers.build(diffusers.DPMSolverMultistepScheduler(beta_end=0.012), "mine", {"set_alpha_to_one": False})
    assert type(made).__name__ == "MyDDIM" and made.config.beta_end == 0.012
    first = ids(scheduler="mine")
    file.write_text(SCHEDULER + "\n\nNEW = 1\n")
    from tests.lab.test_own_code import forget

    forget()
    assert not set(first) & set(ids(scheduler="mine")) and ids(scheduler="ddim") == before


def test_a_scheduler_is_checked_before_anything_is_loaded(own, refused):
    own("schedulers", SCHEDULER)
    assert "unknown scheduler 'mne'; did you mean 'mine'?" in refused(*run("scheduler=mne"))
    assert "option of scheduler mine 'bta_end'" in refused(*run("scheduler={name: mine, options: {bta_end: 1}}"))


def test_a_condition_is_checked_and_made(own, extended, tmp_path):
    own("conditions", CONDITION)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    found = conditions.prepared(tmp_path / "a.png", (8, 8), ConditionConfig("mine", {"level": 7}))
    assert (np.array(found) == 7).all()
    file = extended / "configs" / "data" / "set.yaml"
    file.parent.mkdir(parents=True)
    for options, message in (({"level": 256}, "level=256 is too large"), ({"levl": 1}, "did you mean 'level'")):
        card = {"prompts": "x", "images": "y", "condition": {"name": "mine", "options": options}}
        file.write_text(yaml.safe_dump(card))
        with pytest.raises(UsageError, match=f"set.yaml: condition 'mine': .*{message}"):
            data_cards.shipped_card("set")


def test_a_family_serves_its_class_and_what_is_built_upon_it(own):
    own("families", FAMILY).rename(own("families", FAMILY).with_name("MyPipeline.py"))
    child = type("Child", (type("MyPipeline", (), {"__call__": lambda self: None}),), {})
    assert family_of(child).network == "transformer" and family_of(child).cfg == ("cond", "uncond")


@pytest.mark.parametrize(
    ("kind", "name", "look"),
    [
        ("schedulers", "ddim", lambda: schedulers.find("ddim")),
        ("conditions", "canny", lambda: conditions.find("canny")),
        ("families", "FluxPipeline", lambda: family_of(type("FluxPipeline", (), {}))),
    ],
)
def test_a_name_of_ours_is_not_passed_over(own, kind, name, look):
    look()
    own(kind, SOUND[kind]).rename(own(kind, SOUND[kind]).with_name(f"{name}.py"))
    with pytest.raises(UsageError, match=f"'{name}' is defined twice: the package's own and .*; rename one"):
        look()
    assert "FluxPipeline" in FAMILIES
