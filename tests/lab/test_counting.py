"""`postdiff macs`: counting without weights, beside the printed figures."""

import json

import pytest
import yaml

from postdiff import catalog, cli
from postdiff.zoo import EMOJI


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


def test_counted_twin_equals_the_shipped_network():
    structure = yaml.safe_load(catalog.path("structures", "emoji").read_text())
    shipped = json.loads((EMOJI / "unet" / "config.json").read_text())
    assert shipped["_class_name"] == structure["network"]["class"]
    for key, value in structure["network"]["config"].items():
        assert shipped[key] == value, key
    text = json.loads((EMOJI / "text_encoder" / "config.json").read_text())
    assert structure["conditions"]["prompt_embeds"] == [text["max_position_embeddings"], text["hidden_size"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["macs", "demoo"], "unknown experiment 'demoo'; did you mean 'demo'"),
        (["macs", "demo", "--convention", "dens"], "invalid choice: 'dens'"),
        (["macs", "demo", f"model={EMOJI}"], "names no structure to count"),
        (["macs", "demo", "--rows", "postdiff", "model=pixart_alpha"], "DeepCache needs a U-Net"),
    ],
)
def test_mistakes(words, message, capsys):
    assert cli.main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("postdiff: error: ")
    assert message in error
