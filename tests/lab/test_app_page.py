"""`postdiff app` as a browser shows it: the real server on loopback, driven by the machine's own Chromium."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from postdiff.lab.data.samples import Sample, generator
from postdiff.lab.pipelines import cards, models

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: chromium)"),
]
WAIT = 180_000  # milliseconds; other work may share the machine


@pytest.fixture
def address(tmp_path):
    """Where the page is, served by a process of its own that ends with the test."""
    pytest.importorskip("gradio")
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "postdiff", "app"],
        env={**os.environ, "POSTDIFF_OUTPUTS": str(tmp_path / "outputs")},
        stderr=log,
        stdout=log,
    )
    try:
        until = time.monotonic() + WAIT / 1000
        while not (found := re.search(r"the page is at (http://127\.0\.0\.1:\d+)", (tmp_path / "log").read_text())):
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.2)
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, "it ends politely"
        assert "Traceback" not in (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
        log.close()


class Tab:
    """One page in a browser context of its own, which reaches nothing but this machine."""

    def __init__(self, browser, address):
        self.address, self.trouble = address, []
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.route(
            re.compile(r"^https?://(?!127\.0\.0\.1)"),
            lambda route: (self.trouble.append(route.request.url), route.abort()),
        )
        self.page = context.new_page()
        self.page.set_default_timeout(WAIT)
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.trouble.append(said.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("response", lambda answer: answer.status >= 400 and self.trouble.append(answer.url))
        self.page.goto(address)
        self.page.wait_for_selector("#deepcache-interval input")

    def fill(self, **values):
        for name, value in values.items():
            field = self.page.locator(f"#{name.replace('__', '-')} :is(input, textarea)").first
            field.fill(str(value))
            field.blur()

    @property
    def status(self):
        return self.page.locator("#status").inner_text()

    def wait(self, text):
        until = time.monotonic() + WAIT / 1000
        while not re.search(text, self.status):
            assert time.monotonic() < until, f"waited for '{text}', and the page says '{self.status}'"
            self.page.wait_for_timeout(50)
        return self.status

    def generate(self, text="Done", **values):
        """Fill in, press the button, and give the status that `text` is in."""
        self.fill(**values)
        before = self.page.locator("#numbers").inner_html() if self.page.locator("#numbers").count() else ""
        self.page.click("#generate")
        if text == "Done":
            self.page.wait_for_function(
                "before => (document.querySelector('#numbers') || {innerHTML: before}).innerHTML !== before",
                arg=before,
                timeout=WAIT,
            )
        return self.wait(text)

    def image(self, name):
        """Pixels of a picture, as the server has them."""
        self.page.get_by_role("tab", name="Beside one another").click()
        place = self.page.locator(f"#image-{name} img").first
        place.wait_for()
        answer = self.page.request.get(place.get_attribute("src"))
        return np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB"))


@pytest.fixture
def tabs(address):
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        made = []
        try:
            yield lambda: made.append(Tab(browser, address)) or made[-1]
            assert [tab.trouble for tab in made] == [[]] * len(made)
        finally:
            browser.close()


def stock(prompt, seed, steps):
    """What the stock pipeline draws."""
    pipe = models.load(cards.card("emoji"), "float32", "cpu")
    call = {"num_inference_steps": steps, "guidance_scale": 4.0, "generator": generator(Sample(0, prompt, seed))}
    return np.asarray(pipe(prompt, **call).images[0]).astype(int)


def near(image, other):
    """As rounding leaves it where the numbers of threads differ."""
    return np.abs(image.astype(int) - other).max() <= 2


def test_the_page(tabs):
    tab = tabs()
    _generate(tab)
    _mistakes(tab)
    _prompts(tab)
    _cancel(tab)
    _two_at_once(tab, tabs())
    _plan(tab)


def _generate(tab):
    tab.generate(steps=8, deepcache__interval=4)
    table = tab.page.locator("table.numbers").inner_text()
    assert "share of the ideal" in table and "LPIPS to the full run" in table and "plain, fewer steps" in table
    assert near(tab.image("full"), stock("red apple", 0, 8))
    assert tab.image("accelerated").shape == tab.image("fewer").shape == (64, 64, 3)
    assert not near(tab.image("accelerated"), tab.image("full").astype(int))
    assert tab.page.locator("table.steps tr").count() == 7 and tab.page.locator("#slider img").count() >= 1
    assert "DeepCache(interval=4)" in tab.page.locator("#made").inner_text()
    tab.page.get_by_role("tab", name="Difference").click()
    assert "times amplified" in tab.page.locator("#image-difference").inner_text()
    for width in (1280, 800):
        tab.page.set_viewport_size({"width": width, "height": 900})
        assert tab.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
    tab.page.set_viewport_size({"width": 1280, "height": 900})


def _mistakes(tab):
    for field, value, good, message in (
        ("deepcache-interval", 0, 2, "interval=0 must be 1 or more"),
        ("deepcache-interval", "", 2, "interval is empty"),
        ("steps", 0, 4, "steps=0 is too small"),
        ("seed", -1, 0, "seed=-1 must be"),
        ("scale", "much", "", "guidance=much is no number"),
        ("prompt", "", "red apple", "the prompt is empty"),
        ("model", "nothing", "emoji", "unknown model 'nothing'"),
    ):
        name = field.replace("-", "__")
        tab.generate(re.escape(message), **{name: value})
        assert "Traceback" not in tab.page.locator("body").inner_text()
        tab.fill(**{name: good})


def _prompts(tab):
    assert "reads 16 of the prompt's" in tab.generate(steps=2, prompt="red apple " * 500)
    tab.generate(prompt="🍎 <script>alert('🍎')</script>")
    assert "alert('🍎')" in tab.page.locator("#made").inner_text(), "text is never markup"
    tab.fill(prompt="red apple")


def _cancel(tab):
    tab.fill(steps=500)
    tab.page.click("#generate")
    tab.wait("step [0-9]+ of 500")
    tab.page.click("#cancel")
    tab.wait("Cancelled")
    assert near((tab.generate(steps=3, seed=5), tab.image("full"))[1], stock("red apple", 5, 3))


def _two_at_once(tab, other):
    tab.fill(steps=80, seed=1)
    other.fill(steps=4, seed=2, prompt="blue heart")
    tab.page.click("#generate")
    tab.wait("step [0-9]+ of 80")
    other.page.click("#generate")
    other.wait("Waiting, 1 before this one")
    other.page.click("#cancel")
    other.wait("Cancelled")
    other.page.click("#generate")
    other.wait("Waiting, 1 before this one")
    tab.wait("Done")
    other.wait("Done")
    assert near(tab.image("full"), stock("red apple", 1, 80))
    assert near(other.image("full"), stock("blue heart", 2, 4))


def _plan(tab):
    tab.page.click("text=Plan for my budget")
    tab.fill(steps=20, budget="much")
    tab.page.click("#make_plan")
    tab.page.wait_for_function("document.querySelector('#plan_status').innerText.includes('no number with a unit')")
    tab.fill(budget="0.4x")  # of records that ship
    tab.page.click("#make_plan")
    tab.page.click("#load_plan")
    assert "Within 0.4x take" in tab.page.locator("#answer").inner_text()
    tab.page.wait_for_function("document.querySelector('#own_steps :is(input, textarea)').value !== ''")
    tab.generate(seed=0)
