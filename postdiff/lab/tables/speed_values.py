"""A speed record as flat figures: times, speed-ups, how much of the saved work became time, other code beside it."""

from __future__ import annotations

from typing import Any

from postdiff.cost.ratios import Latency, ratio
from postdiff.lab.records.record import Record

__all__ = ["speed_figures"]


def speed_figures(record: Record | None, first: Record | None) -> dict[str, Any]:
    """Flat figures of one row.

    Keys: time_s, time_q25_s, time_q75_s (a picture), loop_s (of it, the denoising loop), pictures_per_s, speedup and
    loop_speedup over `first`, each with `_q25` and `_q75` over rounds, ideal (the ratio of the denoiser's MACs, both
    attention products counted), realised (the loop's speed-up, or where the loop was not timed apart the whole call's,
    over ideal), time_batch_size, time_rounds, time_limit_s (null without `bench.seconds`), peak_memory_mb (10^6 bytes,
    a call), time_device, random_weights, finite (whether its pictures are numbers throughout), and where other code
    was timed official (its name), official_time_s, official_ratio (its time over ours) with `_q25` and `_q75`,
    official_loop_ratio and official_difference (largest difference between the pictures of both).

    Args:
        record: the row's; None gives no figures.
        first: what it is compared with. Only times taken in the same turns are compared: a ratio of others would
            measure the machine's mood.
    """
    if record is None:
        return {}
    time = record.latency
    found: dict[str, Any] = {
        "time_s": time["median_s"],
        "time_q25_s": time["q25_s"],
        "time_q75_s": time["q75_s"],
        "loop_s": time.get("loop", {}).get("median_s"),  # records of older runs have none, and no rounds
        "pictures_per_s": 1 / time["median_s"],
        "time_batch_size": time["batch_size"],
        "time_rounds": time.get("repeats"),
        "time_limit_s": time.get("seconds"),
        "peak_memory_mb": time.get("peak_memory_mb"),
        "time_device": record.device,
        "random_weights": record.checkpoint.startswith("random:"),
        "finite": time.get("finite"),
        "speedup": None,
    }
    if first is not None and first.latency.get("session") == time["session"]:
        found["speedup"] = first.latency["median_s"] / time["median_s"]
        found |= _spread("speedup", _faster(first, record, "rounds_s"))
        found |= _spread("loop_speedup", _faster(first, record, "loop_rounds_s"))
    found["ideal"] = ideal = _saving(first, record)
    speedup = found.get("loop_speedup") or found.get("speedup")
    found["realised"] = speedup / ideal if speedup and ideal else None
    official = time.get("official", {})
    for name in ("ratio", "ratio_q25", "ratio_q75", "loop_ratio", "difference"):
        if name in official:
            found[f"official_{name}"] = official[name]
    if official:
        found |= {"official": official["name"], "official_time_s": official["median_s"]}
    return found


def _faster(first: Record, own: Record, rounds: str) -> Latency | None:
    one, other = first.latency.get(rounds), own.latency.get(rounds)
    return ratio(one, other) if one and other and len(one) == len(other) else None


def _spread(name: str, found: Latency | None) -> dict[str, float]:
    return {name: found.median, f"{name}_q25": found.q25, f"{name}_q75": found.q75} if found else {}


def _saving(first: Record | None, own: Record) -> float | None:
    one, other = (record.macs.get("denoiser", {}).get("all") if record else None for record in (first, own))
    return one / other if one and other else None
