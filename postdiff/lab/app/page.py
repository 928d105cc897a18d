"""Where everything stands on the page; what happens there is in `events`."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import gradio as gr

from postdiff import catalog, presets
from postdiff.engine.errors import UsageError
from postdiff.lab.app.asked import refuse_other_models
from postdiff.lab.app.fields import Form, OptionField
from postdiff.lab.config.schedulers import SCHEDULERS
from postdiff.lab.pipelines import cards
from postdiff.lab.planner.asked import usual_data

__all__ = ["FOLDER", "OWN", "Page", "css", "lay_out", "theme"]

OWN = "the model's own"
WORDS = ("system-ui", "Segoe UI", "Roboto", "sans-serif")  # fonts of the reader's system; others come from a host
CODE = ("ui-monospace", "Menlo", "Consolas", "monospace")
FOLDER = "the folder of a pipeline"
FIRST = ("deepcache",)  # what is chosen at the start


@dataclass
class Page:
    """The page's parts by name, and the panels of methods.

    Attributes:
        forms: of all methods.
        parts: {name: component}.
        panels: {method: what its fields stand in}.
        fields: {method: {option: component}}.
    """

    forms: Sequence[Form]
    parts: dict[str, Any] = field(default_factory=dict)
    panels: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.parts[name]

    @property
    def all_fields(self) -> list[Any]:
        """Fields of all methods, in order."""
        return [each for own in self.fields.values() for each in own.values()]


def theme() -> Any:
    """Colours and fonts; nothing of it comes from another host."""
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=WORDS, font_mono=CODE)


def css() -> str:
    """The style sheet."""
    return resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")


def lay_out(model: str, forms: Sequence[Form]) -> Page:
    """Put everything on the page that is being built.

    Args:
        model: the one that is chosen at first.
        forms: of all methods.
    """
    page = Page(forms)
    parts = page.parts
    gr.HTML(
        "<h1>PostDiff</h1><p>One prompt and seed, with methods and without. Beside them plain fewer steps of no more "
        "work.</p>",
        elem_id="head",
    )
    with gr.Row(elem_id="actions", equal_height=True):
        parts["generate"] = gr.Button("Generate", variant="primary", scale=0, min_width=130, elem_id="generate")
        parts["cancel"] = gr.Button("Cancel", scale=0, min_width=100, elem_id="cancel")
        parts["status"] = gr.HTML(value="", scale=1, min_width=240, min_height=46, elem_id="status")
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=340, elem_id="form"):
            _what(parts, model)
            _plan(parts, model)
            _methods(page)
        with gr.Column(scale=6, min_width=540, elem_id="results"):
            _results(parts)
    parts["order"] = gr.HTML(elem_id="order")
    parts["chosen"] = gr.State(None)
    return page


def _what(parts: dict[str, Any], model: str) -> None:
    models = list(dict.fromkeys([*filter(_runs_here, catalog.names("models")), model]))
    parts["model"] = gr.Dropdown(
        models,
        value=model,
        allow_custom_value=True,
        label="Model",
        info=cards.card(model).summary or FOLDER,
        elem_id="model",
    )
    parts["prompt"] = gr.Textbox("red apple", label="Prompt", lines=2, max_lines=6, elem_id="prompt")
    with gr.Row():
        parts["seed"] = gr.Number(0, label="Seed", min_width=90, elem_id="seed")
        parts["steps"] = gr.Number(20, label="Steps", min_width=90, elem_id="steps")
        parts["guidance"] = gr.Textbox(label="Guidance", placeholder="usual", min_width=120, elem_id="scale")
    with gr.Accordion("Size", open=False), gr.Row():
        parts["height"] = gr.Textbox(label="Height", placeholder="usual", min_width=120, elem_id="height")
        parts["width"] = gr.Textbox(label="Width", placeholder="usual", min_width=120, elem_id="width")


def _runs_here(model: str) -> bool:
    try:
        refuse_other_models(model)
    except UsageError:
        return False
    return True


def _methods(page: Page) -> None:
    parts = page.parts
    labels = [(f"{name}: {presets.preset(name).label}", name) for name in catalog.names("methods")]
    with gr.Group():
        parts["preset"] = gr.Dropdown(
            labels, value=None, label="Preset", info="Fills in what is below", elem_id="preset"
        )
        parts["methods"] = gr.Dropdown(
            [(form.title, form.name) for form in page.forms],
            value=[name for name in FIRST if name in {form.name for form in page.forms}],
            multiselect=True,
            label="Methods",
            info="In their order, the first outermost",
            elem_id="methods",
        )
        with gr.Row():
            parts["own_steps"] = gr.Textbox(
                label="Steps with methods", placeholder="as many", min_width=120, elem_id="own_steps"
            )
            parts["solver"] = gr.Dropdown(
                [OWN, *SCHEDULERS], value=OWN, label="Solver with methods", min_width=160, elem_id="solver"
            )
    with gr.Column(elem_id="panels"):
        for form in page.forms:
            with gr.Accordion(form.title, open=True, visible=form.name in FIRST, elem_id=f"panel-{form.name}") as panel:
                gr.HTML(f"<p class='hint'>{html.escape(form.about)}</p>")
                page.fields[form.name] = {one.name: _field(form.name, one) for one in form.fields}
            page.panels[form.name] = panel


def _field(method: str, one: OptionField) -> Any:
    given: Mapping[str, Any] = {
        "value": one.default,
        "label": one.name,
        "info": one.about or None,
        "elem_id": f"{method}-{one.name}",
    }
    if one.kind == "check":
        return gr.Checkbox(**given)
    if one.kind == "choice":
        return gr.Dropdown(list(one.choices), **given)
    if one.kind in ("whole", "number"):
        return gr.Number(step=1 if one.kind == "whole" else 0.05, **given)
    return gr.Textbox(max_lines=4, **given)


def _plan(parts: dict[str, Any], model: str) -> None:
    with gr.Accordion("Plan for my budget", open=False, elem_id="plan"):
        gr.HTML(
            "<p class='hint'>Looks for the setting nearest to the full run within a budget, and fills it in below. "
            "This takes minutes, unless the settings were tried before.</p>"
        )
        with gr.Row():
            parts["budget"] = gr.Textbox(
                "0.4x", label="Budget of an image", info='0.4x, "12 TMACs" or "1.5 s"', min_width=140, elem_id="budget"
            )
            parts["prompts"] = gr.Number(48, label="Prompts", info="the most to try on", min_width=100)
        parts["data"] = gr.Dropdown(
            catalog.names("data"),
            value=usual_data(model),
            allow_custom_value=True,
            label="Prompts of",
            info="a data set, or a file with a prompt in each line",
            elem_id="data",
        )
        with gr.Row():
            parts["make_plan"] = gr.Button("Plan", elem_id="make_plan")
            parts["stop_plan"] = gr.Button("Stop", elem_id="stop_plan")
        parts["plan_status"] = gr.HTML(min_height=30, elem_id="plan_status")
        parts["answer"] = gr.Markdown(visible=False, elem_id="answer")
        parts["load_plan"] = gr.Button("Load the chosen setting", visible=False, elem_id="load_plan")


def _results(parts: dict[str, Any]) -> None:
    shown: dict[str, Any] = {"format": "png", "interactive": False, "buttons": ["download", "fullscreen"]}
    with gr.Column(visible=False, elem_id="made") as parts["made"]:
        with gr.Tabs():
            with gr.Tab("Slider"):
                parts["slider"] = gr.ImageSlider(
                    label="Full run, left, and accelerated, right", max_height=460, elem_id="slider", **shown
                )
            with gr.Tab("Beside one another"), gr.Row(elem_classes="pictures"):
                parts["full"] = gr.Image(label="Full run", elem_id="image-full", min_width=150, height=280, **shown)
                parts["accelerated"] = gr.Image(
                    label="Accelerated", elem_id="image-accelerated", min_width=150, height=280, **shown
                )
                parts["fewer"] = gr.Image(
                    label="Plain, fewer steps", elem_id="image-fewer", min_width=150, height=280, **shown
                )
            with gr.Tab("Difference"), gr.Row(elem_classes="pictures"):
                parts["difference"] = gr.Image(
                    label="Difference", elem_id="image-difference", min_width=150, height=280, **shown
                )
                parts["fewer_difference"] = gr.Image(
                    label="Difference", elem_id="image-fewer-difference", min_width=150, height=280, **shown
                )
        parts["numbers"] = gr.HTML(elem_id="numbers")
        parts["timeline"] = gr.HTML(elem_id="timeline")
        with gr.Tabs():
            with gr.Tab("Python"):
                parts["python"] = gr.Code(language="python", label="Copy as Python", interactive=False, max_lines=24)
            with gr.Tab("YAML"):
                parts["yaml"] = gr.Code(language="yaml", label="Copy as YAML", interactive=False, max_lines=24)
