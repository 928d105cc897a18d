"""`postdiff app` without a browser: fields of methods, one comparison, and what is copied from the page."""

import dataclasses
import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

import postdiff
from postdiff import accelerate, catalog, methods, presets
from postdiff.engine.errors import UsageError
from postdiff.lab.app import asked as asking
from postdiff.lab.app import budget, fields, numbers, reading, server, written
from postdiff.lab.app.asked import Asked
from postdiff.lab.app.generation import Engine
from postdiff.lab.app.page import lay_out
from postdiff.lab.app.sessions import Sessions, Stopped
from postdiff.lab.data.samples import Sample, generator
from postdiff.lab.pipelines import cards, models
from postdiff.lab.planner.asked import PlanOptions, usual_data

ZOO = Path(postdiff.__file__).parent / "zoo" / "emoji"
FORMS = {form.name: form for form in fields.forms()}
VALUES = {
    **{"model": "emoji", "prompt": "red apple", "seed": 0, "steps": 20, "guidance": "", "height": "", "width": ""},
    **{"own_steps": "", "solver": None, "methods": ["deepcache"]},
}
STACK = ({"mixed_resolution": {"switch": 0.25}}, {"deepcache": {"interval": 3}})


def shows(name, **changed):
    """What the fields of a method show, some of them changed."""
    return fields.from_spec(FORMS[name], {}) | changed


def test_every_method_has_a_field_for_each_option():
    assert list(FORMS) == methods.names()
    for form in FORMS.values():
        method = methods.find(form.name)
        assert [one.name for one in form.fields] == [option.name for option in dataclasses.fields(method)]
        assert all(one.about for one in form.fields), form.name
        assert fields.spec(form, shows(form.name)) == {form.name: {}}, "what was not changed is not written"
    kinds = {one.name: one.kind for one in FORMS["tome"].fields}
    assert kinds["rand"] == "check" and kinds["sx"] == "whole" and kinds["ratio"] == "number"
    [choice] = [one for one in FORMS["tome"].fields if one.kind == "choice"]
    assert choice.choices == (1, 2, 4, 8)
    assert next(one for one in FORMS["deepcache"].fields if one.name == "interval").about.endswith("; 1 or more")


@pytest.mark.parametrize("name", catalog.names("methods"))
def test_a_preset_goes_through_the_panels_and_comes_back(name):
    stack = fields.stack_of([name])
    panels = reading.panels(stack, list(FORMS.values()))
    back = [fields.spec(FORMS[own], json.loads(json.dumps(panels[own]))) for own, _ in stack]
    text = [json.dumps(presets.describe(presets.build_methods(specs))) for specs in (back, [name])]
    assert text[0] == text[1]


