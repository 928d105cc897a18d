"""The page: one HTML file with its data, its style, its program and the charting library inside."""

from __future__ import annotations

import html
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.files import folders
from postdiff.lab.report.contents import contents

__all__ = ["filled", "write"]


def write(experiment: Experiment, file: Path | None = None) -> Path:
    """Write the report of an experiment.

    Args:
        experiment: which rows.
        file: where to; `outputs/reports/<experiment>.html` if None.

    Returns:
        The file.

    Raises:
        UsageError: no records, an image that cannot be read, plotly is missing, or the file cannot be written.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UsageError("a report needs plotly; install it with pip install 'postdiff[lab]'") from error
    file = file or folders.outputs() / "reports" / f"{experiment.name}.html"
    if file.is_dir():
        raise UsageError(f"{file} is a folder; name a file for the report, for instance {file / 'report.html'}")
    text = filled(contents(experiment), get_plotlyjs())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with folders.atomic_write(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written ({error.strerror or error}); name another with --out") from error
    return file


def filled(content: dict[str, Any], library: str) -> str:
    """The page's text. No part of it is looked for elsewhere, and no data is read as markup or program.

    Args:
        content: as of `contents`.
        library: the charting library's JavaScript.
    """
    own = resources.files(__package__)
    parts = {
        "TITLE": html.escape(content["title"]),
        "STYLE": own.joinpath("page.css").read_text(encoding="utf-8"),
        # A closing tag within would end the element; JSON may spell "<" otherwise.
        "DATA": json.dumps(content, allow_nan=False).replace("<", "\\u003c"),
        "LIBRARY": library,
        "PROGRAM": own.joinpath("page.js").read_text(encoding="utf-8"),
    }
    # In one go: what is put in is not searched.
    return re.sub("@([A-Z]+)@", lambda mark: parts[mark[1]], own.joinpath("page.html").read_text(encoding="utf-8"))
