"""`postdiff macs`: counting without weights, beside the printed values."""

import json

import pytest
import yaml

from postdiff import catalog, cli
from postdiff.zoo import EMOJI

pytestmark = pytest.mark.slow


def test_row_beside_its_printed_figure(capsys):
    words = ["macs", "postdiff/cross_attention_ablation", "--rows", "original", "steps=2", "--format", "json"]
    assert cli.main(words) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["macs_t"] == row["macs_t_dense"] == pytest.approx(3.04, abs=0.001)
    assert row["reported_macs_t"] == 30.42
    assert row["gap_percent"] == pytest.approx(100 * (row["macs_t"] / 30.42 - 1))
    assert row["macs_t_dense"] < row["macs_t_fvcore"] < row["macs_t_all"]


def test_convention_is_what_is_shown(capsys):
    words = ["macs", "demo", "--rows", "steps_8", "--convention", "all"]
    assert cli.main([*words, "--format", "json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["macs_t"] == row["macs_t_all"]
    assert cli.main(words) == 0
    assert f"{1000 * row['macs_t_all']:.3f}" in capsys.readouterr().out


def test_the_papers_way_stands_beside_where_it_differs(capsys):
    words = ["macs", "postdiff/cross_attention_ablation", "--rows", "m10_cond,m15_cond"]
    assert cli.main([*words, "--format", "json"]) == 0
    misprint, row = json.loads(capsys.readouterr().out)
    assert row["macs_t"] == pytest.approx(16.41, rel=1e-3)
    assert row["paper_macs_t"] == pytest.approx(row["reported_macs_t"], rel=1e-3)
    assert row["gap_percent"] == pytest.approx(100 * (row["paper_macs_t"] / 16.360 - 1))
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "paper's way" in out
    assert f"* {misprint['note']}: {misprint['label']}" in out
    assert f"{misprint['label']}*" in out


def test_steps_of_a_row(capsys):
    words = ["macs", "demo", "--rows", "postdiff", "--by", "step"]
    assert cli.main([*words, "--format", "json"]) == 0
    steps = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in steps] == list(range(20))
    assert [row["computed"] for row in steps] == [2] * 15 + [1] * 5
    groups = ("resnets", "self_attention", "cross_attention", "feed_forward", "other")
    for row in steps:
        for convention in ("dense", "fvcore", "all"):
            parts = sum(row[f"{group}_t_{convention}"] for group in groups)
            assert parts == pytest.approx(row[f"macs_t_{convention}"], rel=1e-12)
    assert cli.main(["macs", "demo", "--rows", "postdiff", "--format", "json"]) == 0
    [whole] = json.loads(capsys.readouterr().out)
    assert sum(row["macs_t"] for row in steps) == pytest.approx(whole["macs_t"], rel=1e-12)


def test_like_steps_share_a_line(capsys):
    assert cli.main(["macs", "demo", "--rows", "steps_8,cross_attention", "--by", "step"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:5]]
    assert [line[-7 - 1] for line in lines] == ["0-7", "0-14", "15-19"]
    assert [line[-7] for line in lines] == ["2", "2", "1"]


@pytest.mark.parametrize("branches", ["all", "one"])
def test_groups_and_parts(capsys, branches):
    words = ["macs", "demo", "--rows", "steps_8", "--branches", branches]
    assert cli.main([*words, "--by", "part", "--format", "json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    parts = row["text_encoder_t_dense"] + row["macs_t_dense"] + row["vae_t_dense"]
    assert row["total_t_dense"] == pytest.approx(parts, rel=1e-12)
    assert ("paper_macs_t" in row) == (branches == "all")
    for view in ("group", "part"):
        assert cli.main([*words, "--by", view]) == 0
        out = capsys.readouterr().out
        assert f"{1000 * row['macs_t']:.3f}" in out
        assert {"all": "all guidance branches", "one": "one guidance branch"}[branches] in out


def test_one_branch_costs_half(capsys):
    words = ["macs", "demo", "--rows", "steps_8", "--format", "json", "--branches"]
    found = {}
    for branches in ("all", "one"):
        assert cli.main([*words, branches]) == 0
        [found[branches]] = json.loads(capsys.readouterr().out)
    assert found["all"]["macs_t"] == 2 * found["one"]["macs_t"]
    assert found["all"]["text_encoder_t_all"] == 2 * found["one"]["text_encoder_t_all"]
    assert found["all"]["vae_t_all"] == found["one"]["vae_t_all"]


@pytest.mark.parametrize("style", ["markdown", "latex", "csv"])
def test_every_view_in_every_format(capsys, style):
    for view in ("row", "step", "group", "part"):
        assert cli.main(["macs", "demo", "--rows", "steps_8", "steps=1", "--by", view, "--format", style]) == 0
        assert "8 steps" in capsys.readouterr().out


# DeepFloyd-IF works in pixels; videos are decoded frame by frame or in tiles, and one image is counted here.
NO_VAE = ("deepfloyd_if_1_xl", "deepfloyd_if_2_l", "text_to_video_ms", "hunyuan_video")
# Tokens of a fixed instruction that goes ahead of the prompt, and of which nothing is handed on.
INSTRUCTION = {"qwen_image": 34, "qwen_image_edit_2509": 64, "hunyuan_video": 95}
PADDING = {"z_image": 512 - 128}  # texts are filled up for the encoder, and cut to their length behind it


@pytest.mark.parametrize("name", [name for name in catalog.names("structures") if name != "emoji"])
def test_every_structure_has_its_surroundings(name):
    content = yaml.safe_load(catalog.path("structures", name).read_text())
    assert ("vae" in content) == (name not in NO_VAE)
    prompts = [shape[0] for given, shape in content["conditions"].items() if given == "prompt_embeds"]
    aside = INSTRUCTION.get(name, 0) + PADDING.get(name, 0)
    lengths = [encoder["tokens"] for encoder in content.get("text_encoders", [])]
    if len(set(lengths)) < 2:
        assert {tokens - aside for tokens in lengths} == set(prompts), "DiT has classes"
        return
    # CLIP's 77 tokens give a pooled vector; Stable Diffusion 3 also sets them ahead of T5's.
    clip, other = sorted(set(lengths))
    assert clip == 77 and "pooled_prompt_embeds" in content["conditions"]
    assert prompts[0] in (other - aside, clip + other - aside)


def test_counted_twin_equals_the_shipped_model():
    structure = yaml.safe_load(catalog.path("structures", "emoji").read_text())
    [encoder] = structure["text_encoders"]
    for folder, described in (("unet", structure["network"]), ("text_encoder", encoder), ("vae", structure["vae"])):
        shipped = json.loads((EMOJI / folder / "config.json").read_text())
        assert described["class"] in (shipped.get("_class_name"), *shipped.get("architectures", ()))
        for key, value in described["config"].items():
            assert shipped[key] == value, f"{folder}: {key}"
    width = encoder["config"]["hidden_size"]
    assert structure["conditions"]["prompt_embeds"] == [encoder["tokens"], width]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["macs", "demoo"], "unknown experiment 'demoo'; did you mean 'demo'"),
        (["macs", "demo", "--convention", "dens"], "invalid choice: 'dens'"),
        (["macs", "demo", "--by", "module"], "invalid choice: 'module'"),
        (["macs", "demo", "--branches", "both"], "invalid choice: 'both'"),
        (["macs", "demo", f"model={EMOJI}"], "names no structure to count"),
        (["macs", "demo", "--rows", "postdiff", "model=pixart_alpha"], "DeepCache needs a U-Net"),
    ],
)
def test_mistakes(words, message, capsys):
    assert cli.main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("postdiff: error: ")
    assert message in error
