"""Figures and tables of the reproduction: drawn from made-up records, and what is read off them against hand counts."""

import functools
import importlib
import math
import sys
from pathlib import Path

import pytest
import torch

from postdiff.engine.errors import UsageError
from postdiff.lab.analysis import findings
from postdiff.lab.analysis.key_selection import staleness
from postdiff.lab.config import experiment
from postdiff.lab.files import folders
from postdiff.lab.records.record import Value, fresh_path
from tests.lab.test_results import record
from tests.support import features
from tests.support import frontier as support_frontier

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "paper_figures"
SHARED = ("all", "features", "frontier_table", "measured", "style")
SCRIPTS = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in SHARED)
FRONTIER = ("frontier", "frontier_families", "frontier_families_score")
FILES = {"demo": "demo_tradeoff", "tables": None}
EXPERIMENTS = ("baselines", "calibration", "cross_attention_ablation", "frontier_full", "frontier_mixed", "main_table")
EXPERIMENTS = tuple(f"postdiff/{name}" for name in (*EXPERIMENTS, "step_clip", "unknowns"))
EXPERIMENTS += ("demo", "comparison", "mixed_axes", "whole_network")
EXPERIMENTS += tuple(f"faster_diffusion/table_{number}" for number in (5, 6, 11, 14))
LOADED = functools.cache(experiment.load)  # the files do not change while tests run
FRECHET, TEXT, PSNR, LPIPS = "emoji_frechet_distance", "emoji_text_score", "paired_psnr", "paired_lpips"


def write(name, row, saving=1.0, frechet=2.0, text=80.0, psnr=30.0, **changes):
    """A record of the shipped model with these figures."""
    figures = {FRECHET: (frechet, False), TEXT: (text, True), PSNR: (psnr, True), LPIPS: (0.01 * frechet, False)}
    made = {
        "experiment": name,
        "row": row,
        "label": row,
        "run_id": f"{name}/{row}",
        "config": {"model": "emoji", "steps": 20, "methods": []},
        "metrics": {key: Value(value, 0.1, {"0": value}, 4, higher, {}) for key, (value, higher) in figures.items()},
        "curves": {TEXT: {"0": [50.0] * 20, "1": [60.0] * 20}},
        "macs": {"denoiser": {"dense": round(20e9 / saving)}},
    }
    record(**made | changes).write(fresh_path(name, row))


def write_speed(row, seconds, work, batch, device="cuda", name="speed/sd15_768"):
    """A record of the times of an image, and of its loop, which takes 9 tenths of them."""
    time = {"median_s": seconds, "q25_s": seconds, "q75_s": seconds, "batch_size": batch, "session": "once"}
    time |= {"rounds_s": [seconds] * 3, "loop_rounds_s": [0.9 * seconds] * 3, "loop": {"median_s": 0.9 * seconds}}
    made = {"kind": "speed", "experiment": name, "row": row, "label": f"{row.rpartition('_')[0]}, batch {batch}"}
    made |= {"checkpoint": "random:sd15", "latency": time, "metrics": {}, "macs": {"denoiser": {"all": work}}}
    config = {"model": "sd15_768", "steps": 20, "methods": [], "device": device}
    message = {"device": "a GPU" if device == "cuda" else "a CPU"}
    record(**made, config=config, **message).write(fresh_path(name, row, "speed"))