def test_what_a_browser_sends_is_read():
    sent = {"deepcache": shows("deepcache", interval=3.0, restarts="[0.5, 4]", schedule="nonuniform", power=2)}
    found = reading.asked({**VALUES, "guidance": "2.5", "own_steps": "12", "seed": 7.0}, sent, list(FORMS.values()))
    assert found.methods == (
        {"deepcache": {"interval": 3, "restarts": [0.5, 4], "schedule": "nonuniform", "power": 2.0}},
    )
    assert (found.guidance_scale, found.accelerated_steps, found.seed, found.height) == (2.5, 12, 7, None)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("interval", 0, "DeepCache: interval=0 must be 1 or more"),
        ("interval", 2.5, "interval=2.5 must be int"),
        ("interval", None, "DeepCache: interval is empty; give a value, for instance 2"),
        ("restarts", " ", "restarts is empty; write a value, for instance []"),
        ("restarts", "[1,", "DeepCache: restarts is not valid YAML"),
        ("restarts", "soon", "DeepCache: restarts='soon' must be"),
    ],
)
def test_an_option_that_cannot_be_is_refused_in_one_line(option, value, message):
    with pytest.raises(UsageError) as error:
        reading.asked(VALUES, {"deepcache": shows("deepcache", **{option: value})}, list(FORMS.values()))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": None}, "steps is empty"),
        ({"steps": 2.5}, "steps=2.5 must be a whole number"),
        ({"seed": -1}, "seed=-1 must be a whole number from 0"),
        ({"guidance": "much"}, "guidance=much is no number"),
        ({"height": "1e400"}, "height=1e400 must be a whole number"),
        ({"steps": 0}, "steps=0 is too small"),
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"prompt": "a\0b"}, "holds characters that are no text"),
        ({"model": ""}, "no model is chosen"),
        ({"model": "nothing"}, "unknown model 'nothing'"),
        ({"model": "/"}, "is not a diffusers pipeline"),
        ({"model": "dit_xl_256"}, "takes a class and no prompt"),
        ({"model": "sd15_img2img"}, "needs an image beside the prompt"),
        ({"model": "wan21_t2v_1_3b"}, "makes videos"),
        ({"model": "deepfloyd_if"}, "is 3 pipelines in turn"),
        ({"model": "flux_blocks"}, "names a structure alone"),
        ({"solver": "nothing"}, "nothing"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_one_line(outputs, changed, message):
    with pytest.raises(UsageError) as error:
        found = reading.asked({**VALUES, **changed}, {"deepcache": shows("deepcache")}, list(FORMS.values()))
        asking.plans(found)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_list_offers_what_the_page_runs():
    with gr.Blocks():
        page = lay_out("emoji", list(FORMS.values()))
    offered = [name for name, _ in page["model"].choices]
    assert {"emoji", "sd15_512", "sdxl", "pixart_alpha"} <= {*offered} < {*catalog.names("models")}
    for name in catalog.names("models"):
        if name in offered:
            asking.refuse_other_models(name)
        else:
            with pytest.raises(UsageError):
                asking.refuse_other_models(name)
    assert page["data"].value == "emoji"
    # The folder that the page was started with is there too.
    with gr.Blocks():
        assert str(ZOO) in [name for name, _ in lay_out(str(ZOO), list(FORMS.values()))["model"].choices]


def test_a_plan_calibrates_on_the_models_own_prompts(monkeypatch, tmp_path):
    (tmp_path / "configs" / "data").mkdir(parents=True)
    (tmp_path / "configs" / "data" / "sdxl.yaml").write_text("prompts: zoo/emoji/prompts.jsonl\n")
    assert usual_data("sdxl") == usual_data("emoji") == "emoji"
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))
    assert usual_data("sdxl") == "sdxl" and usual_data("sd15_512") == "emoji"


def test_only_methods_that_stand_once_have_a_place():
    with pytest.raises(UsageError, match="names deepcache twice"):
        fields.stack_of([{"deepcache": {}}, "deepcache"])
    with pytest.raises(UsageError, match="is not on this page"):
        reading.panels([("nothing", {})], list(FORMS.values()))


def test_differences_are_made_larger_by_a_power_of_two():
    one, other = torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(3, 2, 2, dtype=torch.uint8)
    assert numbers.amplified(one, other)[1] == 1
    other[0, 0, 0] = 5
    pixels, times = numbers.amplified(one, other)
    assert times == 32 and pixels.shape == (2, 2, 3) and pixels[0, 0, 0] == 160 and pixels.sum() == 160
    other[0, 0, 0] = 200
    assert numbers.amplified(one, other)[1] == 1


def test_each_session_stops_its_own_work_alone():
    sessions = Sessions()
    assert not sessions.stop("one", "comparison")
    with sessions.working("one", "comparison") as own, sessions.working("two", "comparison") as other:
        sessions.leave("one")
        assert own.is_set() and not other.is_set()
        sessions.leave(None)
        assert other.is_set()
    assert not sessions.stop("one", "comparison"), "it is over"


def test_the_line():
    sessions = Sessions()
    with sessions.working("one", "comparison") as first, sessions.working("two", "plan") as second:
        assert list(sessions.before(first)) == []
        with sessions.working("three", "comparison") as third:
            waiting = sessions.before(third)
            assert next(waiting) == 2
            third.set()
            with pytest.raises(Stopped):
                next(waiting)
        with sessions.working("four", "comparison") as last:
            second.set()
            assert next(sessions.before(last)) == 2, "who is stopped has a turn until it is over"
    with sessions.working("five", "comparison") as alone:
        assert list(sessions.before(alone)) == []


def test_a_second_press_replaces_the_first():
    sessions, order = Sessions(), []

    def work(name):
        with sessions.working("one", "comparison") as stop:
            order.append(f"{name} begins")
            began.set()
            stop.wait(30 if name == "first" else 0)
            order.append(f"{name} ends")

    began = threading.Event()
    first = threading.Thread(target=work, args=("first",))
    first.start()
    assert began.wait(30)
    work("second")
    first.join()
    assert order == ["first begins", "first ends", "second begins", "second ends"]


