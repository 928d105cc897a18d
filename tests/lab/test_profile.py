"""`postdiff profile`: time beside MACs, as table, chart and JSON."""

import csv
import io
import json

import pytest
from PIL import Image
from postdiff.lab.bench.profile_figures import LOOP, PLACES, WHOLE, place_key

from postdiff.cost.groups import GROUPS
from postdiff.lab.bench import profile_table, profiling
from postdiff.lab.config import experiment

QUICK = ("steps=3", "count=2", "bench.repeats=2", "bench.warmup=0")


@pytest.fixture(scope="module")
def rows(tiny_root, tmp_path_factory):
    """The tiny experiment profiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTDIFF_PATH", str(tiny_root))
        patch.setenv("POSTDIFF_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        overrides = {"steps": 3, "count": 2, "bench": {"repeats": 2, "warmup": 0, "batch_size": 2}}
        return profiling.profile(experiment.load("tiny", overrides))


def test_command_writes_chart_and_cells(tiny, outputs, command):
    code, out, err = command("profile", "tiny", *QUICK)
    assert code == 0, err
    for place in (*GROUPS, "driver", "solver", "pipeline", "text encoder", "VAE"):
        assert out.count(f"\n  {place} ") == 2, place
    files = [outputs / "profiles" / f"tiny.{ending}" for ending in ("png", "json")]
    assert [line for line in err.splitlines() if "wrote" in line] == [f"postdiff: wrote {file}" for file in files]
    with Image.open(files[0]) as chart:
        assert chart.width == 1400
        assert len(chart.convert("RGB").getcolors(1 << 24)) > len(LOOP)
    content = json.loads(files[1].read_text())
    assert content["versions"]["torch"]
    assert content["device"]
    plain, cached = content["rows"]
    for row in (plain, cached):
        assert (row["repeats"], row["pictures"], row["steps"]) == (2, 1, 3)
        assert {cell["step"] for cell in row["cells"]} == {-1, 0, 1, 2, 3}
        assert all(cell["seconds"] > 0 for cell in row["cells"]), "no work without time"
    work = [sum(cell["macs"] for cell in row["cells"] if cell["part"] == "denoiser") for row in (plain, cached)]
    assert work[1] < work[0]


def test_figures_by_group(rows):
    figures = json.loads(profile_table.render(rows, "json", "group"))
    for name in ("plain", "cached"):
        whole, *places = [row for row in figures if row["row"] == name]
        assert whole["place"] == WHOLE
        for key in ("seconds", "macs_g", "time_share", "macs_share"):
            assert sum(row[key] for row in places) == pytest.approx(whole[key])
    by_place = {(row["row"], row["place"]): row for row in figures}
    first, other = by_place["plain", "resnets"], by_place["cached", "resnets"]
    assert other["macs_saving"] == pytest.approx(first["macs_g"] / other["macs_g"])
    assert other["macs_saving"] > 1
    assert other["ratio"] == pytest.approx(other["macs_saving"] / other["time_saving"])
    assert other["lost_s"] == pytest.approx(other["seconds"] - first["seconds"] / other["macs_saving"])
    assert first["ratio"] == 1
    assert first["lost_s"] == 0
    assert by_place["cached", "driver"]["ratio"] is None


def test_figures_are_of_one_picture(rows):
    assert [one.pictures for one in rows] == [2, 2]
    [whole] = [row for row in json.loads(profile_table.render(rows[:1], "json", "group")) if row["place"] == WHOLE]
    assert whole["macs_g"] == pytest.approx(sum(rows[0].work.values()) / 2e9)


def test_figures_by_step(rows):
    steps = list(csv.DictReader(io.StringIO(profile_table.render(rows, "csv", "step"))))
    assert [row["steps"] for row in steps] == ["before", "0", "1", "2", "after"] * 2
    for row in steps:
        for unit, total in (("s", "seconds"), ("g", "macs_g")):
            parts = sum(float(row[f"{place_key(place)}_{unit}"]) for place in PLACES)
            assert parts == pytest.approx(float(row[total]))
    cheap = steps[7]
    assert float(cheap["macs_g"]) < float(steps[6]["macs_g"])
    whole = json.loads(profile_table.render(rows, "json", "group"))[0]
    assert sum(float(row["seconds"]) for row in steps[:5]) == pytest.approx(whole["seconds"])


def test_like_steps_share_a_line(rows):
    lines = profile_table.render(rows, "text", "step").splitlines()
    assert [line.split()[1] for line in lines if line.startswith("Plain")][:3] == ["before", "0-2", "after"]
    assert [line.split()[1] for line in lines if line.startswith("Cached")][:5] == ["before", "0", "1", "2", "after"]


@pytest.mark.parametrize("style", ["text", "markdown", "latex"])
@pytest.mark.parametrize("by", ["group", "step"])
def test_every_view_in_every_format(rows, style, by):
    table = profile_table.render(rows, style, by)
    assert "Plain" in table
    assert "median of 2 calls with 2 pictures each" in table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tinyy"], "unknown experiment 'tinyy'; did you mean 'tiny'"),
        (["tiny", "--rows", "cashed"], "did you mean 'cached'"),
        (["tiny", "--by", "module"], "invalid choice: 'module'"),
        (["tiny", "--format", "pdf"], "invalid choice: 'pdf'"),
        (["tiny", "bench.repeats=0"], "bench.repeats=0 leaves nothing to time"),
        (["tiny", "bench.warmup=1", "network.compile=true"], "use network.compile=false"),
        (["tiny", "methods=[{deepcache: {branch: 9}}]"], "row 'plain': DeepCache: branch=9 is deeper"),
    ],
)
def test_mistakes(tiny, outputs, command, words, message):
    code, out, err = command("profile", *words)
    assert (code, out) == (2, "")
    assert message in err.strip().splitlines()[-1]
    assert not (outputs / "profiles").exists()