@pytest.fixture
def script(tmp_path, monkeypatch):
    """`script(name)`: the module, which reads records from, and saves in, folders of this test."""
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setattr(folders, "committed_records", lambda: tmp_path / "none")
    monkeypatch.setattr(experiment, "load", LOADED)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(importlib.import_module("style"), "FOLDER", tmp_path / "figures")
    (tmp_path / "figures").mkdir()
    yield importlib.import_module
    for name in (*SHARED, *SCRIPTS):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def every_record(tmp_path_factory):
    """Folder with a record for every row of every experiment, but for some that the shipped model is not run with."""
    root = tmp_path_factory.mktemp("outputs")
    features.write_all(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTDIFF_OUTPUTS", str(root))
        for name in EXPERIMENTS:
            for number, row in enumerate(LOADED(name).rows):
                if row.name.startswith(("t10", "t14", "t18", "sdxl_steps", "pixart_steps", "sdxl_20")):
                    continue
                steps, methods = row.config.steps, [each for each in row.config.methods if isinstance(each, dict)]
                saving, frechet = 20 / steps * (1 + 0.5 * len(methods)), 2 + 40 / steps + 0.1 * number
                config = {"model": "emoji", "steps": steps, "methods": methods}
                write(name, row.name, saving, frechet, 80 + steps / 10 - 0.1 * number, config=config)
        write_speed("original_b1", 2.0, 100, 1)
        write_speed("deepcache_b1", 1.0, 50, 1)
    return root


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_draws(script, every_record, tmp_path, name, monkeypatch, capsys):
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(every_record))
    script(name).main()
    made = {file.relative_to(tmp_path / "figures").as_posix() for file in (tmp_path / "figures").rglob("*.*")}
    if name == "tables":
        names = [
            "comparison",
            "mixed_axes",
            "whole_network",
            "main_table",
            "baselines",
            "cross_attention_ablation",
            "unknowns",
        ]
        names += [f"faster_diffusion_table_{number}" for number in (5, 6, 11, 14)]
        assert made == {f"tables/{each}.{ending}" for each in names for ending in ("md", "tex")}
    else:
        drawn = FRONTIER if name == "frontier" else (FILES.get(name, name),)
        text = {"tables/frontier.md"} if name == "frontier" else set()
        assert made == {f"{each}.{ending}" for each in drawn for ending in ("svg", "png")} | text
    printed = capsys.readouterr()
    assert printed.out.count("wrote figures/") == len(made) and not printed.err


def test_missing_records_are_reported_in_one_line(script, capsys):
    assert script("all").main() == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2] for line in lines] == SCRIPTS
    assert all("postdiff run" in line or "python experiments/" in line for line in lines)
    with pytest.raises(SystemExit, match="2"):
        script("style").program(script("ablation").main)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("postdiff: error: experiment postdiff/cross_attention_ablation has no whole quality record")


def test_one_missing_experiment_does_not_stop_the_others(script, tmp_path, capsys):
    write("postdiff/unknowns", "original")
    assert script("all").main() == 2
    printed = capsys.readouterr()
    assert "wrote figures/tables/unknowns.md" in printed.out and len(printed.err.splitlines()) == len(SCRIPTS)
    table = (tmp_path / "figures" / "tables" / "unknowns.md").read_text()
    assert "| original" in table and "no record" not in table, "only rows that have records"


def test_rows_of(script, capsys):
    write("postdiff/frontier_mixed", "t20")
    write("postdiff/frontier_mixed", "t16", n_done=3)
    write("postdiff/frontier_mixed", "t12", metrics={})
    rows_of = script("measured").rows_of
    assert [row["row"] for row in rows_of("postdiff/frontier_mixed")] == ["t20", "t12"]
    assert "row 't16' has 3 of 4 images and is left out" in capsys.readouterr().err
    assert [row["row"] for row in rows_of("postdiff/frontier_mixed", TEXT)] == ["t20"]
    with pytest.raises(UsageError, match="no whole quality record that gives paired_ssim"):
        rows_of("postdiff/frontier_mixed", "paired_ssim")


def frontier(fewer, postdiff):
    """Records of both curves: {steps: (saving, frechet, text)}."""
    for kind, points in (("steps", fewer), ("postdiff", postdiff)):
        for steps, (saving, frechet, text) in points.items():
            write("postdiff/frontier_full", f"sd15_{kind}_{steps}", saving, frechet, text)


