"""What happens when something on the page is changed or pressed."""

from __future__ import annotations

import html
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from postdiff.engine.errors import UsageError
from postdiff.lab.app import budget, fields, numbers, reading, written
from postdiff.lab.app.asked import Asked
from postdiff.lab.app.generation import Comparison, Engine, Progress
from postdiff.lab.app.page import FOLDER, OWN, Page
from postdiff.lab.app.sessions import Sessions, Stopped
from postdiff.lab.pipelines import cards
from postdiff.lab.planner.asked import PlanOptions, usual_data

__all__ = ["connect"]

# In the order in which they are handed over, before the fields of all methods.
VALUES = ("model", "prompt", "seed", "steps", "guidance", "height", "width", "own_steps", "solver", "methods")
RESULTS = (
    *("made", "slider", "full", "accelerated", "fewer", "difference", "fewer_difference"),
    *("numbers", "timeline", "python", "yaml"),
)
SMALL = 256  # pixels a side, below which pixels are shown as squares
Explain = Callable[[Exception], str]


def connect(blocks: Any, page: Page, engine: Engine, sessions: Sessions, explain: Explain) -> None:
    """Tie the parts of the page to what they do.

    Args:
        blocks: the page that is being built.
        page: what is laid out on it.
        engine: makes comparisons.
        sessions: who is looking at the page.
        explain: gives the one line for an error.
    """
    events = _Events(page, engine, sessions, explain)
    inputs = [page[name] for name in VALUES] + page.all_fields
    results = [page["status"], *(page[name] for name in RESULTS)]
    # `Sessions` keeps the line, and a second press replaces the first.
    long: dict[str, Any] = {"concurrency_limit": None, "trigger_mode": "multiple", "api_visibility": "private"}
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    page["generate"].click(events.generate, inputs, results, show_progress_on=page["status"], **long)
    page["cancel"].click(events.cancel, None, page["status"], **quick)
    page["methods"].change(events.show_panels, page["methods"], [page["order"], *page.panels.values()], **quick)
    fill = [page["methods"], *page.all_fields]
    page["preset"].input(events.load_preset, page["preset"], [page["status"], *fill], **quick)
    page["model"].change(events.about_model, page["model"], [page["model"], page["data"]], **quick)
    page["make_plan"].click(
        events.plan,
        [page[name] for name in ("model", "budget", "data", "prompts", "steps", "guidance", "height", "width")],
        [page["plan_status"], page["answer"], page["load_plan"], page["chosen"]],
        show_progress_on=page["plan_status"],
        **long,
    )
    page["stop_plan"].click(events.stop_plan, None, page["plan_status"], **quick)
    blocks.unload(events.leave)
    page["load_plan"].click(
        events.load_plan,
        page["chosen"],
        [page["status"], page["steps"], page["own_steps"], page["solver"], *fill],
        **quick,
    )


