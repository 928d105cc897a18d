"""Runs killed at a write of their own and taken up: as an uninterrupted run leaves it, and nothing left over."""

from __future__ import annotations

import shutil

import pytest

from tests.lab import kills, runs

pytestmark = pytest.mark.slow

# Two batches, of which one holds images of both seeds.
RUN = ["run", "tiny", "--rows", "plain", "count=3", "seeds=[0,1]", "batch_size=4", "steps=2", "reference_steps=3"]
RUN += ["bench.repeats=0", "metrics=[paired_psnr,emoji_text_score]"]
# A few of some 70 writes of each command; all of them were tried once.
SAMPLES = {
    "png": (
        RUN,
        "",
        ("half .png", "after replace 00000.png", "half .csv", "after replace plain.csv", "before replace manifest.csv"),
    ),
    "fresh": (
        [*RUN, "--fresh"],
        "whole",
        ("after unlink plain.json", "after rename .postdiff-*", "after replace 00001.png"),
    ),
    "export": (["export", *RUN[1:]], "whole", ("before replace plain.npz",)),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_killed_at_a_write_and_taken_up(tiny, outputs, command, tmp_path, monkeypatch, kind):
    words, start, moments = SAMPLES[kind]
    if start:
        assert command(*RUN)[0] == 0
    before, whole = tmp_path / "before", tmp_path / "whole"
    if start:
        shutil.copytree(outputs, before)
        shutil.copytree(outputs, whole)
        shutil.rmtree(outputs)
    points = kills.points(words, whole, tmp_path)
    expected = runs.contents(whole)
    again = [word for word in words if word != "--fresh"]
    for moment in moments:
        if start:
            shutil.copytree(before, outputs)
        kills.killed(words, outputs, tmp_path, _place(points, moment))
        code, _, err = command(*again)
        assert code == 0, err
        found = runs.contents(outputs)
        differing = [place for place in {*found, *expected} if found.get(place) != expected.get(place)]
        assert not differing, (moment, differing)
        shutil.rmtree(outputs)


def _place(points, moment):
    """The number of a write; of several alike, one in the middle."""
    from fnmatch import fnmatch

    places = [place for place, point in enumerate(points, 1) if fnmatch(point, moment)]
    assert places, (moment, points)
    return places[len(places) // 2]
