"""The code on pages runs, and does what the page says of it."""

import pytest
import torch
import yaml

from postdiff import accelerate, methods, metrics
from postdiff.cost.macs import count_macs
from postdiff.engine.errors import UsageError
from postdiff.lab.config import metric_specs
from postdiff.lab.pipelines import cards, models
from postdiff.presets import build_methods, preset
from tests.docs.pages import ROOT, blocks

STEPS = 6


@pytest.fixture(scope="module")
def emoji():
    pipe = models.load(cards.card("emoji"), "float32", "cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(run):
    generator = torch.Generator().manual_seed(0)
    return run("rocket", num_inference_steps=STEPS, generator=generator, output_type="latent").images


def test_four_lines_accelerate_a_pipeline(emoji, capsys):
    listed, by_preset, loading = blocks("accelerate.md", "python")
    given = {}
    exec(loading, given)
    given["pipe"].set_progress_bar_config(disable=True)
    exec(listed, given)
    first = given["image"]
    assert given["fast"].counts["network calls"] == 20 and first.size == (64, 64)
    exec(by_preset, given)
    assert capsys.readouterr().out == "20\n" and given["image"].size == (64, 64)


@pytest.fixture
def written(own_folder):
    """The files of the pages, each where its first line says."""
    for page, language in (("add_a_method", "python"), ("add_a_method", "yaml"), ("add_a_metric", "python")):
        for block in blocks(f"{page}.md", language):
            file = own_folder / block.splitlines()[0].removeprefix("# ")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block)
    return own_folder


def test_both_methods_are_short():
    """15 and 30 lines, not counting empty ones."""
    stateless, stateful = (
        sum(bool(line.strip()) for line in block.splitlines()) for block in blocks("add_a_method.md", "python")
    )
    assert stateless <= 15 and stateful <= 30


@pytest.mark.parametrize("name", ["nudge", "middle_cache"])
def test_a_method_of_the_page(written, emoji, name):
    assert name in methods.names()
    expected = latents(emoji)
    assert torch.equal(latents(accelerate(emoji, build_methods(preset(name).identity))), expected)
    fast = accelerate(emoji, build_methods([name]))
    found = latents(fast)
    assert torch.isfinite(found).all() and not torch.equal(found, expected)
    full, less = (count_macs(emoji, lambda run=run: latents(run))["denoiser"]["dense"] for run in (emoji, fast))
    assert (less < full) == preset(name).saves


def test_the_one_with_state_reuses_every_second_output(written, emoji):
    fast = accelerate(emoji, build_methods(["middle_cache", "mixed_resolution"]))
    latents(fast)
    # The size changes at step 3, which is computed anew; steps 1 and 5 are reused.
    assert fast.counts["middle_cache hits"] == 2 and fast.counts["middle_cache misses"] == 4
    with pytest.raises(UsageError, match="middle block"):
        methods.find("middle_cache")().claims(torch.nn.Linear(1, 1))


def test_the_metrics_of_the_page(written):
    images = torch.stack([torch.full((3, 4, 4), 10), torch.full((3, 4, 4), 20)]).to(torch.uint8)
    assert metrics.names()[-2:] == ["bright_share", "brightness"]
    assert metrics.facts("brightness").summary == "Mean grey level, 0 to 255."
    metric = metrics.load("brightness").from_options(None, None)
    metric.update(images=images)
    assert metric.last.tolist() == [10, 20] and float(metric.compute()) == 15
    name, options = metric_specs.parsed({"bright_share": {"above": 15}})
    metric = metrics.load(name).from_options(options, None)
    metric.update(images=images)
    assert metric.last.tolist() == [0, 1]
    lines = blocks("add_a_metric.md", "python")[0].splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 15


def test_presets_of_the_page_are_whole():
    for block in blocks("add_a_method.md", "yaml"):
        assert {"label", "reference", "methods", "identity"} <= set(yaml.safe_load(block))


def test_a_row_under_a_trainer(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path))
    given = {}
    [code] = [block for block in blocks("evaluation.md", "python") if "Trainer" in block]
    exec(code, given)
    assert len(list(tmp_path.rglob("*.png"))) == 2
    assert given["module"].values["emoji_text_score"].n == 2


def test_the_loop_that_the_page_shows_is_the_one_that_runs():
    [shown] = [block for block in blocks("architecture.md", "") if "part_of" in block]
    source = (ROOT / "postdiff" / "lab" / "generate" / "loop.py").read_text()
    assert all(line.strip() in source for line in shown.splitlines())