class _Events:
    def __init__(self, page: Page, engine: Engine, sessions: Sessions, explain: Explain) -> None:
        self.page, self._engine, self._sessions, self._explain = page, engine, sessions, explain

    def generate(self, request: gr.Request, *given: Any) -> Iterator[list[Any]]:
        """Make a comparison; status and results as they come."""
        same = [gr.skip() for _ in RESULTS]
        with self._sessions.working(request.session_hash, "comparison") as stop:
            try:
                asked = self._asked(given)
                for place in self._sessions.before(stop):
                    yield [_waiting(place), *same]
                for news in _compared(self._engine, asked, stop):
                    if isinstance(news, Progress):
                        yield [numbers.said(news), *same]
                    else:
                        yield [_notes(news), *_results(news)]
            except Stopped:
                yield [_wrong("Cancelled.", toast=False), *same]
            except Exception as error:
                yield [_wrong(self._explain(error)), *same]

    def cancel(self, request: gr.Request) -> str:
        """End this session's comparison, running or waiting."""
        return _cancelled(self._sessions.stop(request.session_hash, "comparison"))

    def stop_plan(self, request: gr.Request) -> str:
        """End this session's plan, running or waiting."""
        return _cancelled(self._sessions.stop(request.session_hash, "plan"))

    def leave(self, request: gr.Request) -> None:
        """End what runs for a session whose page is closed."""
        self._sessions.leave(request.session_hash)

    def show_panels(self, names: Sequence[str]) -> list[Any]:
        """Panels of the chosen methods, in their order."""
        places = "".join(f"#panel-{name} {{ order: {place} }}" for place, name in enumerate(names))
        shown = []
        for form in self.page.forms:
            place = f"{names.index(form.name) + 1}. " if form.name in names and len(names) > 1 else ""
            shown.append(gr.Accordion(label=place + form.title, visible=form.name in names))
        return [f"<style>{places}</style>", *shown]

    def load_preset(self, name: str | None) -> list[Any]:
        """A preset's stack in the panels."""
        if not name:
            return self._left()
        try:
            return ["", *self._filled([name])]
        except UsageError as error:
            return [_wrong(str(error)), *self._left()[1:]]

    def about_model(self, name: str | None) -> list[Any]:
        """What the card says of the model, and the prompts that a plan takes for it."""
        try:
            return [gr.Dropdown(info=cards.card(str(name)).summary or FOLDER), usual_data(str(name))]
        except UsageError as error:
            return [gr.Dropdown(info=str(error)), gr.skip()]

    def plan(self, request: gr.Request, *given: Any) -> Iterator[list[Any]]:
        """Run `postdiff plan`; its lines as they come, then table and sentence."""
        same = [gr.skip() for _ in range(3)]
        model, amount, data, prompts, steps, guidance, height, width = given
        with self._sessions.working(request.session_hash, "plan") as stop:
            try:
                count = reading.whole("prompts", prompts)
                count = PlanOptions.prompts if count is None else count
                data = str(data or usual_data(str(model)))
                options = PlanOptions(str(model or ""), str(amount or ""), data, prompts=count)
                settings = {
                    "steps": reading.whole("steps", steps),
                    "guidance_scale": reading.number("guidance", guidance),
                }
                settings |= {"height": reading.whole("height", height), "width": reading.whole("width", width)}
                words, file = budget.words(options, settings)
                for place in self._sessions.before(stop):
                    yield [_waiting(place), *same]
                yield [numbers.said(Progress("planning")), gr.skip(), gr.Button(visible=False), None]
                answer: list[str] = []
                for line in budget.plan(words, stop):
                    if line is None:
                        continue
                    if line.answer:
                        answer.append(line.text)
                    elif line.text.strip():
                        yield [numbers.said(Progress(line.text.removeprefix("postdiff: "))), *same]
                chosen = budget.chosen(file)
                yield ["", gr.Markdown(budget.told(answer), visible=True), gr.Button(visible=True), chosen]
            except Stopped:
                yield [_wrong("Stopped.", toast=False), *same]
            except Exception as error:
                yield [_wrong(self._explain(error)), *same]

    def load_plan(self, chosen: budget.Chosen | None) -> list[Any]:
        """The chosen setting in the panels."""
        if chosen is None:
            return [_wrong("There is no plan yet."), gr.skip(), gr.skip(), gr.skip(), *self._left()[1:]]
        try:
            filled = self._filled(chosen.methods)
        except UsageError as error:
            return [_wrong(str(error)), gr.skip(), gr.skip(), gr.skip(), *self._left()[1:]]
        own = None if chosen.steps == chosen.full else chosen.steps
        return ["", chosen.full, own, chosen.scheduler or OWN, *filled]

    def _filled(self, specs: Sequence[Any]) -> list[Any]:
        """The names of a stack, and what all fields show; those of other methods stay."""
        stack = fields.stack_of(specs)
        shows = reading.panels(stack, self.page.forms)
        values = [
            shows[form.name][one.name] if form.name in shows else gr.skip()
            for form in self.page.forms
            for one in form.fields
        ]
        return [[name for name, _ in stack], *values]

    def _left(self) -> list[Any]:
        """Nothing changes: status, methods and all fields."""
        return [gr.skip()] * (2 + len(self.page.all_fields))

    def _asked(self, given: Sequence[Any]) -> Asked:
        values = dict(zip(VALUES, given, strict=False))
        values["solver"] = None if values["solver"] in (None, OWN) else values["solver"]
        rest = iter(given[len(VALUES) :])
        options = {form.name: {one.name: next(rest) for one in form.fields} for form in self.page.forms}
        return reading.asked(values, options, self.page.forms)


def _compared(engine: Engine, asked: Asked, stop: threading.Event) -> Iterator[Progress | Comparison]:
    """A comparison in a thread of its own; whoever leaves this early ends it, and waits until it is over."""
    news: queue.SimpleQueue[Progress | Comparison | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            news.put(engine.compare(asked, news.put, stop))
        except BaseException as error:
            news.put(error)

    thread = threading.Thread(target=work, name="comparison")
    thread.start()
    try:
        while True:
            latest = news.get()
            while isinstance(latest, Progress) and not news.empty():
                latest = news.get()
            if isinstance(latest, BaseException):
                raise latest
            yield latest
            if isinstance(latest, Comparison):
                return
    finally:
        stop.set()
        thread.join()


def _results(made: Comparison) -> list[Any]:
    full, own, fewer = made.full.image, made.accelerated.image, made.fewer.image if made.fewer else None
    difference, times = numbers.amplified(own, full)
    pictures: dict[str, Any] = {"elem_classes": ["squares"] if max(full.shape[-2:]) < SMALL else []}
    beside, beside_times = (None, 1) if fewer is None else numbers.amplified(fewer, full)
    name = f"{made.fewer.plan.config.steps} plain steps" if made.fewer else ""
    return [
        gr.Column(visible=True),
        gr.ImageSlider((numbers.picture(full), numbers.picture(own)), **pictures),
        gr.Image(numbers.picture(full), label=f"Full run, {made.full.plan.config.steps} steps", **pictures),
        gr.Image(numbers.picture(own), **pictures),
        gr.Image(None if fewer is None else numbers.picture(fewer), label=name, visible=fewer is not None, **pictures),
        gr.Image(difference, label=f"Accelerated and full run, {times} times amplified", **pictures),
        gr.Image(
            beside, label=f"{name} and full run, {beside_times} times amplified", visible=fewer is not None, **pictures
        ),
        numbers.table(made),
        numbers.steps(made),
        written.as_python(made),
        written.as_yaml(made),
    ]


def _waiting(place: int) -> str:
    return numbers.said(Progress(f"Waiting, {place} before this one"))


def _notes(made: Comparison) -> str:
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in made.notes)
    return '<div class="state">Done.</div>' + (f'<ul class="notes">{notes}</ul>' if notes else "")


def _wrong(line: str, toast: bool = True) -> str:
    """A line that stays in the status, and is seen wherever the page is scrolled to."""
    safe = html.escape(line, quote=False)
    if toast:
        gr.Warning(safe, title="Not done", duration=6)
    return f'<div class="state wrong">{safe}</div>'


def _cancelled(running: bool) -> str:
    return _wrong("Cancelled." if running else "Nothing runs here any more.", toast=False)