def test_crossing(script):
    # Frechet: fewer steps 2 + 2 (saving - 1), PostDiff 3 + 4 (saving - 2): 4 against 3 at 2, equal at 2.5.
    # Text: PostDiff is ahead at 2, and still at 4, where the measured savings of both end.
    frontier(
        {20: (1, 2.0, 90.0), 10: (2, 4.0, 80.0), 4: (5, 10.0, 50.0)},
        {20: (2, 3.0, 90.0), 8: (4, 11.0, 85.0)},
    )
    module, measured = script("frontier_full"), script("measured")
    rows = measured.rows_of(module.EXPERIMENT)
    assert module.crossing(rows) == {FRECHET: pytest.approx(2.5), TEXT: pytest.approx(4)}
    fewer, postdiff = (measured.named(rows, pattern) for pattern in (module.FEWER, module.POSTDIFF))
    [first, second] = measured.spans(fewer, postdiff, FRECHET)
    assert first == (2, pytest.approx(2.5), True) and second == (pytest.approx(2.5), 4, False)
    assert measured.spans(postdiff, fewer, TEXT) == [(2, 4, False)]
    assert measured.spans(fewer[:1], postdiff, TEXT) == measured.spans([], postdiff, TEXT) == []


def test_no_crossing_where_postdiff_is_worse_at_first(script):
    frontier({20: (1, 2.0, 90.0), 4: (5, 2.0, 90.0)}, {20: (2, 3.0, 80.0), 8: (4, 1.0, 88.0)})
    module = script("frontier_full")
    assert module.crossing(script("measured").rows_of(module.EXPERIMENT)) == {FRECHET: None, TEXT: None}


def test_rank_correlations(script):
    settings = ("t20_s0.2", "t20_s0.4", "t20_s0.6", "t16_s0.2")
    for place, setting in enumerate(settings):
        write("postdiff/calibration", setting, frechet=place, text=place, psnr=place)
        # With 8 prompts: Frechet in the same order, text with two neighbours exchanged, PSNR the other way round.
        exchanged = (0, 1, 3, 2)[place]
        write("postdiff/calibration", f"{setting}_n8", frechet=10 * place, text=exchanged, psnr=-place)
    write("postdiff/calibration", "t20_s0.2_n16")
    found = script("calibration").rank_correlations()
    # 1 - 6 sum(d^2) / (n (n^2 - 1)) with n = 4 and d^2 = 0, 2 and 9 + 1 + 1 + 9.
    assert {metric: list(values) for metric, values in found.items()} == {FRECHET: [8], TEXT: [8], PSNR: [8]}
    assert [values[8] for values in found.values()] == [pytest.approx(1), pytest.approx(0.8), pytest.approx(-1)]


def test_too_few_settings_have_no_rank_correlation(script):
    write("postdiff/calibration", "t20_s0.2")
    write("postdiff/calibration", "t20_s0.2_n8")
    with pytest.raises(UsageError, match="too few rows"):
        script("calibration").rank_correlations()


def test_mixed_branches_start_at_their_plain_row(script):
    for row, steps in {"t20": 20, "t20_s0.4": 20, "t20_s0.1": 20, "t12_s0.2": 12, "t8": 8}.items():
        write("postdiff/frontier_mixed", row, config={"model": "emoji", "steps": steps, "methods": []})
    module = script("frontier_mixed")
    branches = module.branches(script("measured").rows_of(module.EXPERIMENT))
    names = {steps: [row["row"] for row in branch] for steps, branch in branches.items()}
    assert names == {20: ["t20", "t20_s0.1", "t20_s0.4"], 12: ["t12_s0.2"]}


def test_settings_of_both_experiments_are_drawn_once(script):
    deepcache = {"model": "emoji", "methods": [{"deepcache": {}}]}
    write("postdiff/baselines", "original", run_id="a")
    write("postdiff/baselines", "deepcache", saving=2, config=deepcache)
    write("postdiff/main_table", "sd15_20", run_id="a")
    write("postdiff/main_table", "sd15_postdiff", saving=3, config=deepcache)
    points = script("baselines").points()
    assert [(kind, row["row"]) for kind, row in points] == [
        ("fewer", "original"), ("other", "deepcache"), ("postdiff", "sd15_postdiff"),
    ]  # fmt: skip
    other = {name: Value(1.0, None, {}, 4, True, {"n_per_seed": 9}) for name in (FRECHET, TEXT)}
    write("postdiff/main_table", "sd15_8", metrics=other)
    with pytest.raises(UsageError, match="'sd15_8' was measured otherwise"):
        script("baselines").points()


