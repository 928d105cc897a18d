"""A metric of the user's own: found by its file, listed, measured, part of identities, told of when it is broken."""

from __future__ import annotations

import json

import pytest

from postdiff import metrics
from postdiff.engine.errors import UsageError
from postdiff.lab.config import experiment
from postdiff.lab.plan.plan import plan_rows

FEW = ("--rows", "plain", "count=2", "seeds=[0]", "bench.repeats=0")
BODY = '''
from dataclasses import dataclass

from postdiff.metrics.base import PerImageMetric


class Bright(PerImageMetric):
    """Share of bright pixels."""

    title = "Bright"
    higher_is_better = True
    digits = 4

    @dataclass
    class Options:
        above: int = 128

    def __init__(self, options):
        super().__init__()
        self.above = options.above

    def update(self, images):
        self.add((images > self.above).double().mean((1, 2, 3)))
'''


@pytest.fixture
def own(extended):
    """`own("name", "text")` writes a metric."""

    def write(name, text=BODY):
        file = extended / "metrics" / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    return write


def ids(asked):
    [plan] = plan_rows(experiment.load("tiny", {"metrics": asked}).select(["plain"]))
    return plan.run_id, plan.images_id


def test_it_is_listed_measured_and_in_the_table(own, outputs, command):
    own("bright")
    code, out, err = command("list", "metrics", "--format", "json")
    assert code == 0, err
    assert {"kind": "metrics", "name": "bright", "summary": "Share of bright pixels."} in json.loads(out)
    code, out, err = command("run", "tiny", *FEW, "metrics=[paired_psnr, {bright: {above: 100}}]", "bootstrap=9")
    assert code == 0, err
    assert "Bright ↑" in out
    found = json.loads((outputs / "records" / "tiny" / "plain.json").read_text())["metrics"]
    assert 0 < found["bright"]["value"] < 1 and len(found["bright"]["interval"]) == 2
    assert "bright" in (outputs / "records" / "tiny" / "plain.csv").read_text().splitlines()[0].split(",")
    code, out, err = command("score", "tiny", *FEW, "metrics=[bright]")
    assert code == 0, err


def test_it_is_measured_only_where_it_is_asked_for(own):
    before = ids(None)
    own("bright")
    assert ids(None) == before


def test_its_code_and_options_are_part_of_the_records_identity(own, extended):
    from tests.lab.test_own_code import forget

    found = [ids(["paired_psnr"])]
    file = own("bright", BODY.replace("\nclass", "from postdiff.metrics import helper\n\nclass", 1))
    beside = extended / "metrics" / "helper.py"
    beside.write_text("FACTOR = 1\n")
    found.append(ids(["bright"]))
    assert ids([{"bright": {"above": 128}}]) == found[-1], "an option at its default"
    found.append(ids([{"bright": {"above": 99}}]))
    file.write_text(file.read_text() + "\nNEW = 1\n")
    forget()
    found.append(ids(["bright"]))
    beside.write_text("FACTOR = 2\n")
    forget()
    found.append(ids(["bright"]))
    beside.write_text("FACTOR = 2  # two\n")
    forget()
    assert ids(["bright"]) == found[-1], "a comment"
    assert len({run_id for run_id, _ in found}) == len(found)
    assert len({images_id for _, images_id in found}) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise ValueError('broken')\n", "metric 'bright' cannot be imported, "),
        ("def (\n", "line 1: SyntaxError"),
        ("A = 1\n", "must define exactly one subclass of BaseMetric; it defines 0"),
        (BODY.replace('    title = "Bright"\n', ""), "Bright says no title; write title = ... in it"),
        (BODY.replace("    higher_is_better = True\n", ""), "Bright says no higher_is_better"),
        (BODY.replace("title = ", "needs, title = ('image',), "), "needs 'image', which no row has"),
        (BODY.replace("super().__init__()", "super().__init__(1)"), "metric 'bright' cannot be built, "),
        (BODY.replace("    @dataclass\n", ""), "has Options that are no dataclass; write @dataclass above them"),
    ],
)
def test_what_is_broken_is_reported_in_one_line(own, refused, text, message):
    file = own("bright", text)
    line = refused("run", "tiny", *FEW, "metrics=[bright]")
    assert message in line and (str(file) in line or "says no" in line or "metric 'bright'" in line)


def test_one_that_fails_while_it_measures(own, refused):
    file = own("bright", BODY.replace("self.add(", "self.add(1 / 0 * "))
    line = refused("run", "tiny", *FEW, "metrics=[bright]")
    assert f"{file}, line 23" in line and "ZeroDivisionError" in line


def test_the_list_goes_on_without_it(own, command):
    own("zz_broken", "raise ValueError('broken')\n")
    code, out, err = command("list", "metrics")
    assert code == 0 and "paired_psnr" in out and "zz_broken" not in out
    [line] = err.splitlines()
    assert line.startswith("postdiff: left out: metric 'zz_broken' cannot be imported")


@pytest.mark.parametrize("name", ["fid_clean", "kid", "base"])
def test_a_name_of_ours_is_not_passed_over(own, name):
    own(name)
    with pytest.raises(UsageError, match=f"metric '{name}' is defined twice: .*; rename"):
        metrics.load(name)
