"""`quantization:` of a model card: weights in fewer bits through diffusers' configs, part of a model's identity."""

import importlib.util
import pickle

import gguf
import pytest
import torch
import yaml
from diffusers import FluxPipeline
from torchao.utils import TorchAOBaseTensor

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import Experiment, Row
from postdiff.lab.config.schema import resolve
from postdiff.lab.generate import pipelines as sampling
from postdiff.lab.macs import row_macs
from postdiff.lab.pipelines import cards, models, quantization
from postdiff.lab.pipelines.quantization import Quantization
from postdiff.lab.plan import plan
from postdiff.methods import DeepCache, FirstBlockCache
from tests.support import texts
from tests.support import tiny as pipelines


@pytest.fixture
def card(extended, tiny):
    """`card(quantization)`: the model `tiny` with that in its card, named `fewer`."""

    def write(found, **changes):
        content = yaml.safe_load((tiny / "configs" / "models" / "tiny.yaml").read_text()) | changes
        file = extended / "configs" / "models" / "fewer.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump({**content, "quantization": found}))
        return cards.card("fewer")

    return write


def loaded(found):
    return models.load(found, "float32", "cpu")


def jobs_of(*names, **base):
    """A plan on each model."""
    usual = {"data": "tiny", "steps": 2, "count": 1, "seeds": [0], "metrics": [], "device": "cpu", **base}
    rows = [Row(name, name, resolve([("test", {**usual, "model": name})]), {}, {}) for name in names]
    return plan.plan_rows(Experiment("quantised", "", "quantised", tuple(rows)))


def quantised(network):
    return {name for name, weight in network.named_parameters() if isinstance(weight.data, TorchAOBaseTensor)}


def test_the_denoiser_alone_unless_others_are_named(card):
    pipe = loaded(card({"method": "torchao_int8"}))
    assert quantised(pipe.unet) and not quantised(pipe.text_encoder) and not quantised(pipe.vae)
    pipe = loaded(card({"method": "torchao_int8", "networks": ["text_encoder", "unet"]}))
    assert quantised(pipe.unet) and quantised(pipe.text_encoder)
    pipe = loaded(card({"method": "torchao_int8", "networks": ["text_encoder"]}))
    assert not quantised(pipe.unet) and quantised(pipe.text_encoder)


def test_a_network_from_elsewhere_is_quantised_too(card, tiny):
    pipe = loaded(card({"method": "torchao_int8"}, network={"folder": str(tiny / "model" / "unet")}))
    assert quantised(pipe.unet) == quantised(loaded(card({"method": "torchao_int8"})).unet)


def test_images_are_those_of_the_rounded_weights(card):
    card({"method": "torchao_int8"})
    plain, fewer = jobs_of("tiny", "fewer")
    pipes = sampling.Pipelines()
    sampler = pipes.sampler(fewer)
    assert quantised(sampler.pipe.unet)
    found = sampler.call(fewer.samples).images
    rounded = {name: sampler.pipe.unet.get_parameter(name).dequantize() for name in quantised(sampler.pipe.unet)}
    sampler = pipes.sampler(plain)
    expected = sampler.call(plain.samples).images
    with torch.no_grad():
        for name, weight in rounded.items():
            sampler.pipe.unet.get_parameter(name).copy_(weight)
    torch.testing.assert_close(found, sampler.call(plain.samples).images, rtol=0, atol=1e-5)
    assert (found - expected).abs().max() > 1e-5, "eight bits changed nothing"


def test_methods_act_on_quantised_networks(card):
    pipe = loaded(card({"method": "torchao_int8"}))
    draw = {"num_inference_steps": 4, "height": 32, "width": 32, "output_type": "pt"}
    runs = [pipe, *(accelerate(pipe, stack) for stack in ([], [DeepCache(interval=1)], [DeepCache(interval=2)]))]
    made = [run("a dog", generator=torch.Generator().manual_seed(1), **draw).images for run in runs]
    bare, alone, identity, cached = made
    assert torch.equal(bare, alone) and torch.equal(bare, identity) and not torch.equal(bare, cached)
    assert runs[-1].counts["deepcache hits"]


def test_fewer_bits_are_other_images_and_the_same_work(card, command, outputs):
    plain = models.checkpoint(cards.card("tiny"))
    card({"method": "torchao_int8"})
    assert models.checkpoint(cards.card("fewer")) == f"{plain}+quantization=torchao_int8"
    one, other = jobs_of("tiny", "fewer")
    for name in ("run_id", "speed_id", "images_id", "content_id", "references_id"):
        assert getattr(one, name) != getattr(other, name)
    card({"method": "torchao_int8", "networks": ["unet", "text_encoder"], "options": {"group_size": 32}})
    message = models.checkpoint(cards.card("fewer"))
    assert message == plain + '+quantization=torchao_int8(text_encoder,unet){"group_size": 32}'


def test_macs_are_those_of_the_plain_network(card):
    card({"method": "torchao_int8"})
    pipes = sampling.Pipelines()
    plain, fewer = (row_macs.count(one, pipes.sampler(one)) for one in jobs_of("tiny", "fewer"))
    assert plain.macs == fewer.macs and plain.counts == fewer.counts


