"""Feature statistics against those of features that were stored whole, on tiny networks of several families."""

import importlib.util
import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.lab.analysis.feature_blocks import blocks_of
from postdiff.lab.analysis.feature_probe import MEASURES, FeatureProbe, FeatureSnapshots
from postdiff.lab.analysis.findings import Findings
from postdiff.lab.analysis.key_selection import FeatureDistances, Sketch
from postdiff.methods import CFGCutoff, EncoderPropagation, MixedResolution
from postdiff.methods.base import Method
from tests.support.snapshot import snapshot
from tests.support.tiny import STEPS, build

pytestmark = pytest.mark.slow

FAMILIES = ("sd", "sdxl", "controlnet", "text_to_video", "animatediff", "dit", "pixart_alpha", "deepfloyd_if")
ONLY_WATCHED = ("sd3", "sana", "hunyuan")
PROGRAM = Path(__file__).parents[2] / "experiments" / "feature_evolution.py"


def stored(case, modules):
    """{name: one output a step} of a plain run, whole."""
    network = getattr(case.pipe, "unet", None) or case.pipe.transformer
    found = {name: [] for name in modules}

    def keeping(name):
        def around(forward, *args, **kwargs):
            output = forward(*args, **kwargs)
            tensor = output if isinstance(output, torch.Tensor) else [item for item in output if item is not None]
            found[name].append(tensor)
            return output

        return around

    with ExitStack() as stack:
        for name in modules:
            stack.enter_context(intercept(network.get_submodule(name), "forward", keeping(name)))
        images = case.call(case.pipe)
    return found, images


def oracle(name, outputs):
    """(change, power, norm), each (2 samples, steps), from the stored outputs of one block in a guided run of 2."""
    maps = []
    for output in outputs:
        if isinstance(output, list):
            # Residuals of a U-Net block come last, text tokens of SD3 first.
            output = output[0] if isinstance(output[-1], tuple) else output[-1]
        if output.ndim == 3:
            side = round(output.shape[1] ** 0.5)
            output = output.reshape(len(output), side, side, -1).permute(0, 3, 1, 2)
        maps.append(output.reshape(2, 2, -1, *output.shape[1:]))  # branch, sample, frame, C, h, w
    change, power, norm = [], [], []
    for i, each in enumerate(maps):
        size = each[0, 0].numel()
        before = maps[i - 1] if i else torch.full_like(each, torch.nan)
        change.append([float(((each[:, k] - before[:, k]) ** 2).sum() / size / 2) for k in range(2)])
        power.append([float((each[:, k] ** 2).sum() / size / 2) for k in range(2)])
        flat = each.mean(3)
        frames = flat.shape[2]
        lengths = [[torch.linalg.matrix_norm(flat[b, k, f]) for b in range(2) for f in range(frames)] for k in range(2)]
        norm.append([float(sum(each) / len(each)) for each in lengths])
    return {key: torch.tensor(rows).T for key, rows in zip(MEASURES, (change, power, norm), strict=True)}


@pytest.mark.parametrize("name", FAMILIES + ONLY_WATCHED)
def test_statistics_are_those_of_whole_features(name):
    case, probe = build(name), FeatureProbe()
    watched = case.call(accelerate(case.pipe, [probe]))
    found, plain = stored(case, [block.name for block in probe.blocks])
    assert torch.equal(watched, plain), "watching changed the image"
    for block in probe.blocks:
        for measure, expected in oracle(name, found[block.name]).items():
            torch.testing.assert_close(
                probe.values(measure)[block.label], expected, rtol=1e-4, atol=1e-7, equal_nan=True
            )
    relative = probe.relative()["E1" if "E1" in probe.shapes else "1"]
    assert relative.shape == (2, STEPS) and relative[:, 0].isnan().all() and (relative[:, 1:] > 0).all()


def test_labels_follow_the_network():
    unet = [(block.label, block.name, block.part) for block in blocks_of(build("sd").pipe.unet, "test")]
    down = [(f"E{i + 1}", f"down_blocks.{i}", "encoder") for i in range(3)]
    up = [(f"D{i + 1}", f"up_blocks.{i}", "decoder") for i in range(3)]
    assert unet == [*down, ("B", "mid_block", "middle"), *up]
    transformer = build("dit").pipe.transformer
    assert [block.part for block in blocks_of(transformer, "test")] == ["encoder"] * 2 + ["decoder"]
    assert [block.part for block in blocks_of(transformer, "test", 1)] == ["encoder"] + ["decoder"] * 2
    with pytest.raises(UsageError, match="test knows no blocks of Linear"):
        blocks_of(torch.nn.Linear(1, 1), "test")


