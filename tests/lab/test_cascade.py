"""Three tiny stages one after the other equal three calls by hand, and each has its own methods and steps."""

import pytest
import torch

from postdiff.engine.errors import UsageError
from postdiff.lab.generate.cascade import Cascade
from postdiff.lab.pipelines.cards import StageCard
from postdiff.lab.pipelines.stages import StageRun
from postdiff.methods import DeepCache, EncoderPropagation
from postdiff.methods.base import Method
from postdiff.methods.encoder_propagation.key_steps import KEY_SETS
from tests.lab import task_twins
from tests.support import texts, tiny
from tests.support.cases import generators
from tests.support.snapshot import snapshot

WORDS = ["a red apple", "a blue car"]
CARDS = {
    "base": StageCard(height=8, width=8),
    "larger": StageCard(height=16, width=16, shared_text=True),
    "x4": StageCard(arguments={"noise_level": 10}),
}
STEPS = {"base": 6, "larger": 4, "x4": 5}


@pytest.fixture
def pipes():
    """The twin's pipelines as they are loaded: the second without the text encoder that it shares."""
    found = task_twins.cascade()
    found["larger"].register_modules(tokenizer=None, text_encoder=None)
    for pipe in found.values():
        pipe.set_progress_bar_config(disable=True)
    return found


def stage(name, card=None, steps=None, methods=()):
    steps = steps or STEPS[name]
    return StageRun(name, card or CARDS[name], "float32", steps, steps, methods=tuple(methods))


def cascade(pipes, **methods):
    return Cascade([stage(name, methods=methods.get(name, ())) for name in pipes], pipes)


def drawn(chain, words=WORDS):
    return chain(words, generator=generators(range(len(words)))).images


def calls(chain):
    return {name: counts["network calls"] for name, counts in chain.by_stage.items()}


def test_equals_the_three_pipelines_by_hand(pipes):
    one, two, three = pipes.values()
    embeds, negative = one.encode_prompt(WORDS)
    text = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    shared = {"generator": generators([0, 1]), "output_type": "pt"}
    image = one(**text, **shared, height=8, width=8, num_inference_steps=6).images
    image = two(**text, **shared, image=image, height=16, width=16, num_inference_steps=4).images
    expected = three(WORDS, **shared, image=(image + 1) / 2, noise_level=10, num_inference_steps=5).images
    before = [snapshot(pipe) for pipe in pipes.values()]
    chain = cascade(pipes)
    result = drawn(chain)
    assert torch.allclose(result, expected, atol=1e-5)
    assert result.shape == (2, 3, 32, 32)
    assert [snapshot(pipe) for pipe in pipes.values()] == before
    assert calls(chain) == STEPS


def test_a_prompt_is_encoded_once_by_the_first_stage_and_by_stages_with_an_encoder_of_their_own(pipes):
    asked = []
    pipes["base"].text_encoder.register_forward_hook(lambda *_: asked.append("t5"))
    pipes["x4"].text_encoder.register_forward_hook(lambda *_: asked.append("clip"))
    chain = cascade(pipes)
    first = drawn(chain, WORDS[:1])
    assert asked == ["t5", "t5", "clip", "clip"], "the prompt and the empty one"
    assert torch.equal(drawn(chain, WORDS[:1]), first)
    assert not torch.equal(drawn(chain, WORDS[1:]), first)


def test_methods_belong_to_a_stage(pipes):
    """As in the paper: key steps in the first and the third stage, the second in full."""
    keys = {"base": [EncoderPropagation([0, 1, 4])], "x4": [EncoderPropagation([0, 3], "sequential")]}
    chain = cascade(pipes, **keys)
    first = drawn(chain)
    assert calls(chain) == {"base": 3, "larger": 4, "x4": 5}
    assert torch.equal(drawn(chain), first)
    assert not torch.equal(first, drawn(cascade(pipes)))
    assert torch.isfinite(first).all()


def test_each_pair_of_stages_hands_on_in_the_range_of_the_next():
    """Images of pixel stages are in [-1, 1], all others' in [0, 1]; from latents to pixels and on to latents."""
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
    chain = [
        stage("first", StageCard(height=8, width=8), 2),
        stage("second", StageCard(height=16, width=16, arguments={"clean_caption": False}), 2),
        stage("third", StageCard(), 1),
    ]
    drawn(Cascade(chain, {"first": first, "second": second, "third": third}), WORDS[:1])
    assert seen["pixels"].min() < -0.01 and seen["pixels"].abs().max() <= 1
    assert 0 <= seen["latents"].min() < seen["latents"].max() <= 1


def test_stages_of_different_precision(pipes):
    """Text and images are handed on in the precision of the next stage."""
    pipes["larger"].to(torch.float64)
    result = drawn(cascade(pipes))
    assert result.dtype == torch.float32 and torch.isfinite(result).all()


def test_counts_add_up(pipes):
    chain = cascade(pipes, base=[EncoderPropagation([0, 1, 4])], x4=[EncoderPropagation([0, 3])])
    drawn(chain)
    assert chain.counts["network calls"] == 3 + 4 + 2
    longest = "encoder_propagation decoded at once"
    assert chain.counts[longest] == max(counts[longest] for counts in chain.by_stage.values()) == 3


def test_the_papers_key_sets_are_for_its_numbers_of_steps():
    assert (KEY_SETS["if_1_100"].of, KEY_SETS["if_3_75"].of) == (100, 75)


def test_mistakes_name_the_stage(pipes, case):
    with pytest.raises(UsageError, match="stage 'larger': .* both act on"):
        cascade(pipes, larger=[EncoderPropagation(2), DeepCache()])
    with pytest.raises(UsageError, match="stage 'base': .*key set 'if_1_100' is for 100 steps"):
        drawn(cascade(pipes, base=[EncoderPropagation("if_1_100")]))
    first, second, third = (stage(name) for name in pipes)
    with pytest.raises(UsageError, match="stage 'larger': IFSuperResolutionPipeline refuses: .*noise_level"):
        bad = stage("larger", StageCard(height=16, width=16, arguments={"noise_level": -1}), 2)
        drawn(Cascade([first, bad, third], pipes))
    pipes["base"] = case("sd").pipe
    with pytest.raises(UsageError, match="stage 'base': StableDiffusionPipeline cannot encode text for another stage"):
        drawn(Cascade([first, second], pipes))


def test_a_stage_that_fails_without_methods_as_well_is_reported(pipes):
    pipes["larger"].unet.conv_in = torch.nn.Conv2d(1, 8, 3)
    message = (
        r"stage 'larger': IFSuperResolutionPipeline cannot generate with its model \(RuntimeError: "
        r".*without methods"
    )
    with pytest.raises(UsageError, match=message):
        drawn(cascade(pipes, larger=[DeepCache()]))


def test_a_fault_of_a_method_in_a_stage_is_not_the_models(pipes, tmp_path, monkeypatch):
    """It goes up as it is: the command line names its file and line."""
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))

    class Mine(Method):
        exec(compile("def denoise(*_):\n    raise ValueError('mine')", tmp_path / "methods" / "mine.py", "exec"))

    with pytest.raises(ValueError, match="^mine$"):
        drawn(cascade(pipes, larger=[Mine()]))


def test_a_text_encoder_that_fails_is_reported(pipes):
    encoder = pipes["base"].text_encoder
    encoder.shared = encoder.encoder.embed_tokens = torch.nn.Embedding(2, 32)
    message = r"stage 'base': IFPipeline cannot generate with its model \(IndexError: .*files"
    with pytest.raises(UsageError, match=message):
        drawn(cascade(pipes))
