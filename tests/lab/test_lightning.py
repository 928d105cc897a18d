"""The module of a row under a Lightning trainer: the images and the numbers of `postdiff run`, to the bit."""

import pytest
from lightning.pytorch import Trainer

from postdiff.lab.config import experiment
from postdiff.lab.data.samples import PromptDataModule
from postdiff.lab.evaluation import Evaluation
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.plan.plan import plan_rows
from postdiff.lab.records.stored import images_of
from tests.lab import runs

WORDS = {"count": 3, "seeds": [0, 1], "batch_size": 2, "bench": {"repeats": 0}}


@pytest.fixture
def trainer():
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


def test_predict_and_test_give_what_a_run_gives(tiny, outputs, tmp_path, monkeypatch, command, trainer):
    code, _, err = command("run", "tiny", "count=3", "seeds=[0,1]", "batch_size=2", "bench.repeats=0")
    assert code == 0, err
    record = runs.record(outputs, "cached")
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path / "trained"))
    [plan] = plan_rows(experiment.load("tiny", WORDS).select(["cached"]))
    pipelines = Pipelines()
    for each in (plan.reference(), plan):
        module = Evaluation(each, {}, pipelines.sampler(each))
        trainer.predict(module, datamodule=PromptDataModule(each.samples, 2))
    assert images_of(plan).folder.is_relative_to(tmp_path / "trained")
    module = Evaluation(plan)
    [logged] = trainer.test(module, datamodule=PromptDataModule(plan.samples, 2), verbose=False)
    assert module.values == record.metrics
    assert [(str(row["seed"]), str(row["index"]), row["sha256"]) for row in module.rows] == runs.hashes(
        outputs, "cached"
    )
    assert logged == pytest.approx({name: value.value for name, value in record.metrics.items()}, rel=1e-6)


def test_images_that_are_there_are_not_generated_again(tiny, outputs, trainer):
    [plan] = plan_rows(experiment.load("tiny", WORDS).select(["plain"]))
    sampler = Pipelines().sampler(plan)
    first, again = (
        trainer.predict(Evaluation(plan, {}, sampler), datamodule=PromptDataModule(plan.samples, 2)) for _ in "ab"
    )
    assert first == [2, 2, 2] and again == [0, 0, 0]
