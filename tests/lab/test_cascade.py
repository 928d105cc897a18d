"""Three tiny stages one after the other equal three calls by hand, and each has its own methods and steps."""

import pytest
import torch

from postdiff.engine.errors import UsageError
from postdiff.engine.key_steps import KEY_SETS
from postdiff.lab.sampling.cascade import Cascade, Stage
from postdiff.methods import DeepCache, EncoderPropagation
from postdiff.methods.base import Method
from tests.support import texts, tiny
from tests.support.cases import embed, encoded_text, generators
from tests.support.snapshot import snapshot

IDS = [0, 1]
LAST_TEXT = {"prompt_embeds": embed(IDS, 6, 32, salt=8), "negative_prompt_embeds": embed([9, 9], 6, 32, salt=9)}


def stages(case, methods=((), (), ()), steps=(6, 4, 5)):
    shapes = ({"height": 8, "width": 8}, {"height": 16, "width": 16}, {"noise_level": 10, **LAST_TEXT})
    names = ("deepfloyd_if", "if_stage_2", "upscale_x4")
    rows = zip(names, steps, methods, shapes, strict=True)
    return [Stage(name, case(name).pipe, count, stack, shape) for name, count, stack, shape in rows]


def test_equals_the_three_pipelines_by_hand(case):
    one, two, three = (case(name).pipe for name in ("deepfloyd_if", "if_stage_2", "upscale_x4"))
    drawn, text = generators(IDS), encoded_text(IDS)
    shared = {"generator": drawn, **text}
    image = one(**shared, height=8, width=8, num_inference_steps=6, output_type="pt").images
    image = two(**shared, image=image, height=16, width=16, num_inference_steps=4, output_type="pt").images
    image = (image + 1) / 2
    expected = three(
        image=image, noise_level=10, num_inference_steps=5, generator=drawn, output_type="latent", **LAST_TEXT
    ).images
    before = [snapshot(pipe) for pipe in (one, two, three)]
    cascade = Cascade(stages(case))
    result = cascade(generator=generators(IDS), output_type="latent", **text).images
    assert torch.allclose(result, expected, atol=1e-5)
    assert result.shape == (2, 4, 16, 16)
    assert [snapshot(pipe) for pipe in (one, two, three)] == before
    assert {name: counts["network calls"] for name, counts in cascade.by_stage.items()} == {
        "deepfloyd_if": 6, "if_stage_2": 4, "upscale_x4": 5,
    }  # fmt: skip


def test_a_prompt_is_encoded_once_by_the_first_stage_and_by_stages_with_an_encoder_of_their_own():
    one, two, three = (tiny.build(name).pipe for name in ("deepfloyd_if", "if_stage_2", "upscale_x4"))
    one.register_modules(tokenizer=texts.t5_tokenizer(), text_encoder=texts.t5())
    three.register_modules(tokenizer=texts.clip_tokenizer(), text_encoder=texts.clip_text())
    calls = []
    one.text_encoder.register_forward_hook(lambda *_: calls.append("t5"))
    three.text_encoder.register_forward_hook(lambda *_: calls.append("clip"))
    cascade = Cascade(
        [
            Stage("one", one, 2, arguments={"height": 8, "width": 8}),
            Stage("two", two, 2, arguments={"height": 16, "width": 16}),
            Stage("three", three, 2),
        ]
    )

    def draw(prompt):
        return cascade(prompt, generator=torch.Generator().manual_seed(1), output_type="latent").images

    first = draw("a red apple")
    assert calls == ["t5", "t5", "clip", "clip"], "the prompt and the empty one"
    assert torch.equal(draw("a red apple"), first)
    assert not torch.equal(draw("a blue car"), first)


def test_methods_belong_to_a_stage(case):
    """As in the paper: key steps in the first and the third stage, the second in full."""
    methods = ([EncoderPropagation([0, 1, 4])], [], [EncoderPropagation([0, 3], "sequential")])
    cascade = Cascade(stages(case, methods))
    text = encoded_text(IDS)
    first = cascade(generator=generators(IDS), output_type="latent", **text).images
    assert {name: counts["network calls"] for name, counts in cascade.by_stage.items()} == {
        "deepfloyd_if": 3, "if_stage_2": 4, "upscale_x4": 5,
    }  # fmt: skip
    assert torch.equal(cascade(generator=generators(IDS), output_type="latent", **text).images, first)
    plain = Cascade(stages(case))(generator=generators(IDS), output_type="latent", **text).images
    assert not torch.equal(first, plain)
    assert torch.isfinite(first).all()