def test_what_is_kept_does_not_grow_with_the_steps():
    """The floats alive on the probe's account: those of one output a block, whatever the number of steps."""
    import gc

    def held(steps):
        case, peak = build("sd"), []

        class Weigh(Method):
            def step(self, forward, output, timestep, sample, state):
                features = [one for one in gc.get_objects() if type(one) is torch.Tensor and one.ndim == 5]
                peak.append(sum(one.numel() for one in features))
                return forward(output, timestep, sample)

        case.call(accelerate(case.pipe, [FeatureProbe(), Weigh()]), num_inference_steps=steps)
        return peak

    short, long = held(4), held(12)
    assert short[0] > 0 and max(long) == max(short) == short[0]


def test_nothing_is_left_behind_after_an_error():
    class Fails(Method):
        def step(self, forward, output, timestep, sample, state):
            if state.index == 3:
                raise RuntimeError("in mid-run")
            return forward(output, timestep, sample)

    case, probe = build("controlnet"), FeatureProbe()
    case.call(case.pipe)  # after which the pipeline knows all that it notes about its own calls
    before = snapshot(case.pipe)
    with pytest.raises(RuntimeError, match="in mid-run"):
        case.call(accelerate(case.pipe, [probe, FeatureDistances(), FeatureSnapshots([0]), Fails()]))
    assert snapshot(case.pipe) == before
    case.call(accelerate(case.pipe, [probe]))
    with pytest.raises(UsageError, match="whole calls"):
        probe.values("change")


def test_an_empty_probe_says_so():
    with pytest.raises(UsageError, match="whole calls"):
        FeatureProbe().values("norm")


def test_calls_add_up_sample_by_sample():
    case, one, both = build("sd"), FeatureProbe(), FeatureProbe()
    case.call(accelerate(case.pipe, [both]), [0, 1])
    for sample in (0, 1):
        case.call(accelerate(case.pipe, [one]), [sample])
    for measure in MEASURES:
        for label, values in both.values(measure).items():
            torch.testing.assert_close(one.values(measure)[label], values, rtol=1e-3, atol=1e-6, equal_nan=True)


def test_propagated_features_stand_still_between_keys():
    keys = [0, 3, 4]
    case, probe = build("sd"), FeatureProbe()
    case.call(accelerate(case.pipe, [probe, EncoderPropagation(keys=keys, decoding="parallel")]))
    moved = [step for step in range(1, STEPS) if (probe.values("change")["B"][:, step] > 0).all()]
    still = [step for step in range(1, STEPS) if (probe.values("change")["B"][:, step] == 0).all()]
    assert moved == keys[1:] and still == [1, 2, 5, 6, 7]
    assert (probe.values("change")["D3"][:, 1:] > 0).all(), "the decoder runs at every step"


def test_other_methods_in_the_stack():
    case, probe = build("sd"), FeatureProbe()
    case.call(accelerate(case.pipe, [probe, MixedResolution(beta=0.5, switch=3), CFGCutoff(gate=5)]))
    gaps = probe.values("change")["E1"].isnan().all(0).nonzero().flatten().tolist()
    assert gaps == [0, 3], "features of two sizes have no difference"


@pytest.mark.parametrize("name", ["sd", "text_to_video", "dit"])
def test_distances_are_those_of_whole_features(name):
    case, exact, short = build(name), FeatureDistances(width=0), FeatureDistances(width=256)
    case.call(accelerate(case.pipe, [exact, short]))
    names = ["transformer_blocks.1"] if name == "dit" else ["conv_in", "down_blocks.0", "mid_block"]
    found, _ = stored(case, names)
    for module in names:
        outputs = found[module]
        if isinstance(outputs[0], list):  # the residuals, which end with the block's output
            by_tensor = {f"{module}.{i}": [out[1][i] for out in outputs] for i in range(len(outputs[0][1]))}
            labels = [label for label in exact.squared if label.startswith(f"{module}.")]
            assert len(labels) == len(by_tensor), "each skip connection once"
            total = sum(exact.squared[label] for label in labels)
        else:
            by_tensor, total = {module: outputs}, exact.squared[module]
        expected = sum(
            torch.stack([torch.stack([(s - t).square().sum() for t in each]) for s in each])
            for each in by_tensor.values()
        )
        torch.testing.assert_close(total.float(), expected, rtol=1e-4, atol=1e-3)
    distance = exact.relative()
    assert torch.equal(distance, distance.T) and (distance.diagonal() == 0).all()
    torch.testing.assert_close(short.relative(), distance, rtol=0.25, atol=1e-6)
    assert len(exact.levels) == STEPS + 1 and exact.levels == sorted(exact.levels, reverse=True)


