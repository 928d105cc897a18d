"""Which images are generated together is a matter of the plan alone: whatever is missing, the bits come out the
same.
"""

from __future__ import annotations

import shutil

import pytest

from postdiff.lab.data import data_cards
from postdiff.lab.data import samples as samples_
from postdiff.lab.data.samples import Shard
from postdiff.lab.generate.sampler import Sampler
from tests.lab import runs

pytestmark = pytest.mark.slow

# Of 10 images in batches of 4, one batch holds images of both seeds, and the last one is not full.
SETTINGS = {"count": 5, "seeds": "[0,1]", "batch_size": 4, "bench.repeats": 0, "steps": 3, "reference_steps": 2}


def words(**changes):
    return ("run", "tiny", "--rows", "cached", *(f"{key}={value}" for key, value in {**SETTINGS, **changes}.items()))


def keys(samples):
    return tuple((sample.seed, sample.index) for sample in samples)


PLAN = [keys(batch) for batch in samples_.batches(samples_.pairs([str(number) for number in range(5)], [0, 1]), 4)]


@pytest.fixture
def drawn(monkeypatch):
    """The batches that each row generates, in order."""
    found: dict[str, list] = {}
    call = Sampler.__call__

    def noting(self, samples):
        found.setdefault(self.plan.name, []).append(keys(samples))
        return call(self, samples)

    monkeypatch.setattr(Sampler, "__call__", noting)
    return found


@pytest.fixture
def whole(tiny, outputs, command, drawn):
    """`whole(*more)` runs the row again, and checks that what is there is what an uninterrupted run leaves."""
    code, _, err = command(*words())
    assert code == 0 and drawn == {"reference": PLAN, "cached": PLAN}, err
    record, images = runs.record(outputs, "cached"), runs.hashes(outputs, "cached")
    expected = runs.contents(outputs)

    def again(*more):
        drawn.clear()
        code, _, err = command(*words(), *more)
        assert code == 0, err
        assert runs.but_for_times(runs.record(outputs, "cached")) == runs.but_for_times(record)
        assert runs.hashes(outputs, "cached") == images and runs.contents(outputs) == expected
        return err

    again.record = record
    return again


def test_what_is_missing_is_drawn_in_its_batch(whole, outputs, drawn):
    """A record that is there hides nothing: images are looked at before a row is called done."""
    assert "done already" in whole() and not drawn
    own, reference = (outputs / "images" / name for name in (whole.record.images, whole.record.references))
    files = {folder: sorted(folder.rglob("[0-9]*.png")) for folder in (own, reference)}
    states = runs.states(outputs / "images", "*.png")
    first, last = files[own][0], files[own][-1]
    first.unlink()
    last.write_bytes(last.read_bytes()[:99])
    message = whole()
    assert drawn == {"cached": [PLAN[0], PLAN[-1]]} and "is made anew" in message and "done already" not in message
    files[reference][0].unlink()
    assert "of 10 images are missing or damaged" in whole()
    assert drawn == {"reference": PLAN[:1]}
    kept = {file: state for file, state in states.items() if file not in (first, last, files[reference][0])}
    after = runs.states(outputs / "images", "*.png")
    assert {file: after[file] for file in kept} == kept, "whole images were written again"
    for file in files[own]:
        file.unlink()
    assert "10 of 10 images are missing or damaged" in whole() and drawn == {"cached": PLAN}


def test_parts_are_of_whole_batches(whole, outputs, drawn, command):
    for file in outputs.rglob("*.png"):
        if file.parent.name != "grids":
            file.unlink()
    for number in (3, 1):
        assert command(*words(), "--shard", f"{number}/4")[0] == 0
    drawn.clear()
    assert command(*words(), "--shard", "4/4")[0] == 0 and not drawn, "three batches, four parts"
    whole("--shard", "2/4")
    assert drawn == {"reference": [PLAN[1]], "cached": [PLAN[1]]}


def test_another_batch_size_has_images_of_its_own(whole, outputs, drawn, command):
    states = runs.states(outputs / "images", "*.png")
    drawn.clear()
    assert command(*words(batch_size=5))[0] == 0
    assert [len(batch) for batch in drawn["cached"]] == [5, 5] and "reference" in drawn
    other = runs.record(outputs, "cached")
    assert other.images != whole.record.images and other.references != whole.record.references
    after = runs.states(outputs / "images", "*.png")
    assert states == {file: after[file] for file in states}
    for name in (other.images, other.references):
        shutil.rmtree(outputs / "images" / name)
    whole()
    assert not drawn, "the images of batches of four were generated again"


def test_more_images_keep_those_of_unchanged_batches(tiny, outputs, command, drawn, tmp_path, monkeypatch):
    """What was generated in the last, shorter batch of a shorter run is generated again in its new batch, and so
    told.
    """
    assert command(*words(count=3, seeds="[0]"))[0] == 0
    drawn.clear()
    code, _, err = command(*words(seeds="[0]"))
    message = [line for line in err.splitlines() if "was generated in another batch" in line]
    assert code == 0 and len(message) == 2 and all("it is made anew and 2 more" in line for line in message), err
    grown = runs.contents(outputs)
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path / "undisturbed"))
    assert command(*words(seeds="[0]"))[0] == 0
    assert runs.contents(tmp_path / "undisturbed") == grown
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(outputs))
    drawn.clear()
    assert command(*words())[0] == 0
    assert drawn["cached"] == PLAN[1:], "the first batch of four is the same one"


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_and_devices_deal_out_the_same_batches(frames, parts):
    samples = samples_.samples([data_cards.Prompt(str(number)) for number in range(5)], [3, 1], frames)
    plan = samples_.batches(samples, 2)
    assert [sample for batch in plan for sample in batch] == samples
    assert {len(batch) for batch in plan} == {2 * frames} and all(batch[0].frame == 0 for batch in plan)
    dealt = [samples_.part_of(plan, Shard(number + 1, parts)) for number in range(parts)]
    assert sorted(keys(batch) for share in dealt for batch in share) == sorted(map(keys, plan))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    measured = samples_.measured_batches(samples, 4 * frames)
    one = samples_.measured_share(measured, Shard(1, 1))
    shares = [samples_.measured_share(measured, Shard(n + 1, parts)) for n in range(parts)]
    for seed in (3, 1):
        joined = [batch for share in shares for batch in share if batch[0].seed == seed]
        assert joined == [batch for batch in one if batch[0].seed == seed], "batches are measured as one device would"
    assert all(len({sample.seed for sample in batch}) == 1 for batch in one)