@pytest.fixture
def flux(extended, tmp_path):
    """A saved Flux pipeline, its transformer once more as a GGUF file, and a card for both."""
    one = pipelines.build("flux", smallest=True)
    words = {"text_encoder": texts.clip_text(24), "tokenizer": texts.clip_tokenizer()}
    more_words = {"text_encoder_2": texts.t5(), "tokenizer_2": texts.t5_tokenizer()}
    one.pipe = FluxPipeline(**one.pipe.components | words | more_words | {"vae": pipelines.vae()})
    one.pipe.set_progress_bar_config(disable=True)
    one.pipe.save_pretrained(tmp_path / "flux")
    writer = gguf.GGUFWriter(tmp_path / "flux-Q8_0.gguf", "flux")
    for name, weight in one.pipe.transformer.state_dict().items():
        array = weight.numpy()
        kind = gguf.GGMLQuantizationType.Q8_0
        if array.ndim == 2 and array.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    def write(**changes):
        file = extended / "configs" / "models" / "flux.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        source = {"method": "gguf", "folder": str(tmp_path), "weight_name": "flux-Q8_0.gguf", **changes}
        content = {"pipeline": "FluxPipeline", "folder": str(tmp_path / "flux"), "quantization": source}
        file.write_text(yaml.safe_dump(content))
        return cards.card("flux")

    return one, write


def test_a_gguf_file_takes_the_place_of_the_denoiser(flux, tmp_path):
    one, write = flux
    found = write()
    pipe = loaded(found)
    kinds = {type(module).__name__ for module in pipe.transformer.modules()}
    assert "GGUFLinear" in kinds
    fast, plain = (accelerate(each, [FirstBlockCache(threshold=0.2)]) for each in (pipe, one.pipe))
    assert torch.equal(one.call(accelerate(pipe)), one.call(pipe))
    near = one.call(plain)
    assert 0 < (one.call(fast) - near).abs().max() < 0.1 * near.abs().max()
    assert models.checkpoint(found).count("+quantization=gguf:") == 1
    before = models.checkpoint(found)
    file = tmp_path / "flux-Q8_0.gguf"
    file.write_bytes(file.read_bytes() + b"\0")
    assert models.checkpoint(found) != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_name": "flux.bin"}, "flux.bin is no .gguf; other formats can run code"),
        ({"weight_name": None}, "None is no .gguf"),
        (
            {"weight_name": "other.gguf"},
            r"other.gguf is missing; .*\(flux-Q8_0.gguf, pickle.gguf is there\)",
        ),
        ({"weight_name": "pickle.gguf"}, "pickle.gguf is no GGUF file, whatever its name"),
        ({"networks": ["transformer"]}, "leave out 'networks' and 'options'"),
        ({"folder": None}, "either 'folder' or 'hub'"),
        ({"method": None}, "names no method"),
        ({"method": "torchao_int8"}, "torchao_int8 reads no file; leave out 'folder'"),
        ({"method": "int8"}, "unknown quantization.method 'int8'; did you mean 'torchao_int8'"),
    ],
)
def test_a_card_that_leads_elsewhere_is_refused(flux, tmp_path, changes, message):
    (tmp_path / "pickle.gguf").write_bytes(pickle.dumps({}))
    with pytest.raises(UsageError, match=message):
        models.checkpoint(flux[1](**changes))


def test_a_gguf_file_of_another_model_is_refused(flux, tmp_path):
    found = flux[1]()
    config = tmp_path / "flux" / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"num_layers": 2', '"num_layers": 3'))
    with pytest.raises(UsageError, match="flux-Q8_0.gguf cannot be loaded as FluxTransformer2DModel .*this very model"):
        loaded(found)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"method": "torchao_int8", "networks": ["tokenizer"]}, "unknown network to quantise 'tokenizer'"),
        ({"method": "torchao_int8", "options": {"bits": 3}}, "torchao_int8 does not take options={'bits': 3}"),
    ],
)
def test_what_the_library_does_not_take_is_reported_in_one_line(card, found, message):
    with pytest.raises(UsageError, match=message):
        loaded(card(found))


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_bitsandbytes_wants_a_gpu(card, refused, bits):
    card({"method": f"bitsandbytes_{bits}"})
    line = refused("run", "tiny", "model=fewer", "device=cpu")
    assert f"method=bitsandbytes_{bits} quantises on a GPU, and this row runs on 'cpu'; use torchao_int8" in line


@pytest.mark.parametrize(("library", "name"), [("diffusers", "unet"), ("transformers", "text_encoder")])
def test_configs_of_bitsandbytes(library, name):
    pytest.importorskip("bitsandbytes")
    found = Quantization(method="bitsandbytes_4bit", networks=[name], options={"bnb_4bit_quant_type": "nf4"})
    made = quantization.configs(found, "unet", {name: library}, torch.bfloat16)[name]
    assert type(made).__module__.startswith(library) and made.load_in_4bit
    assert made.bnb_4bit_compute_dtype == torch.bfloat16 and made.bnb_4bit_quant_type == "nf4"


@pytest.mark.parametrize("package", ["torchao", "accelerate"])
def test_a_missing_package_is_named(card, refused, monkeypatch, package):
    card({"method": "torchao_int8"})
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    line = refused("run", "tiny", "model=fewer", "device=cpu")
    assert line.endswith(f"needs the package {package}, which is not installed; pip install 'postdiff[quantization]'")


def test_random_weights_know_no_quantisation(card, refused):
    card({"method": "torchao_int8"}, structure="emoji")
    assert "weights=random knows no quantisation" in refused("bench", "tiny", "model=fewer", "weights=random")
