"""Tables on pages say what the committed records say."""

import itertools
import json

import pytest

from postdiff.lab.analysis.findings import Findings
from postdiff.lab.config import experiment
from postdiff.lab.tables.rows import flat_rows
from postdiff.lab.tables.table import render
from postdiff.metrics import facts
from tests.docs.pages import README, ROOT

DOCS, TABLES = ROOT / "docs", ROOT / "paper_figures" / "tables"
FRECHET, TEXT, SAVING = "Frechet dist. ↓", "Text score ↑", "saving ↑"
PAIRED = ("paired_lpips", "paired_psnr", "paired_ssim")
# {page: [(table made from records, {heading on the page: heading there})]}
PAGES = {
    README: [("main_table", {"Frechet distance ↓": FRECHET, "text score ↑": TEXT, "times less work ↑": SAVING})],
    DOCS / "reproduce.md": [
        ("main_table", {name: name for name in ("Calls", "PSNR ↑", FRECHET, TEXT, "MACs (G) ↓", SAVING)})
    ],
    DOCS / "results" / "comparison.md": [
        ("comparison", {"times less work": SAVING, "Frechet distance": FRECHET, "text score": TEXT})
    ],
    DOCS / "results" / "whole_network.md": [("whole_network", {"PSNR": "PSNR ↑", "LPIPS": "LPIPS ↓"})],
    DOCS / "results" / "faster_diffusion.md": [
        ("faster_diffusion_table_5", {"Frechet distance": FRECHET, "text score": TEXT})
    ],
}


def rows(text):
    """{first cell: {heading: cell}} of all tables of a text, each under its own headings."""
    found, headings = {}, []
    for line in text.splitlines():
        if not line.startswith("|"):
            headings = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not headings:
            headings = cells
        elif set(line) - set("|-: "):
            found.setdefault(cells[0], {}).update(zip(headings[1:], cells[1:], strict=True))
    return found


def alike(printed, recorded):
    """Whether a cell is the recorded one, or its mean rounded to fewer digits."""
    mean = recorded.partition(" ")[0].removesuffix("x")
    digits = len(printed.partition(".")[2])
    return printed in (recorded, mean) or printed == f"{float(mean) + 1e-9:.{digits}f}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_figures_are_those_of_the_records(page):
    shown, compared = rows(page.read_text()), 0
    for table, headings in PAGES[page]:
        for label, recorded in rows((TABLES / f"{table}.md").read_text()).items():
            for heading, name in headings.items():
                if (printed := shown.get(label, {}).get(heading)) is not None:
                    assert alike(printed, recorded[name]), f"{label}, {heading}: {printed}, and not {recorded[name]}"
                    compared += 1
    assert compared >= 8


@pytest.mark.parametrize(("printed", "same"), [("8.5", True), ("8.51", True), ("8.51 ± 0.02", True), ("8.6", False)])
def test_what_is_alike(printed, same):
    assert alike(printed, "8.51 ± 0.02") == same


def test_differences_between_rules_are_those_of_the_record():
    shown = rows((DOCS / "results" / "whole_network.md").read_text())
    found = Findings.read(ROOT / "experiments" / "records" / "whole_network" / "differences.json").found
    kinds, compared = {"ahead of fewer steps": "steps", "ahead of the even mask": "rule"}, 0
    for row in experiment.load("whole_network").rows[1:]:
        printed = shown[row.label]
        assert printed["calls"] == f"{found['calls'][row.name]:.1f}", row.label
        for heading, kind in kinds.items():
            known = found["differences"][kind].get(row.name)
            expected = "{mean:+.1f} [{low:+.1f}, {high:+.1f}]".format(**known) if known else ""
            assert printed[heading] == expected, f"{row.label}, {heading}"
            compared += bool(known)
    assert compared >= 40


def test_the_demos_table_is_the_one_of_its_records(monkeypatch, tmp_path):
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path))
    made = render(experiment.load("demo"), "markdown")
    table = [line for line in (DOCS / "index.md").read_text().splitlines() if line.count("|") == 14]
    assert len(table) == 8 and not [line for line in table if line not in made.splitlines()]


def test_lpips_psnr_and_ssim_agree_on_which_of_the_demos_rows_is_closer(monkeypatch, tmp_path):
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path))
    found = flat_rows(experiment.load("demo"))
    compared = 0
    for one, other in itertools.combinations(found, 2):
        if abs(one["paired_psnr"] - other["paired_psnr"]) > 1:  # below a decibel they may differ, and SSIM once does
            closer = [(one[name] > other[name]) == facts(name).higher_is_better for name in PAIRED]
            assert len(set(closer)) == 1, f"{one['row']} and {other['row']}: {closer}"
            compared += 1
    assert compared >= 12 and len(found) == 6


@pytest.mark.parametrize("page", [README, DOCS / "index.md"], ids=lambda page: page.stem)
def test_what_pages_tell_of_the_demo_is_in_its_table(page):
    table = rows((DOCS / "index.md").read_text())
    text = " ".join(line for line in page.read_text().splitlines() if not line.startswith("|"))
    for name in ("LPIPS ↓", TEXT, "Frechet (EfficientNet) ↓"):
        ours, theirs = (table[label][name].partition(" ")[0] for label in ("PostDiff", "8 steps"))
        assert f"{ours} against {theirs}" in text, f"{name}: {ours} against {theirs}"
    assert all(table[label][SAVING].removesuffix("x") in text for label in ("PostDiff", "8 steps"))


def test_predicted_times_are_those_of_the_record():
    page = (DOCS / "plan.md").read_text()
    found = json.loads((ROOT / "experiments" / "records" / "plans" / "times" / "emoji.json").read_text())
    shown, compared = rows(page), 0
    for row in found["rows"]:
        if "predicted" in (printed := shown.get(row["setting"], {})):
            expected = [f"{row['predicted_s']:.3f} s", f"{row['measured_s']:.3f} s", f"{100 * row['error']:+.1f} %"]
            assert [printed[key] for key in ("predicted", "measured", "off by")] == expected
            compared += 1
    assert compared == 10
    own = found["summary"]["error"]
    held, worst = round(own["within 10 %"] * len(found["rows"])), own["worst"]
    assert f"{held} of 30; the median is off by {100 * own['median']:.1f} %, the worst by {100 * worst:+.1f} %" in page
