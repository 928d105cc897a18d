"""`postdiff profile`: time beside MACs, as table, chart and CSV."""

import csv
import json

import pytest
from PIL import Image

from postdiff.cost.macs import GROUPS
from postdiff.lab.bench import profile
from postdiff.lab.bench.profile import COLOURS, PLACES, WHOLE
from postdiff.lab.config import experiment

QUICK = ("steps=3", "count=2", "bench.repeats=2", "bench.warmup=0")


@pytest.fixture(scope="module")
def rows(tiny_root, tmp_path_factory):
    """The tiny experiment profiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTDIFF_PATH", str(tiny_root))
        patch.setenv("POSTDIFF_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        overrides = {"steps": 3, "count": 2, "bench": {"repeats": 2, "warmup": 0, "batch_size": 2}}
        return profile.measure(experiment.load("tiny", overrides))


def test_command_writes_chart_and_cells(tiny, outputs, command):
    code, out, err = command("profile", "tiny", *QUICK)
    assert code == 0, err
    assert (*GROUPS, "driver", "solver", "pipeline", "text encoder", "VAE") == PLACES
    for place in PLACES:
        assert out.count(f"\n  {place} ") == 2, place
    files = [outputs / "profiles" / f"tiny.{ending}" for ending in ("png", "csv")]
    assert [line for line in err.splitlines() if "wrote" in line] == [f"postdiff: wrote {file}" for file in files]
    with Image.open(files[0]) as chart:
        assert chart.width == 1400
        assert len(chart.convert("RGB").getcolors(1 << 24)) > len(COLOURS)
    places = {(row["row"], row["place"]): row for row in csv.DictReader(files[1].open())}
    assert set(places) == {(name, place) for name in ("plain", "cached") for place in (WHOLE, *PLACES)}
    assert all(float(row["seconds"]) > 0 for row in places.values()), "no work without time"
    work = [float(places[name, "resnets"]["macs_g"]) for name in ("plain", "cached")]
    assert work[0] > work[1] > 0


def test_figures_by_group(rows):
    values = json.loads(profile.render(rows, "json"))
    for name in ("plain", "cached"):
        whole, *places = [row for row in values if row["row"] == name]
        assert whole["place"] == WHOLE
        for key in ("seconds", "macs_g", "time_share", "macs_share"):
            assert sum(row[key] for row in places) == pytest.approx(whole[key])
    by_place = {(row["row"], row["place"]): row for row in values}
    first, other = by_place["plain", "resnets"], by_place["cached", "resnets"]
    assert other["macs_saving"] == pytest.approx(first["macs_g"] / other["macs_g"])
    assert other["macs_saving"] > 1
    assert other["lost_s"] == pytest.approx(other["seconds"] - first["seconds"] / other["macs_saving"])
    assert first["time_saving"] == 1
    assert first["lost_s"] == 0
    assert by_place["cached", "driver"]["macs_saving"] is None


def test_figures_are_of_one_image(rows):
    assert [one.batch_size for one in rows] == [2, 2]
    [whole] = [row for row in json.loads(profile.render(rows[:1], "json")) if row["place"] == WHOLE]
    assert whole["macs_g"] == pytest.approx(sum(rows[0].macs.values()) / 2e9)


@pytest.mark.parametrize("style", ["text", "markdown", "latex"])
def test_every_format(rows, style):
    table = profile.render(rows, style)
    assert "Plain" in table
    assert "median of 2 calls with 2 images each" in table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tinyy"], "unknown experiment 'tinyy'; did you mean 'tiny'"),
        (["tiny", "--rows", "cashed"], "did you mean 'cached'"),
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
