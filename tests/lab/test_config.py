"""Configs: layers in order, and every mistake told in one line before anything is loaded."""

import pytest

from postdiff import catalog
from postdiff.engine.errors import UsageError
from postdiff.lab.config import experiment
from postdiff.lab.config.layers import from_words
from postdiff.lab.config.schema import digest, resolve
from postdiff.lab.plan import plan


def test_layers_lie_in_order():
    config = resolve([("file", {"steps": 30, "seeds": [1]}), ("row", {"steps": 10}), ("line", {"batch_size": 2})])
    assert (config.steps, config.seeds, config.batch_size, config.reference_steps) == (10, [1], 2, 50)


def test_words_are_nested_yaml():
    words = [
        "bench.repeats=0",
        "seeds=[0, 1]",
        "scheduler.options.use_karras_sigmas=true",
        "methods=[{deepcache: {interval: 3}}]",
    ]
    found = from_words(words)
    assert found["bench"] == {"repeats": 0} and found["seeds"] == [0, 1]
    assert found["methods"] == [{"deepcache": {"interval": 3}}]
    assert resolve([("line", found)]).scheduler.options == {"use_karras_sigmas": True}


def test_a_scheduler_may_be_named_in_short():
    assert resolve([("line", {"scheduler": "ddim"})]).scheduler.name == "ddim"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stesp=3"], "did you mean 'steps'"),
        (["bench.repeat=3"], "did you mean 'bench.repeats'"),
        (["steps=many"], "steps"),
        (["steps=0"], "use at least 1"),
        (["bench=3"], "repeats"),
        (["bench.repeats=-1"], "use at least 0"),
        (["guidance_scale=-1"], "guidance_scale"),
        (["seeds=[0,0]"], "different"),
        (["seeds=[]"], "different"),
        (["seeds=3"], "line"),
        (["dtype=float31"], "did you mean 'float32'"),
        (["wandb=of"], "did you mean 'off'"),
        (["device=gpu"], "cuda"),
        (["metrics=[paired_snr]"], "did you mean 'paired_psnr'"),
        (["metrics=[paired_psnr,paired_psnr]"], "twice"),
        (["scheduler=ddin"], "did you mean 'ddim'"),
        (["scheduler.nmae=ddim"], "did you mean 'scheduler.name'"),
        (["steps"], "key=value"),
        (["=3"], "key=value"),
        (["seeds=[0"], "YAML"),
        (["bench=1", "bench.repeats=2"], "goes below"),
    ],
)
def test_mistakes_are_reported(words, message):
    with pytest.raises(UsageError) as error:
        resolve([("line", from_words(words))])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", catalog.names("experiments"))
def test_shipped_experiments_are_ready_to_run(name):
    plans = plan.plan_rows(experiment.load(name))
    runs = {(one.run_id, one.speed_id) for one in plans}
    assert len(runs) == len(plans), "two rows of one experiment are the same run"


def _ids(**changes):
    [one] = plan.plan_rows(experiment.load("tiny", changes).select(["plain"]))
    return one.run_id, one.images_id, one.references_id


def test_the_run_id_is_of_what_is_run(tiny):
    base = _ids()
    assert _ids() == base
    assert _ids(device="cpu", wandb="offline", bench={"repeats": 7}) == base
    by_path = _ids(model=str(tiny / "model"), height=32, width=32, guidance_scale=3.0)
    assert by_path == base, "the same weights and settings, found another way"
    changed = _ids(steps=5)
    assert changed[0] != base[0] and changed[1] != base[1] and changed[2] == base[2]
    fewer = _ids(count=2)
    assert fewer[0] != base[0] and fewer[1:] == base[1:], "an image does not depend on how many others are made"
    for change in ({"guidance_scale": 2.0}, {"scheduler": "ddim"}, {"dtype": "bfloat16"}):
        assert all(new != old for new, old in zip(_ids(**change), base, strict=True)), change
    more = _ids(reference_steps=9)
    assert more[0] != base[0] and more[1] == base[1] and more[2] != base[2]


def test_a_row_equal_to_the_reference_shares_its_images(tiny):
    [one] = plan.plan_rows(experiment.load("tiny", {"steps": 6}).select(["plain"]))
    assert one.images_id == one.references_id == one.reference().images_id


def test_methods_are_spelt_out_in_the_resolved_config(tiny):
    [_, one] = plan.plan_rows(experiment.load("tiny"))
    [(name, options)] = one.resolved()["methods"][0].items()
    assert name == "deepcache" and options["interval"] == 2 and "branch" in options


def test_the_digest_ignores_the_order_of_keys():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rows: {a: {lable: x}}", "did you mean 'label'"),
        ("rows: {a: {steps: x}}", "row 'a'"),
        ("bsae: {}\nrows: {a: {}}", "did you mean 'base'"),
        ("base: {stesp: 3}\nrows: {a: {}}", "did you mean 'steps'"),
        ("rows: {}", "at least one row"),
        ("rows: {a: {reported: {psnr: high}}}", "reported.psnr: Value 'high' is no number"),
        ("rows: {a: 3}", "mapping"),
        ("rows: [", "not valid YAML"),
        ("3", "mapping"),
    ],
)
def test_mistakes_in_an_experiment_file_are_reported(content, message, tmp_path, monkeypatch):
    file = tmp_path / "configs" / "experiments" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))
    with pytest.raises(UsageError) as error:
        experiment.load("mine")
    assert message in str(error.value) and "\n" not in str(error.value)
