"""Smaller parts: samples and their random numbers, shards, the grid, the list, layers of imports."""

import ast
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import postdiff
from postdiff import catalog, methods, metrics
from postdiff.engine.errors import UsageError
from postdiff.lab.config import schedulers
from postdiff.lab.data import data_cards
from postdiff.lab.data import samples as samples_
from postdiff.lab.data.samples import Sample, Shard
from postdiff.lab.files import folders
from postdiff.lab.images import grid
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.listing import listing
from postdiff.lab.pipelines import cards, models, random_weights

PACKAGE = Path(postdiff.__file__).parent


def test_every_prompt_with_every_seed():
    samples = samples_.pairs(["a", "b"], [3, 5])
    assert samples == [Sample(0, "a", 3), Sample(1, "b", 3), Sample(0, "a", 5), Sample(1, "b", 5)]


def test_a_samples_noise_is_its_own():
    def noise(*sample):
        return torch.randn(3, generator=samples_.generator(Sample(*sample)))

    assert torch.equal(noise(4, "a", 1), noise(4, "another prompt", 1))
    assert len({tuple(noise(index, "a", seed).tolist()) for index in range(5) for seed in range(5)}) == 25
    # Images on disk and published figures rest on this number.
    assert samples_.generator(Sample(4, "a", 1)).initial_seed() == 20594608899518939


def test_shards_part_the_work():
    samples = samples_.pairs([str(i) for i in range(5)], [0, 1])
    batches = samples_.batches(samples, 3)
    parts = [[sample for batch in samples_.part_of(batches, Shard(i, 3)) for sample in batch] for i in (1, 2, 3)]
    assert sorted([*parts[0], *parts[1], *parts[2]], key=samples.index) == samples
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shards_are_read():
    assert Shard.parse("2/4") == Shard(2, 4)
    for text in ("0/2", "3/2", "1", "a/b", "1/0", "/", "-1/2"):
        with pytest.raises(UsageError, match="--shard"):
            Shard.parse(text)


@pytest.mark.parametrize("name", catalog.names("data"))
def test_shipped_data_cards(name, tmp_path, monkeypatch):
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path))
    if data_cards.shipped_card(name).source is not None:
        with pytest.raises(UsageError, match=f"'{name}' is not prepared yet; run 'postdiff data prepare {name}'"):
            data_cards.card(name)
        return
    found = data_cards.card(name)
    least = 100 if found.images is None else 10
    assert found.summary and len({line.prompt for line in data_cards.read(found)}) > least


@pytest.mark.parametrize("name", catalog.names("models"))
def test_shipped_model_cards(name):
    found = cards.card(name)
    assert found.summary
    if found.stages or found.folder or found.hub:
        assert models.checkpoint(found)
        return
    with pytest.raises(UsageError, match="no weights; use weights=random"):
        models.checkpoint(found)
    assert random_weights.pipeline_class(found).__name__ == found.pipeline


@pytest.mark.parametrize(
    ("text", "message"), [(None, "missing"), ("{}", "key 'prompt'"), ("3", "key 'prompt'"), ("{", "JSON")]
)
def test_prompt_files_are_checked(tmp_path, text, message):
    file = tmp_path / "prompts.jsonl"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=message):
        data_cards.read(data_cards.DataCard(prompts=str(file)))


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_every_scheduler_exists_and_takes_over_the_models_settings(name):
    import diffusers

    present = diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction", beta_end=0.012)
    if name == "flow_match_euler":
        with pytest.raises(UsageError, match="is for flow matching"):
            schedulers.build(present, name, {})
        present = diffusers.FlowMatchEulerDiscreteScheduler()
    made = schedulers.build(present, name, {})
    assert type(made) is schedulers.find(name)
    assert made.config.get("prediction_type", "v_prediction") == "v_prediction"