def test_each_pair_of_stages_hands_on_in_the_range_of_the_next():
    """Pictures of pixel stages are in [-1, 1], all others' in [0, 1]; from latents to pixels and on to latents."""
    first, second, third = (tiny.build(name).pipe for name in ("sd", "if_stage_2", "upscale_x4"))
    first.register_modules(tokenizer=texts.clip_tokenizer(), text_encoder=texts.clip_text())
    second.register_modules(tokenizer=texts.t5_tokenizer(), text_encoder=texts.t5())
    third.register_modules(tokenizer=texts.clip_tokenizer(), text_encoder=texts.clip_text())
    seen = {}

    def watched(pipe, name):
        encode = pipe.preprocess_image if name == "pixels" else pipe.image_processor.preprocess

        def around(image, *args, **kwargs):
            seen[name] = image
            return encode(image, *args, **kwargs)

        return around

    second.preprocess_image = watched(second, "pixels")
    third.image_processor.preprocess = watched(third, "latents")
    Cascade(
        [
            Stage("first", first, 2, arguments={"height": 8, "width": 8}),
            Stage("second", second, 2, arguments={"height": 16, "width": 16, "clean_caption": False}),
            Stage("third", third, 1),
        ]
    )("a red apple", generator=torch.Generator().manual_seed(1), output_type="latent")
    assert seen["pixels"].min() < -0.01 and seen["pixels"].abs().max() <= 1
    assert 0 <= seen["latents"].min() < seen["latents"].max() <= 1


def test_stages_of_different_precision(case):
    """Text and pictures are handed on in the precision of the next stage."""
    pipe = tiny.build("if_stage_2").pipe.to(torch.float64)
    first, last = (stage for stage in stages(case) if stage.name != "if_stage_2")
    chain = [first, Stage("second", pipe, 3, arguments={"height": 16, "width": 16}), last]
    result = Cascade(chain)(generator=generators(IDS), output_type="latent", **encoded_text(IDS)).images
    assert result.dtype == torch.float32 and torch.isfinite(result).all()


def test_counts_add_up(case):
    cascade = Cascade(stages(case, ([EncoderPropagation([0, 1, 4])], [], [EncoderPropagation([0, 3])])))
    cascade(generator=generators(IDS), output_type="latent", **encoded_text(IDS))
    assert cascade.counts["network calls"] == 3 + 4 + 2
    longest = "encoder_propagation decoded at once"
    assert cascade.counts[longest] == max(counts[longest] for counts in cascade.by_stage.values()) == 3


def test_the_papers_key_sets_are_for_its_numbers_of_steps():
    assert (KEY_SETS["if_1_100"].of, KEY_SETS["if_3_75"].of) == (100, 75)


def test_mistakes_name_the_stage(case):
    with pytest.raises(UsageError, match="at least one stage"):
        Cascade([])
    with pytest.raises(UsageError, match="different names; got a, a"):
        Cascade([Stage("a", case("deepfloyd_if").pipe), Stage("a", case("if_stage_2").pipe)])
    with pytest.raises(UsageError, match="stage 'if_stage_2': .* both act on"):
        Cascade(stages(case, ([], [EncoderPropagation(2), DeepCache()], [])))
    with pytest.raises(UsageError, match="stage 'deepfloyd_if': .*key set 'if_1_100' is for 100 steps"):
        Cascade(stages(case, ([EncoderPropagation("if_1_100")], [], [])))(**encoded_text(IDS))
    with pytest.raises(UsageError, match="needs a prompt, or prompt_embeds"):
        Cascade(stages(case))()
    first, second, third = stages(case)
    with pytest.raises(UsageError, match="stage 'if_stage_2': IFSuperResolutionPipeline refuses: .*noise_level"):
        Cascade([first, Stage(second.name, second.pipe, 2, arguments={"noise_level": -1}), third])(**encoded_text(IDS))
    with pytest.raises(UsageError, match="stage 'sd': StableDiffusionPipeline cannot encode text for another stage"):
        Cascade([Stage("sd", case("sd").pipe), second])("a red apple")


def test_a_stage_that_fails_without_methods_as_well_is_told(case):
    first, second, third = stages(case, ([], [DeepCache()], []))
    broken = tiny.build("if_stage_2").pipe
    broken.unet.conv_in = torch.nn.Conv2d(1, 8, 3)
    cascade = Cascade([first, Stage(second.name, broken, 2, second.methods, second.arguments), third])
    told = r"stage 'if_stage_2': IFSuperResolutionPipeline cannot draw with its model \(RuntimeError: .*without methods"
    with pytest.raises(UsageError, match=told):
        cascade(**encoded_text(IDS))


def test_a_fault_of_a_method_in_a_stage_is_not_the_models(case, tmp_path, monkeypatch):
    """It goes up as it is: the command line names its file and line."""
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))

    class Mine(Method):
        exec(compile("def denoise(*_):\n    raise ValueError('mine')", tmp_path / "methods" / "mine.py", "exec"))

    first, second, third = stages(case, ([], [Mine()], []))
    with pytest.raises(ValueError, match="^mine$"):
        Cascade([first, second, third])(**encoded_text(IDS))


def test_a_text_encoder_that_fails_is_told():
    one, two = (tiny.build(name).pipe for name in ("deepfloyd_if", "if_stage_2"))
    one.register_modules(tokenizer=texts.t5_tokenizer(), text_encoder=texts.t5())
    one.text_encoder.shared = one.text_encoder.encoder.embed_tokens = torch.nn.Embedding(2, 32)
    with pytest.raises(UsageError, match=r"stage 'one': IFPipeline cannot encode the prompt \(IndexError: .*tokenizer"):
        Cascade([Stage("one", one, 2), Stage("two", two, 2)])("a red apple")