def test_ports(outputs):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 cannot be listened on"):
            server._port(server.AppOptions(port=port))
    assert server._port(server.AppOptions()) in server.PORTS
    for port in (0, 70000):
        with pytest.raises(UsageError, match="is no port"):
            server._port(server.AppOptions(port=port))
    with pytest.raises(UsageError, match="cannot be listened on"):
        server._port(server.AppOptions(host="256.1.1.1", port=7860))


def test_without_gradio_one_line_says_what_to_install(outputs, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert refused("app") == 'the page needs gradio; pip install "postdiff[app]"'
    assert "unknown model 'nothing'" in refused("app", "--model", "nothing")


def test_a_budget_that_cannot_be_read_starts_nothing(outputs):
    for text, message in (("", "the budget is empty"), ("much", "is no number with a unit")):
        with pytest.raises(UsageError, match=message):
            budget.words(PlanOptions("emoji", text), {})
    words, file = budget.words(PlanOptions("emoji", "0.4x"), {"steps": 20, "height": None})
    assert words[:3] == ["plan", "--model=emoji", "--budget=0.4x"] and words[-1] == "steps=20"
    assert file.parent == outputs / "plans"
    with pytest.raises(UsageError, match="is no file"):
        budget.chosen(file)


@pytest.mark.slow
def test_a_plan_is_run_and_read(outputs, monkeypatch):
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(outputs))
    words, file = budget.words(PlanOptions("emoji", "0.4x"), {"steps": 20})
    answer = [line.text for line in budget.plan(words, threading.Event()) if line is not None and line.answer]
    sentence, table, *notes = budget.told(answer).split("\n\n")
    assert sentence.startswith("Within 0.4x take ") and table.startswith("| Setting | LPIPS") and len(notes) == 1
    chosen = budget.chosen(file)
    assert chosen.full == 20 and chosen.steps < 20 and fields.stack_of(chosen.methods)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        list(budget.plan(words, stop))
    stop, begun, start = threading.Event(), [], subprocess.Popen
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda *words, **how: begun.append(start(*words, **how)) or begun[0])
        left = budget.plan(words, stop)
        next(left)
    stop.set()
    assert begun[0].wait(60) != 0, "it ends although nobody asks for more lines"
    with pytest.raises(UsageError, match="nothing"):
        list(budget.plan([*words, "nothing=1"], threading.Event()))


@pytest.fixture(scope="module")
def engine():
    return Engine()


def comparison(engine, tell=lambda progress: None, stop=None, **given):
    return engine.compare(
        Asked(**{"prompt": "red apple", "seed": 3, "steps": 6, "methods": STACK, **given}),
        tell,
        stop or threading.Event(),
    )


def pixels(image):
    return np.asarray(Image.open(image).convert("RGB"))


@pytest.mark.slow
def test_images_and_values_are_those_of_run(engine, outputs, tmp_path, command):
    made = comparison(engine, scheduler="unipc")
    file = tmp_path / "tried.yaml"
    file.write_text(written.as_yaml(made))
    code, _, err = command("run", str(file))
    assert code == 0, err
    for row, run in {"full": made.full, "accelerated": made.accelerated, "fewer_steps": made.fewer}.items():
        record = json.loads((outputs / "records" / "tried" / f"{row}.json").read_text())
        [kept] = (outputs / "images" / record["images"]).rglob("00000.png")
        assert np.array_equal(pixels(kept), numbers.picture(run.image)), row
        assert record["macs"]["denoiser"]["dense"] == run.macs
        for name, value in run.values.items():
            assert record["metrics"][name]["value"] == pytest.approx(value, abs=1e-6), "to the same full run"


def test_images_are_those_of_the_lines_of_python_and_of_the_stock_pipeline(engine, outputs, tmp_path, monkeypatch):
    told = []
    made = comparison(engine, told.append, scheduler="unipc")
    monkeypatch.chdir(tmp_path)
    exec(compile(written.as_python(made), "lines", "exec"), {})
    assert np.array_equal(pixels(tmp_path / "image.png"), numbers.picture(made.accelerated.image))
    pipe = models.load(cards.card("emoji"), "float32", "cpu")
    call = {"num_inference_steps": 6, "guidance_scale": 4.0, "generator": generator(Sample(0, "red apple", 3))}
    assert np.array_equal(np.asarray(pipe("red apple", **call).images[0]), numbers.picture(made.full.image))
    counted = [(one.step, one.steps) for one in told if "full run" in one.doing and one.steps]
    assert counted == 2 * [(step, 6) for step in range(1, 7)], "a quick run is timed twice"
    assert made.fewer.macs <= made.accelerated.macs < made.full.macs
    _check_numbers(made)


