"""`postdiff report`: one page with the records' values, the images as they are, and the work of every step."""

import base64
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from postdiff.lab.config import experiment
from postdiff.lab.macs.macs_table import count_rows
from postdiff.lab.records.record import fresh_path
from postdiff.lab.report import contents, images, page, summary, timeline
from postdiff.lab.report.recorded import as_recorded
from postdiff.lab.tables.rows import flat_rows
from tests.lab.test_results import record

QUICK = ("steps=3", "count=2", "seeds=[0,1]", "bench.repeats=0")


@pytest.fixture(scope="module")
def ran(tiny_root, tmp_path_factory):
    """The outputs of one quick run of the tiny experiment."""
    from postdiff import cli

    folder = tmp_path_factory.mktemp("ran") / "outputs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTDIFF_PATH", str(tiny_root))
        patch.setenv("POSTDIFF_OUTPUTS", str(folder))
        assert cli.main(["run", "tiny", *QUICK]) == 0
    return folder


@pytest.fixture
def reported(tiny, outputs, ran):
    """A copy of that run, and the experiment as its records have it."""
    shutil.copytree(ran, outputs)
    return as_recorded(experiment.load("tiny"), "tiny")


class Elements(HTMLParser):
    """What stands in each script element, and every address that the page names."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.named, self._within = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._within = tag == "script"
        if self._within:
            self.scripts.append("")
        self.named += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        self._within = False

    def handle_data(self, text):
        if self._within:
            self.scripts[-1] += text


def test_the_command_writes_one_page_that_names_nothing_outside(reported, outputs, command):
    code, out, err = command("report", "tiny")
    file = outputs / "reports" / "tiny.html"
    assert code == 0 and out == f"report: {file}\n", err
    found = Elements(file.read_text())
    assert len(found.scripts) == 3
    assert not [address for address in found.named if not address.startswith(("#", "data:"))]
    assert "Plotly" in found.scripts[1]
    told = json.loads(found.scripts[0])
    rows = flat_rows(reported)
    assert [line[0].rstrip("*") for line in told["table"]["rows"]] == [row["label"] for row in rows]
    for point, row in zip(told["points"], rows, strict=True):
        assert point["macs_g"] == row["macs_g"] and point["paired_psnr"][0] == row["paired_psnr"]
    assert [point["plain"] for point in told["points"]] == [True, False]
    assert file.stat().st_size < 8e6


def test_images_are_those_of_the_records(reported, outputs):
    told = images.encoded({name: _record("tiny", name) for name in ("plain", "cached")}, "tiny")
    assert [(one["seed"], one["index"]) for one in told["samples"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert told["samples"][1]["prompt"] == "an apple"
    for row, encoded in told["rows"].items():
        for one, uri in zip(told["samples"], encoded, strict=True):
            kept = outputs / "images" / _record("tiny", row).images / str(one["seed"]) / f"{one['index']:05d}.png"
            assert _pixels(uri) == Image.open(kept).convert("RGB").tobytes()
    assert told["rows"]["plain"] != told["rows"]["cached"]
    assert all("paired_psnr" in text for texts in told["values"].values() for text in texts)


def test_only_as_many_images_as_fit(reported, monkeypatch):
    records = {name: _record("tiny", name) for name in ("plain", "cached")}
    whole = images.encoded(records, "tiny")
    largest = max(len(uri) for encoded in whole["rows"].values() for uri in encoded)
    monkeypatch.setattr(images, "BYTES", 2 * 2 * largest)  # two of each row
    fitting = images.encoded(records, "tiny")
    assert len(fitting["samples"]) == 2
    assert {row: uris[:2] for row, uris in whole["rows"].items()} == fitting["rows"]


def test_large_images_become_small_ones(reported, outputs):
    found = _record("tiny", "plain")
    for file in (outputs / "images" / found.images).rglob("*.png"):
        with Image.open(file) as image:
            image.convert("RGB").resize((1024, 512)).save(file)
    [uri, *_] = images.encoded({"plain": found}, "tiny")["rows"]["plain"]
    assert uri.startswith("data:image/webp") and _image(uri).size == (images.SIDE, images.SIDE // 2)


def test_steps_add_up_to_the_counted_work(reported):
    told, work = contents.contents(reported)["timelines"], [_record("tiny", row).macs for row in ("plain", "cached")]
    for shares in told[0]["shares"]:
        assert set(shares) == {1.0}
    # Every step of a plain run does as much as any other.
    share = sum(told[1]["shares"][0]) / 3
    assert share == pytest.approx(work[1]["denoiser"]["all"] / work[0]["denoiser"]["all"], rel=2e-3) and share < 1
    assert [len(shares) for shares in told[1]["shares"]] == [3] * len(told[1]["groups"])
    assert told[0]["image"] == told[1]["image"] == "a heart", "the tiny model has no structure to count"


def test_steps_of_a_model_with_a_structure():
    rows = experiment.load("demo", {"steps": 6, "data": "emoji"}).select(["steps_20", "mixed_resolution", "deepcache"])
    plain, mixed, cached = timeline.timelines(rows)
    assert "image" not in plain and plain["sizes"] == ["16x16"] * 6 == cached["sizes"]
    assert mixed["sizes"] == ["8x8"] * 3 + ["16x16"] * 3
    assert mixed["shares"][0][3:] == [1.0] * 3 and all(share < 0.5 for share in mixed["shares"][0][:3])
    assert [share == 1 for share in cached["shares"][0]] == [True, False] * 3
    for one, whole in zip((plain, mixed, cached), count_rows(rows), strict=True):
        for group, shares in zip(one["groups"], one["shares"], strict=True):
            group = None if group == "all" else group
            step = plain_step(rows, group)
            assert sum(shares) * step == pytest.approx(whole.tally.work("denoiser", group=group).all, rel=5e-3)


def plain_step(rows, group):
    """What one step of the plain run does."""
    [plain] = count_rows(rows.select(["steps_20"]))
    return plain.tally.work("denoiser", 0, group).all


def test_a_row_that_looks_at_features_is_counted_on_an_image(tiny, extended, command):
    text = (tiny / "configs" / "experiments" / "tiny.yaml").read_text()
    folder = extended / "configs" / "experiments"
    folder.mkdir(parents=True)
    looking = "\n  looking:\n    methods: [{easy_cache: {threshold: 0.5, warmup: 2}}]\n"
    (folder / "looking.yaml").write_text(text.rstrip() + looking)
    assert command("run", "looking", *QUICK, "--rows", "plain,looking")[0] == 0
    told = contents.contents(as_recorded(experiment.load("looking").select(["plain", "looking"]), "looking"))[
        "timelines"
    ][1]
    assert told["image"] == "a heart" and told["shares"][0][0] == 1.0, "the first step is always computed"


def test_a_row_that_cannot_be_counted_says_why(reported, outputs):
    for row in ("plain", "cached"):
        fresh_path("tiny", row).unlink()
    assert [set(one) for one in timeline.timelines(reported)] == [{"label", "reason"}] * 2
    assert "names no structure" in timeline.timelines(reported)[0]["reason"]


def test_text_of_the_data_is_never_markup(reported):
    told = contents.contents(reported)
    told["title"] = told["about"] = "</script><script>alert(1)</script><!-- @DATA@ @PROGRAM@"
    text = page.filled(told, "var Plotly = 1;")
    found = Elements(text)
    assert len(found.scripts) == 3
    assert json.loads(found.scripts[0]) == told
    assert "<title>&lt;/script&gt;" in text


def test_the_words_of_the_run_need_not_be_given_again(tiny, reported):
    assert [row.config.steps for row in reported.rows] == [3, 3]
    other = record(row="cached", changed={"steps": 2})
    other.write(fresh_path("tiny", "cached"))
    assert as_recorded(experiment.load("tiny"), "tiny").rows[0].config.steps != 3, "rows were run with different words"


def test_an_experiment_may_be_any_file(tiny, outputs, command, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text((tiny / "configs" / "experiments" / "tiny.yaml").read_text())
    assert command("run", str(file), *QUICK)[0] == 0
    code, out, err = command("report", str(file))
    assert code == 0 and out == f"report: {outputs / 'reports' / 'mine.html'}\n", err
    told = json.loads(Elements((outputs / "reports" / "mine.html").read_text()).scripts[0])
    assert [len(one["shares"][0]) for one in told["timelines"]] == [3, 3], "as many steps as were run"


def test_without_images_the_page_says_so(reported, outputs, command):
    shutil.rmtree(outputs / "images")
    assert command("report", "tiny", "--out", str(outputs / "page.html"))[0] == 0
    told = json.loads(Elements((outputs / "page.html").read_text()).scripts[0])
    assert told["images"] == {"samples": [], "rows": {}, "values": {}}


def test_mistakes_are_one_line(tiny, reported, outputs, refused, command):
    assert "is a folder" in refused("report", "tiny", "--out", str(outputs))
    (outputs / "file").write_text("")
    assert "cannot be written" in refused("report", "tiny", "--out", str(outputs / "file" / "page.html"))
    assert "no records" in refused("report", "spectral")
    [first, *_] = sorted((outputs / "images" / _record("tiny", "plain").images).rglob("00000.png"))
    first.write_bytes(b"no image")
    assert str(first) in refused("report", "tiny")


def _flat(name, macs, value, spread=0.0):
    values = {"row": name, "label": name, "model": "m", "macs_g": macs, "macs_saving": 16 / macs}
    return values | {"paired_lpips": value, "paired_lpips_spread": spread}


@pytest.mark.parametrize(
    ("value", "spread", "verdict"), [(0.05, 0.0, "better"), (0.15, 0.0, "worse"), (0.09, 0.02, "a tie")]
)
def test_sentences(value, spread, verdict):
    rows = [_flat("twenty", 16.0, 0.0), _flat("ten", 8.0, 0.1), _flat("five", 4.0, 0.2)]
    plain = {row["row"] for row in rows}
    rows.append(_flat("cache", 8.0, value, spread))
    [sentence] = summary.sentences(rows, plain, ["paired_lpips"])
    assert "cache saves most: 2.00 times less work than twenty" in sentence
    assert "at about 0.1000" in sentence and f"so it is {verdict}" in sentence
    half_way = summary.beside_plain(_flat("cache", 32**0.5, 0.0), rows, plain, "paired_lpips")
    assert half_way == pytest.approx(0.15), "half way between 4 and 8 in logarithms"
    outside = _flat("cache", 3.0, 0.0)
    assert summary.beside_plain(outside, rows, plain, "paired_lpips") is None
    assert "are not known" in summary.sentences([*rows[:3], outside], plain, ["paired_lpips"])[0]


def test_nothing_to_compare_gives_no_sentence():
    assert summary.sentences([_flat("twenty", 16.0, 0.0)], {"twenty"}, ["paired_lpips"]) == []
    assert summary.sentences([_flat("a", 16.0, 0.0), _flat("b", 8.0, 0.0)], {"a"}, []) == []
    [none] = summary.sentences([_flat("a", 16.0, 0.0), _flat("b", 17.0, 0.0)], {"a"}, ["paired_lpips"])
    assert none == "No row saves work beside a."


def _record(name, row):
    from postdiff.lab.records.record import find

    return find(name, row)


def _image(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def _pixels(uri):
    return _image(uri).convert("RGB").tobytes()


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: chromium)")
def test_the_page_in_a_browser_without_a_network(reported, outputs, command):
    sync_api = pytest.importorskip("playwright.sync_api")
    assert command("report", "tiny")[0] == 0
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            _look(browser.new_context(offline=True, viewport={"width": 1280, "height": 900}).new_page(), outputs)
        finally:
            browser.close()


def _look(tab, outputs: Path):
    trouble = []
    tab.on("console", lambda said: trouble.append(said.text) if said.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("requestfailed", lambda request: trouble.append(request.url[:100]))
    tab.goto((outputs / "reports" / "tiny.html").as_uri())
    labels = lambda: [text.rstrip("*") for text in tab.locator("#rows tbody td:first-child").all_inner_texts()]  # noqa: E731
    assert labels() == ["Plain", "Cached"]
    tab.locator("#rows th").first.click()
    assert labels() == ["Cached", "Plain"]
    tab.locator("#rows th").first.click()
    assert labels() == ["Plain", "Cached"]
    tab.locator("#frontier").scroll_into_view_if_needed()
    place = tab.locator("#chart .scatterlayer .trace").last.locator("path.point").first.bounding_box()
    assert tab.locator("#hovered img").count() == 0
    tab.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    tab.wait_for_selector("#hovered img")
    assert tab.locator("#hovered strong").inner_text() == "Cached"
    assert tab.locator("#hovered img").first.evaluate("image => image.naturalWidth") == 32
    assert tab.locator("#grid img").count() == 4
    tab.check("#difference")
    tab.wait_for_function("document.querySelectorAll('#grid canvas').length === 4")
    pixels = "canvas.getContext('2d').getImageData(0, 0, 32, 32).data"
    summed = f"canvas => {pixels}.filter((_, i) => i % 4 < 3).reduce((a, b) => a + b, 0)"
    tab.wait_for_timeout(300)
    sums = [canvas.evaluate(summed) for canvas in tab.locator("#grid canvas").all()]
    assert sums[:2] == [0, 0] and all(value > 0 for value in sums[2:]), "a row differs from another, not from itself"
    assert tab.locator(".timeline").count() == 2 and tab.locator(".timeline td").count() > 6
    assert not trouble