def test_scheduler_options_are_laid_over_the_models():
    import diffusers

    present = diffusers.DDIMScheduler(beta_end=0.012)
    assert schedulers.build(present, None, {}) is present
    made = schedulers.build(present, None, {"timestep_spacing": "trailing"})
    assert made.config.timestep_spacing == "trailing" and made.config.beta_end == 0.012
    with pytest.raises(UsageError, match="does not fit"):
        schedulers.build(present, "dpm_solver", {"algorithm_type": "magic"})


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_a_solver_that_clips_by_itself_does_not_clip_latents(name):
    import diffusers

    never_clipped = diffusers.DPMSolverMultistepScheduler()
    assert not schedulers.build(never_clipped, name, {}).config.clip_sample
    assert schedulers.build(never_clipped, name, {"clip_sample": True}).config.clip_sample
    clipped = diffusers.DDPMScheduler(clip_sample=True)
    assert schedulers.build(clipped, name, {}).config.clip_sample, "made for pixels"


def test_images_are_kept_exactly(tmp_path):
    folder = ImageFolder(tmp_path / "images")
    samples = samples_.pairs(["a", "b"], [0])
    images = torch.randint(256, (2, 3, 8, 10), dtype=torch.uint8)
    assert not folder.has(samples[0])
    folder.write(samples, images)
    assert torch.equal(folder.read(samples), images)
    folder.file(samples[1]).write_bytes(b"not an image")
    with pytest.raises(UsageError, match="cannot be read"):
        folder.read(samples)


def test_the_grid_has_prompts_across_and_rows_down(tmp_path):
    samples = samples_.pairs(["red heart", "a very long prompt that needs several lines of its own"], [0])
    colours = {"One": 200, "Another row": 90}
    rows = []
    for label, value in colours.items():
        folder = ImageFolder(tmp_path / label)
        folder.write(samples, torch.full((2, 3, 64, 64), value, dtype=torch.uint8))
        rows.append((label, folder))
    grid.draw(rows, samples, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.width > 2 * 128 and sheet.height > 2 * 128, "small images are doubled"
        column = [sheet.getpixel((sheet.width - 60, y))[0] for y in range(sheet.height)]
        pixels = sheet.convert("L").crop((0, 0, sheet.width - 2 * 134, sheet.height)).getextrema()
    assert column.count(200) == 128 and column.count(90) == 128 and column.index(200) < column.index(90)
    assert pixels[0] < 100, "labels are drawn on the left"


def test_a_file_is_whole_or_absent(tmp_path):
    file = tmp_path / "folder" / "file.txt"
    with pytest.raises(KeyboardInterrupt), folders.atomic_write(file) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert not list(file.parent.iterdir())
    with folders.atomic_write(file) as temporary:
        temporary.write_text("whole")
    assert file.read_text() == "whole" and file.stat().st_mode & 0o044


def test_the_list_knows_everything():
    assert {entry["name"] for entry in listing("metrics")} == set(metrics.names())
    assert {entry["name"] for entry in listing("methods")} >= {*methods.names(), *catalog.names("methods")}
    for kind in ("models", "experiments", "data"):
        assert [entry["name"] for entry in listing(kind)] == catalog.names(kind)
    assert all(entry["summary"] for kind in ("models", "methods", "experiments") for entry in listing(kind))


def test_list_prints_names_and_summaries(command):
    code, out, _ = command("list")
    assert code == 0 and "emoji" in out and "deepcache" in out
    code, out, _ = command("list", "metrics")
    assert code == 0 and "not FID" in out and "deepcache" not in out


def imports(file):
    """Modules of ours that a file imports, at whatever depth of nesting."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("postdiff.")}


@pytest.mark.parametrize("file", sorted((PACKAGE / "metrics").glob("*.py")), ids=lambda file: file.stem)
def test_metrics_import_neither_lab_nor_methods(file):
    known = ("postdiff.metrics", "postdiff.engine", "postdiff.hub", "postdiff.model_files", "postdiff.zoo")
    assert all(name.startswith(known) for name in imports(file))


def test_only_the_command_line_imports_the_lab():
    for file in PACKAGE.rglob("*.py"):
        if not {"lab", "cli"} & {*file.relative_to(PACKAGE).parts}:
            assert not any(name.startswith("postdiff.lab") for name in imports(file)), file


def test_the_command_line_imports_the_lab_only_when_needed():
    for file in (PACKAGE / "cli").glob("*.py"):
        tree = ast.parse(file.read_text())
        top = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        top |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        others = {name for name in top if name.partition(".")[0] not in sys.stdlib_module_names}
        assert all(name.startswith(("postdiff.cli", "postdiff.engine")) for name in others), file
