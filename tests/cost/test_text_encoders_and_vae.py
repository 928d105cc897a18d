"""Text encoders and VAE of the structure twins."""

import pytest
import yaml

from postdiff import catalog
from postdiff.cost.macs import count_macs
from postdiff.cost.structures import TextEncodersAndVAE, real_size
from postdiff.engine.errors import UsageError
from postdiff.lab.pipelines import cards, models

GIGA = 10**9


def surroundings(name):
    content = yaml.safe_load(catalog.path("structures", name).read_text())
    return TextEncodersAndVAE(content["text_encoders"], content["vae"])


@pytest.mark.parametrize(
    ("name", "macs_of_one_prompt"),
    [
        ("sd15", 6.65),  # CLIP ViT-L/14, 77 tokens
        ("sdxl", 6.65 + 48.93),  # ... and OpenCLIP ViT-bigG/14
        ("pixart_alpha", 558.5),  # T5 XXL, 120 tokens
    ],
)
def test_text_encoders(name, macs_of_one_prompt):
    encoder = surroundings(name)
    one, two = (encoder.tally(prompts, (8, 8)).macs("text_encoder")["all"] for prompts in (1, 2))
    assert one == pytest.approx(macs_of_one_prompt * GIGA, rel=1e-3)
    assert two == 2 * one


def test_vae_decodes_512_pixels():
    macs = surroundings("sd15").tally(1, (64, 64)).macs("vae")
    assert macs["dense"] == pytest.approx(1240 * GIGA, rel=1e-3)
    assert macs["all"] == pytest.approx(1257 * GIGA, rel=1e-3)


def test_twin_of_the_shipped_model_costs_in_all_parts_what_the_model_costs():
    card = cards.card("emoji")
    pipe = models.load(card, "float32", "cpu")
    call = {"num_inference_steps": 2, "guidance_scale": 4.0, "height": 64, "width": 64}
    real = count_macs(pipe, lambda: pipe("a red apple", output_type="pt", **call))
    twin, _ = real_size("emoji", pipe.scheduler).tally(**call)
    for part in ("denoiser", "text_encoder", "vae"):
        assert twin.macs(part) == real[part], part
    assert twin.macs() == real["total"]


def test_a_structure_file_that_does_not_fit(tmp_path, monkeypatch):
    content = yaml.safe_load(catalog.path("structures", "emoji").read_text())
    folder = tmp_path / "configs" / "structures"
    folder.mkdir(parents=True)
    content["vae"]["config"]["latent_chanels"] = 4
    (folder / "odd.yaml").write_text(yaml.safe_dump(content))
    (folder / "odder.yaml").write_text(yaml.safe_dump(content | {"text_encoder": []}))
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))
    import diffusers

    twin = real_size("odd", diffusers.DPMSolverMultistepScheduler())
    with pytest.raises(UsageError, match="does not fit the installed libraries .*latent_chanels"):
        twin.tally(height=64, width=64, num_inference_steps=1)
    with pytest.raises(UsageError, match="unknown key 'text_encoder'; did you mean 'text_encoders'"):
        real_size("odder", None)