def _check_numbers(made):
    table, work = numbers.table(made), numbers.steps(made)
    assert f"{made.full.macs / made.accelerated.macs:.2f}x" in table and "PSNR to the full run" in table
    assert work.count("<tr>") == len(made.shares["groups"]) and "Latent size: 8x8, then 16x16" in work
    assert made.shares["shares"][0][:2] == pytest.approx([0.23, 0.11], abs=0.15)


def test_a_method_that_decides_by_the_image_is_counted_on_it(engine, outputs):
    made = comparison(engine, methods=({"easy_cache": {"threshold": 0.5, "warmup": 2}},))
    assert made.accelerated.macs < made.full.macs and made.accelerated.sizes == []
    assert made.shares["shares"][0][0] == 1.0 and 0.0 in made.shares["shares"][0]
    again = accelerate(models.load(cards.card("emoji"), "float32", "cpu"), made.accelerated.plan.methods)
    call = {"num_inference_steps": 6, "guidance_scale": 4.0, "generator": generator(Sample(0, "red apple", 3))}
    assert np.array_equal(np.asarray(again("red apple", **call).images[0]), numbers.picture(made.accelerated.image))


def test_a_folder_without_a_structure_is_counted_with_its_weights(outputs):
    folder = str(ZOO)
    card = comparison(Engine(), model="emoji", guidance_scale=3.0, steps=4)
    made = comparison(Engine(), model=folder, guidance_scale=3.0, steps=4, height=64, width=64)
    assert made.accelerated.sizes == [] and card.accelerated.sizes
    for one, other in ((made.full, card.full), (made.accelerated, card.accelerated)):
        assert torch.equal(one.image, other.image) and one.macs == other.macs
    assert made.shares["shares"] == card.shares["shares"]
    assert f"cards.card({folder!r})" in written.as_python(made)


def test_without_methods_the_runs_are_the_same(engine, outputs):
    made = comparison(engine, methods=(), steps=2)
    assert torch.equal(made.full.image, made.accelerated.image) and made.fewer is None
    assert made.accelerated.values["paired_psnr"] == 100 and numbers.amplified(made.full.image, made.full.image)[1] == 1


def test_a_long_prompt_is_generated_and_told_of(engine, outputs):
    made = comparison(engine, prompt="red apple " * 500, steps=2)
    assert made.notes[:2] == (
        "The prompt has 5,000 characters; its first 2,000 are used.",
        "The text encoder reads 16 of the prompt's 402 tokens; the rest changes nothing.",
    )


def test_a_comparison_ends_at_the_next_step_and_the_next_one_works(engine, outputs):
    stop, seen = threading.Event(), []

    def tell(progress):
        seen.append(progress.step)
        if progress.step == 2:
            stop.set()

    with pytest.raises(Stopped):
        comparison(engine, tell, stop)
    assert max(seen) == 2
    assert comparison(engine, steps=2).full.image.shape == (3, 64, 64)


def test_methods_that_do_not_fit_are_told_in_one_line(engine, outputs):
    for stack, message in (
        (({"deepcache": {}}, {"encoder_propagation": {}}), "both act on"),
        (({"first_block_cache": {}},), "FirstBlockCache"),
        (({"mixed_resolution": {"switch": 19}},), "switch"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            comparison(engine, methods=stack)
        assert "\n" not in str(error.value)


def test_what_nobody_has_foreseen_is_in_the_log(outputs):
    page = server.Server.__new__(server.Server)
    page._foreseen = lambda error: None
    try:
        raise KeyError("lost")
    except KeyError as error:
        line = page._explained(error)
    log = outputs.absolute() / "app" / "log.txt"
    assert str(log) in line and "KeyError: 'lost'" in line and "\n" not in line
    assert "Traceback" in log.read_text()


def test_the_yaml_reads_as_it_was_asked_for(engine, outputs):
    import yaml

    made = comparison(engine, steps=2, prompt="a: {b} # '🍎'\n\"c\"", guidance_scale=2.0, accelerated_steps=3)
    content = yaml.safe_load(io.StringIO(written.as_yaml(made)))
    assert content["base"]["guidance_scale"] == 2.0 and content["base"]["seeds"] == [3]
    assert content["rows"]["accelerated"] == {"label": "accelerated", "steps": 3, "methods": list(STACK)}
    with open(content["base"]["data"], encoding="utf-8") as file:
        assert json.loads(file.read()) == {"prompt": "a: {b} # '🍎'\n\"c\""}