def test_a_sketch_keeps_distances():
    rows = torch.randn(6, 5000, generator=torch.Generator().manual_seed(0))
    short = Sketch(1024)(rows)
    assert short.shape == (6, 1024)
    far = [(all_of[:, None] - all_of).square().sum(-1).flatten()[1:6] for all_of in (short, rows)]
    torch.testing.assert_close(far[0], far[1], rtol=6 * (2 / 1024) ** 0.5, atol=0)
    assert torch.equal(Sketch(1024)(rows), short), "the same features have the same sketch"
    assert Sketch(5000)(rows) is rows


def test_snapshots_show_equal_features_in_equal_colours():
    case, snapshots = build("sd"), FeatureSnapshots([0, 1, 4], samples=2)
    keys = [0, 4]
    case.call(accelerate(case.pipe, [snapshots, EncoderPropagation(keys=keys, decoding="sequential")]))
    middle = snapshots.colours("B")
    assert middle.shape == (2, 3, 4, 4, 3) and middle.dtype == torch.uint8
    assert torch.equal(middle[:, 0], middle[:, 1]) and not torch.equal(middle[:, 0], middle[:, 2])
    case.call(accelerate(case.pipe, [snapshots]), [5, 6])
    assert torch.equal(snapshots.colours("B"), middle), "the first call is the one that is shown"
    with pytest.raises(UsageError, match="no features of step 99"):
        missing = FeatureSnapshots([99])
        case.call(accelerate(case.pipe, [missing]))
        missing.colours("B")


def test_colours_are_principal_components():
    snapshots = FeatureSnapshots([0])
    ramp = torch.linspace(0, 1, 16).reshape(4, 4)
    direction = torch.tensor([3.0, 0, 0, 4.0])
    snapshots.kept = {"B": {0: (direction[:, None, None] * ramp)[None] + 7}}
    red = snapshots.colours("B")[0, 0, ..., 0]
    assert red[0, 0] == 0 and red[3, 3] == 255 and (red.flatten().diff().int() >= 0).all()


@pytest.fixture
def program():
    spec = importlib.util.spec_from_file_location("feature_evolution", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_program_writes_one_record_and_reads_it_again(program, tiny, outputs, capsys, monkeypatch):
    words = ["model=tiny", "data=tiny", "steps=6", "count=3", "batch_size=2", "--keys", "2,3", "--name", "mine"]
    assert program.main(words) == 0
    printed = capsys.readouterr()
    file = outputs / "records" / "faster_diffusion" / "features" / "mine.json"
    record = Findings.read(file)
    assert record.samples == 3 and record.found["steps"] == 6 and record.checkpoint and record.prompts
    assert set(record.arrays) == set(record.found["blocks"]) and record.arrays["E1"].dtype == np.uint8
    assert record.found["blocks"]["E1"]["change"]["mean"][0] is None, "the first step has none before it"
    assert len(record.found["distance"]) == 6 and "keys: [0" in printed.out and "2 key steps of 6" in printed.out
    json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    monkeypatch.setattr(program, "observe", lambda *_: pytest.fail("generated again"))
    assert program.main(words) == 0
    assert capsys.readouterr().out == printed.out


def test_the_program_on_a_transformer_of_classes(program, outputs, tmp_path, monkeypatch, capsys):
    build("dit").pipe.save_pretrained(tmp_path / "dit")
    card = tmp_path / "configs" / "data" / "two.yaml"
    card.parent.mkdir(parents=True)
    (tmp_path / "two.jsonl").write_text('{"prompt": "a fish"}\n{"prompt": "a bird"}\n')
    card.write_text(f"prompts: {tmp_path / 'two.jsonl'}\nclasses: 2\n")
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))
    words = [f"model={tmp_path / 'dit'}", "data=two", "steps=4", "count=2", "guidance_scale=4", "--name", "dit"]
    assert program.main([*words, "--split", "1"]) == 0
    record = Findings.read(outputs / "records" / "faster_diffusion" / "features" / "dit.json")
    assert [block["part"] for block in record.found["blocks"].values()] == ["encoder", "decoder", "decoder"]
    assert record.found["blocks"]["1"]["shape"] == [16, 8, 8] and record.arrays["3"].shape == (2, 4, 8, 8, 3)
    assert record.found["features"] == ["transformer_blocks.0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps=0"], "steps=0 is too small"),
        (["stepz=6"], "unknown key 'stepz'; did you mean 'steps'?"),
        (["metrics=[paired_psnr]"], "metrics=... is set by this program itself"),
        (["steps=3", "count=1", "--keys", "4"], "4 key steps do not fit a run of 3 steps"),
        (["--keys", "many"], "--keys many: write numbers, for instance --keys 9,5"),
    ],
)
def test_mistakes_are_reported_in_one_line(program, tiny, outputs, capsys, words, message):
    assert program.main(["model=tiny", "data=tiny", *words]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("postdiff")]
    assert message in line