def test_the_frontier_of_a_comparison(script):
    """Against cost: nothing that something as cheap or cheaper beats; either sense of a metric."""
    module = script("comparison")
    figures = {"a": (1, 9), "b": (2, 5), "c": (2, 7), "d": (3, 6), "e": (4, 3)}
    rows = [{"row": row, "macs_g": cost, FRECHET: value, TEXT: -value} for row, (cost, value) in figures.items()]
    for quality in (FRECHET, TEXT):
        assert [row["row"] for row in module.frontier(rows, "macs_g", quality)] == ["a", "b", "e"]
    assert module.kind_of({"row": "steps_8"}) == "fewer steps" and module.kind_of({"row": "tome"}) == "others"


def test_rows_of_the_whole_network_have_a_look_each(script):
    module = script("whole_network")
    rows = [{"row": row} for row in ("steps_20", "easy_residual_8")]
    assert module.with_calls(rows, {"easy_residual_8": 7.5}) == [{"row": "easy_residual_8", "calls": 7.5}]
    known = {name.split("_")[0] for name in (row.name for row in LOADED("whole_network").rows)} - {"steps"}
    assert known <= set(module.RULES), "every rule has a marker"
    fills = {name.split("_")[1] for name in (row.name for row in LOADED("whole_network").rows) if "steps" not in name}
    assert fills <= set(module.FILLS), "every fill has a colour"


def test_the_table_of_the_frontier(script):
    """Where a family crosses fewer steps, in savings; settings that nothing beats, the dearest first."""
    lines = script("frontier_table").table(support_frontier.found()).splitlines()
    assert lines[0] == "13 settings, 32 prompts with 3 seeds each; costs are shares of 20 steps."
    family = next(line for line in lines if line.startswith("| cache | 8 |"))
    assert "| 1.5 [" in family and "| worse from 4.00x less [" in family
    assert any(line.startswith("| other | 1 |") and line.endswith("| one cost only |") for line in lines)
    assert any(line.startswith("| cache, soft | 4 |") and line.endswith("| worse throughout |") for line in lines)
    best = [line.split(" | ")[0].strip("| ") for line in lines[lines.index("On the Pareto front of all:") + 4 :]]
    assert best[:3] == ["20 steps", "cache, hard, 20 steps", "cache, hard, 10 steps"] and "cache, soft" not in best[:6]


def test_every_family_of_the_frontier_has_a_look_of_its_own(script):
    module = script("frontier")
    for names in (("frontier", "frontier_adaptive"), ("frontier_transformer", "frontier_adaptive")):
        rows = {row.name: {"family": row.label.partition(",")[0]} for name in names for row in LOADED(name).rows}
        looks = module.looks({"rows": {name: own for name, own in rows.items() if "steps" not in own["family"]}})
        assert len({tuple(look.values()) for look in looks.values()}) == len(looks) >= 14


def test_steps_at_low_resolution(script):
    methods = [{"deepcache": {}}, {"mixed_resolution": {"switch": 0.5}}]
    write("postdiff/step_clip", "full")
    write("postdiff/step_clip", "s0.5", config={"model": "emoji", "steps": 5, "methods": methods})
    write("postdiff/step_clip", "s0.2", curves={})
    module = script("step_clip")
    found = module.records()
    assert list(found) == ["full", "s0.5"], "a record without a curve is passed over"
    assert [module.low_steps(each) for each in found.values()] == [0, 3], "2.5 is rounded half up"
    assert set(module.curve(found["full"])) == {55.0}


def test_numbers_keep_apart(script):
    style = script("style")
    drawn, axes = style.figure()
    points = [(1.0, 1.0)] * 5 + [(1.001, 1.0), (2.0, 2.0)]
    axes.plot(*zip(*points, strict=True), "o")
    style.number_points(axes, points, [0.0] * len(points))
    places = axes.transData.transform([text.xy for text in axes.texts]) / drawn.dpi * 72
    places = [(x + text.xyann[0], y + text.xyann[1]) for (x, y), text in zip(places, axes.texts, strict=True)]
    assert [text.get_text() for text in axes.texts] == list("1234567")
    assert all(math.dist(one, other) > 9 for place, one in enumerate(places) for other in places[:place])


