"""Personalised models: whole folders, replaced networks, LoRA, Custom Diffusion, learnt words; and methods on them."""

import importlib.util
import re

import pytest
import torch
import yaml
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from postdiff import accelerate, presets
from postdiff.engine.errors import UsageError
from postdiff.lab.pipelines import cards, models
from tests.support import texts, whole
from tests.support.parts import CROSS
from tests.support.snapshot import snapshot

pytestmark = pytest.mark.slow

LORA, CUSTOM, WORD = (
    "pytorch_lora_weights.safetensors",
    "pytorch_custom_diffusion_weights.safetensors",
    "learned_embeds.safetensors",
)
METHODS = {
    "encoder_propagation": ({"keys": 2}, {"keys": 1}),
    "deepcache": ({"interval": 2}, {"interval": 1}),
    "cross_attention_cache": ({"gate": 2}, {"gate": 1.0}),
    "tome": ({"ratio": 0.5}, {"ratio": 0.0}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline folder, with one of every kind of adapter beside it."""
    root = tmp_path_factory.mktemp("personal")
    pipe = whole.sd15()
    pipe.save_pretrained(root / "base")
    dreambooth = whole.sd15()
    torch.manual_seed(11)
    for parameter in dreambooth.unet.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    dreambooth.save_pretrained(root / "dreambooth")
    _save_lora(whole.sd15(), root)
    _save_custom_diffusion(pipe, root)
    torch.manual_seed(14)
    save_file({"<new1>": torch.randn(CROSS)}, root / WORD)
    return root


def _save_lora(pipe, root):
    torch.manual_seed(12)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False))
    pipe.save_lora_weights(root, unet_lora_layers=get_peft_model_state_dict(pipe.unet))


def _save_custom_diffusion(pipe, root):
    """As the training script of diffusers makes and saves them, keys and values only."""
    torch.manual_seed(13)
    made = {}
    for name in pipe.unet.attn_processors:
        own = name.endswith("attn2.processor")
        layer = pipe.unet.get_submodule(name.removesuffix(".processor"))
        made[name] = CustomDiffusionAttnProcessor2_0(
            train_kv=own, train_q_out=False, hidden_size=layer.to_k.out_features, cross_attention_dim=CROSS
        )
    pipe.unet.set_attn_processor(made)
    pipe.unet.save_attn_procs(root, weight_name=CUSTOM, safe_serialization=True)
    torch.save(whole.image(pipe), root / "custom_diffusion.pt")


ADAPTERS = {
    "network": {"network": {"folder": "dreambooth/unet"}},
    "lora": {"lora": {"folder": ".", "scale": 0.8}},
    "custom_diffusion": {"custom_diffusion": {"folder": "."}},
    "embeddings": {"embeddings": [{"folder": ".", "token": "<new1>"}]},
}


@pytest.fixture
def card(folder, tmp_path, monkeypatch):
    """`card(lora={...})`: a parsed card on the base; folders are below `folder`."""

    def write(**keys):
        def placed(value):
            if isinstance(value, list):
                return [placed(item) for item in value]
            if isinstance(value, dict):
                return {key: str(folder / item) if key == "folder" else placed(item) for key, item in value.items()}
            return value

        file = tmp_path / "configs" / "models" / "mine.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        base = {"pipeline": "StableDiffusionPipeline", "folder": str(folder / "base")}
        file.write_text(yaml.safe_dump({**base, **placed(keys)}))
        monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))
        return cards.card("mine")

    return write


def image(run, prompt="a <new1> apple"):
    arguments = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "pt", "height": 32, "width": 32}
    return run(prompt, generator=torch.Generator().manual_seed(7), **arguments).images[0]


def loaded(card):
    return models.load(card, "float32", "cpu")


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_changes_the_image_and_the_checkpoint(card, kind):
    plain, with_it = card(), None
    bare, name = image(loaded(plain)), models.checkpoint(plain)
    with_it = card(**ADAPTERS[kind])
    assert not torch.allclose(image(loaded(with_it)), bare, atol=1e-3)
    assert models.checkpoint(with_it).startswith(name + "+")


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("method", METHODS)
def test_methods_stand_on_adapters(card, kind, method):
    pipe = loaded(card(**ADAPTERS[kind]))
    bare = image(pipe)
    before, (real, identity) = snapshot(pipe), METHODS[method]
    assert torch.equal(image(accelerate(pipe, presets.build_methods([{method: identity}]))), bare)
    fast = accelerate(pipe, presets.build_methods([{method: real}]))
    changed = image(fast)
    assert torch.isfinite(changed).all() and not torch.equal(changed, bare), "the method did nothing"
    assert torch.equal(image(fast), changed)
    assert snapshot(pipe) == before
    assert torch.equal(image(pipe), bare), "the pipeline was changed"


def test_all_adapters_at_once(card):
    keys = {key: value for kind in ADAPTERS.values() for key, value in kind.items()}
    everything = card(**keys)
    assert re.fullmatch(
        r"\w{16}\+\w{16}\+embeddings=\w{16}=<new1>\+custom_diffusion=\w{16}\+lora=\w{16}\*0\.8",
        models.checkpoint(everything),
    )
    seen = {tuple(image(loaded(card(**change))).flatten().tolist()) for change in ADAPTERS.values()}
    assert tuple(image(loaded(everything)).flatten().tolist()) not in seen


def test_a_fused_lora_is_the_same_change_and_leaves_nothing_beside_the_weights(card):
    beside, fused = (loaded(card(lora={"folder": ".", "scale": 0.8, **more})) for more in ({}, {"fuse": True}))
    torch.testing.assert_close(image(fused), image(beside), atol=1e-4, rtol=0)
    assert not [name for name, _ in fused.unet.named_modules() if "lora" in name]
    assert [name for name, _ in beside.unet.named_modules() if "lora" in name]
    assert models.checkpoint(card(lora={"folder": ".", "scale": 0.8, "fuse": True})).endswith("*0.8 fused")


def test_dreambooth_is_a_folder_or_a_network(card, folder):
    by_network = image(loaded(card(network={"folder": "dreambooth/unet"})))
    by_folder = image(loaded(cards.card(str(folder / "dreambooth"))))
    assert torch.allclose(by_network, by_folder, atol=1e-6)


def test_a_loras_scale(card):
    none, half, whole_scale = (image(loaded(card(lora={"folder": ".", "scale": scale}))) for scale in (0.0, 0.5, 1.0))
    assert torch.allclose(none, image(loaded(card())), atol=1e-5)
    assert not torch.allclose(half, whole_scale, atol=1e-3)
    names = {models.checkpoint(card(lora={"folder": ".", "scale": scale})) for scale in (0.0, 0.5, 1.0)}
    assert len(names) == 3, "another scale is another checkpoint"


def test_custom_diffusion_is_what_was_trained(card, folder):
    pipe = loaded(card(custom_diffusion={"folder": "."}))
    expected = torch.load(folder / "custom_diffusion.pt")
    assert torch.allclose(whole.image(pipe), expected, atol=1e-6)


def test_a_learnt_word_is_one_token(card):
    pipe = loaded(card(**ADAPTERS["embeddings"]))
    assert len(pipe.tokenizer("<new1>").input_ids) == 3 and len(texts.clip_tokenizer()("<new1>").input_ids) > 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"lora": {"folder": ".", "weight_name": "no.safetensors"}},
            r"lora file .*no\.safetensors is missing; .*is there",
        ),
        ({"lora": {"folder": "nowhere"}}, "lora file .* is missing"),
        ({"lora": {"folder": ".", "weight_name": "a.bin"}}, "not in safetensors format"),
        ({"lora": {"hub": "a/b", "weight_name": "a.bin"}}, "not in safetensors format"),
        ({"custom_diffusion": {"folder": ".", "weight_name": "a.bin"}}, "not in safetensors format"),
    ],
)
def test_files_are_checked_before_anything_is_loaded(card, keys, message):
    with pytest.raises(UsageError, match=message):
        models.checkpoint(card(**keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lora": {"scale": 0.5}}, "give 'lora' either 'folder' or 'hub'"),
        ({"lora": {"folder": ".", "hub": "a/b"}}, "give 'lora' either 'folder' or 'hub', not both"),
        ({"lora": {"folder": ".", "weight": "a"}}, "did you mean 'lora.weight_name'"),
        ({"embeddings": {"folder": "."}}, "must be a list"),
        ({"embeddings": [{"token": "<a>"}]}, "give 'embeddings' either"),
        ({"controlnet": {"folder": "."}, "pipeline": None}, "name its class under 'pipeline'"),
    ],
)
def test_cards_that_contradict_themselves(card, keys, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        card(**keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lora": {"folder": ".", "weight_name": WORD}}, "lora .* does not fit StableDiffusionPipeline"),
        ({"custom_diffusion": {"folder": ".", "weight_name": LORA}}, "is no weight of Custom Diffusion"),
        ({"embeddings": [{"folder": ".", "weight_name": LORA}]}, "embeddings .* does not fit"),
    ],
)
def test_files_of_another_kind(card, keys, message):
    with pytest.raises(UsageError, match=message):
        loaded(card(**keys))


def test_a_lora_without_peft(card, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "peft" else find(name))
    with pytest.raises(UsageError, match=r"pip install 'postdiff\[lora\]'"):
        loaded(card(lora={"folder": "."}))
