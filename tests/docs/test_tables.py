"""Tables that programs make say what the code says: presets on pipelines, and where caches work."""

import importlib.util
import sys

import pytest

from postdiff import catalog, methods
from postdiff.engine.family import FAMILIES, UNFIT
from tests.docs.pages import ROOT

# A U-Net of two twins, a transformer of guided and unguided twins, and one with a number of steps of its own.
MADE_ANEW = ("StableDiffusionXLInpaintPipeline", "FluxKontextPipeline", "SanaSprintPipeline")
MAKE = "run python experiments/pipelines.py --write"


@pytest.fixture(scope="module")
def pipelines():
    spec = importlib.util.spec_from_file_location("pipelines", ROOT / "experiments" / "pipelines.py")
    module = sys.modules["pipelines"] = importlib.util.module_from_spec(spec)  # its dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["pipelines"]


def cells(lines):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]


@pytest.fixture(scope="module")
def page(pipelines):
    """{"PIPELINE": {preset: cell}, ...} as the page has it, its headers, and {number: reason}."""
    made = pipelines.PAGE.read_text().partition(pipelines.BEGIN)[2].partition(pipelines.END)[0]
    tables, _, rest = made.partition("## Why a run is refused")
    table = cells(tables.splitlines())
    heads = [[cell.split('"')[1] for cell in row[1:-1]] for row in table if row[0] == "pipeline"]
    rows = {f"{row[0].strip('`')}Pipeline": row[1:-1] for row in table if row[0].startswith("`")}
    numbered = rest.partition("## What a network must have")[0]
    reasons = {int(number): text for number, text in cells(numbered.splitlines())[2:]}
    return rows, heads, reasons


def test_every_pipeline_and_every_preset_has_its_place(page):
    rows, heads, _ = page
    assert set(rows) == set(FAMILIES), MAKE
    assert heads and all(head == catalog.names("methods") for head in heads), MAKE
    assert all(len(row) == len(heads[0]) for row in rows.values())


def test_every_number_has_its_reason(page):
    rows, _, reasons = page
    used = {int(number) for row in rows.values() for cell in row for number in cell.strip("+=-? ").split(",") if number}
    assert used == set(reasons) and list(reasons) == list(range(1, len(reasons) + 1))


def test_pipelines_out_of_reach_are_told_with_what_serves_instead(pipelines):
    text = pipelines.PAGE.read_text()
    assert all(line in text for line in pipelines.unfit()), MAKE
    assert len(pipelines.unfit()) == 4 + len(UNFIT)


@pytest.mark.slow
def test_rows_made_anew_are_those_of_the_page(pipelines, page):
    rows, [head, *_], reasons = page
    for name, twins in pipelines.twins().items():
        if name not in MADE_ANEW:
            continue
        for preset, cell in pipelines.row(twins).items():
            sign, _, numbers = rows[name][head.index(preset)].partition(" ")
            if sign[:1].isdigit():
                sign, numbers = "", sign
            told = {reasons[int(number)] for number in numbers.split(",") if number}
            assert (sign, len(told)) == (cell.sign, len(cell.refused)), f"{preset} on {name}; {MAKE}"
            assert told <= {text for reason in cell.refused for text in (reason.own, reason.shared)}, (
                f"{preset}: {MAKE}"
            )


def test_a_cell_is_what_its_best_twin_says(pipelines):
    why, other = pipelines.Reason("A: no", "The method: no"), pipelines.Reason("A: never", "The method: never")
    cell = pipelines.Cell()
    for sign, reason in (("-", other), ("", why), ("", why)):
        cell.add(sign, reason)
    assert cell.text({why.shared: 3}) == "3"
    cell.add("+", None)
    cell.add("=", None)
    assert cell.text({why.shared: 3}) == "+ 3"


def made(name):
    text = (ROOT / "docs" / "which_cache.md").read_text()
    begin, end = f"<!-- {name}: made by docs/program/which_cache.py -->\n", f"\n<!-- end of {name} -->"
    return text.partition(begin)[2].partition(end)[0].splitlines()


def test_caches_are_told_as_they_are(program):
    assert made("triples") == program("which_cache").triples(), "run make docs"


@pytest.mark.slow
def test_costs_of_caches_are_those_that_are_counted(program):
    assert made("costs") == program("which_cache").costs(), "run make docs"


def test_every_cache_that_looks_says_at_what(program):
    which = program("which_cache")
    look = {of for of in which.caches().values() if methods.find(of).adaptive}
    assert look == set(which.SEES)


def test_plans_in_words(program):
    plan = program("which_cache")._plan
    assert plan([[0, 5, 10, 15]]) == "one step in 5" and plan([[*range(20)]]) == "every step"
    assert plan([[0, 1, 2]]) == "the first 3 of 20 steps"
    assert plan([[0, 3, 4]]) == "3 of 20 steps: 0, 3, 4"
    assert plan([[0], [0, 7, 9]]) == "each by a plan of its own, 1 to 3 of 20 steps"