def test_key_sets_of_the_figure_are_of_one_size(script):
    module = script("key_selection")
    found = module.sets(features.features())
    assert list(found) == ["uniform", "paper", "least stale", "weighted"]
    assert {len(keys) for keys in found.values()} == {9}
    assert list(module.sets(features.features(12))) == ["uniform", "least stale", "weighted"]
    distance = torch.tensor(features.features().found["distance"])
    assert min(found, key=lambda name: staleness(distance, found[name])) == "least stale"


def test_many_blocks_have_few_labels(script):
    blocks = {str(i): {"part": "encoder" if i < 18 else "decoder"} for i in range(28)}
    looks = script("features").looks(blocks)
    assert [name for name, look in looks.items() if look["label"]] == ["0", "17", "18", "27"]
    assert len({look["color"] for look in looks.values()}) == 28


def test_another_record_is_drawn_by_its_name(script, every_record, tmp_path, monkeypatch):
    made = features.features(20)
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path / "outputs"))
    made.write(findings.fresh_path(made.experiment, "mine"))
    for name in ("feature_change", "feature_pca", "key_selection"):
        script(name).main("mine")
        assert (tmp_path / "figures" / f"{name}_mine.png").is_file()


def test_speed_on_a_gpu(script, capsys):
    """Ideal 4 at half and at 3 quarters; what a CPU has timed is not told, a batch size that is missing is a dash."""
    write_speed("original_b1", 8.0, 100, 1)
    write_speed("stacked_b1", 4.0, 25, 1)
    write_speed("original_b8", 6.0, 100, 8)
    write_speed("stacked_b8", 2.0, 25, 8)
    write_speed("deepcache_b8", 4.0, 50, 8)
    write_speed("mixed_resolution_b1", 1.0, 50, 1, device="cpu")
    write_speed("original", 1.0, 50, 1, device="cpu", name="speed/options")
    module = script("gpu")
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in module.table(module.measured()).split("\n")
    ]
    assert lines[0][0] == "a GPU" and lines[2][0] == "**speed/sd15_768**"
    assert lines[3:] == [
        ["20 steps", "1.00x", "1.00x", "1.000", "1.00x", "1.00x", "1.000", "1.00x"],
        ["DeepCache", "2.00x", "-", "-", "-", "1.50x", "0.750", "1.50x"],
        ["PostDiff at its limit", "4.00x", "2.00x", "0.500", "2.00x", "3.00x", "0.750", "3.00x"],
    ]


def test_the_pages_block_is_what_the_records_give(script, tmp_path, monkeypatch):
    module = script("gpu")
    page = module.PAGE.read_text()
    assert page.count(module.BEGIN) == page.count(module.END) == 1
    monkeypatch.setattr(module, "PAGE", tmp_path / "speed.md")
    module.PAGE.write_text(page)
    with pytest.raises(UsageError, match="no records of a GPU.*experiments/gpu_check.py"):
        module.main(["--write"])
    assert f"{module.BEGIN}\n{module.UNMEASURED}\n{module.END}" in module.PAGE.read_text()
    write_speed("original_b1", 8.0, 100, 1)
    module.main(["--write"])
    made = module.PAGE.read_text()
    assert "| 20 steps | 1.00x |" in made and module.UNMEASURED not in made
    assert made.partition(module.BEGIN)[0] == page.partition(module.BEGIN)[0]
    assert made.partition(module.END)[2] == page.partition(module.END)[2]


def test_the_page_says_what_the_committed_records_say(monkeypatch, tmp_path):
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path))
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("gpu")
    page = module.PAGE.read_text()
    assert module.written(page, module.table(module.measured())) == page
    for name in (*SHARED, "gpu"):
        sys.modules.pop(name, None)
