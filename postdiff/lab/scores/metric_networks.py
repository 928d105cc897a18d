"""What stands behind a metric with options: its network, from where options or environment say, and real pictures."""

from __future__ import annotations

from typing import Any

from postdiff.lab.metrics import references
from postdiff.metrics import MetricInfo, find
from postdiff.metrics.checkpoints import CLIP, CMMD, hash_of
from postdiff.metrics.extractor import Extractor

__all__ = ["arguments", "extractor", "extractor_mark", "marks"]


def extractor(mode: str, place: str | None) -> Extractor:
    """The network that gives features in a mode: clip for CLIP, else clean-fid's modes.

    Raises:
        UsageError: its files are missing or of another kind.
    """
    from postdiff.metrics import clip_model, extractors

    return clip_model.load(place, CMMD) if mode == "clip" else extractors.load(mode, place)


def extractor_mark(mode: str, place: str | None) -> str | None:
    """Which weights `extractor` would read; None if there are none."""
    from postdiff.metrics import clip_model, extractors

    if mode == "clip":
        return clip_model.mark(place, CMMD)
    file = extractors.file_of(mode, place)
    return None if file is None else hash_of(file)


def marks(info: MetricInfo, options: Any, data: str) -> list[str | None]:
    """Hashes of what a metric with options rests on, without loading it; None for what is missing."""
    if info.network is None:
        return []
    if info.network == "clip":
        from postdiff.metrics import clip_model

        return [clip_model.mark(options.model, CLIP)]
    if info.network in ("lpips", "dists"):
        from postdiff.metrics import perceptual

        file = perceptual.weights_place(getattr(options, "net", "vgg"), options.weights)
        return [hash_of(file) if file.is_file() else None]
    mode, place = _mode(info, options), _place(options)
    mark = extractor_mark(mode, place)
    if not info.real:
        return [mark]
    found = None if mark is None else references.present(options.reference or data, mode, mark, options.crop)
    return [mark, None if found is None else references.mark(found)]


def arguments(name: str, options: Any, data: str, resamples: int) -> dict[str, Any]:
    """What the class of a metric with options is built from.

    Raises:
        UsageError: weights or reference statistics are missing or do not fit.
    """
    info = find(name)
    if info.network == "clip":
        from postdiff.metrics import clip_model

        return {"clip": clip_model.load(options.model, CLIP), "options": options}
    if info.network in ("lpips", "dists"):
        return {"options": options}
    mode, place = _mode(info, options), _place(options)
    network = extractor(mode, place)
    found: dict[str, Any] = {"extractor": network, "resamples": resamples}
    if info.real:
        found["real"] = references.find(name, options.reference or data, network, place, options.crop)
    # A Frechet distance and CMMD have nothing else to set.
    if hasattr(options, "seed"):
        found["options"] = options
    return found


def _mode(info: MetricInfo, options: Any) -> str:
    if info.network == "cmmd":
        return "clip"
    return str(options.mode if info.network == "mode" else info.network)


def _place(options: Any) -> str | None:
    return options.model if hasattr(options, "model") else options.extractor
