"""A speed record as flat values: times, speed-ups, how much of the saved work became time, other code beside it."""

from __future__ import annotations

from typing import Any

from postdiff.cost.ratios import ratio
from postdiff.lab.records.record import Record

__all__ = ["speed_values"]


def speed_values(record: Record | None, first: Record | None) -> dict[str, Any]:
    """Flat values of one row.

    Keys: time_s, time_q25_s, time_q75_s (an image), loop_s (of it, the denoising loop), images_per_s, speedup and
    loop_speedup over `first`, each with `_q25` and `_q75` over rounds, ideal (the ratio of the denoiser's MACs, both
    attention products counted), realised (the loop's speed-up, or where the loop was not timed apart the whole call's,
    over ideal), time_batch_size, time_rounds, time_limit_s (null without `bench.seconds`), peak_memory_mb (10^6 bytes,
    a call), time_device, random_weights, finite (whether its images are numbers throughout), and where other code
    was timed official (its name), official_time_s, official_ratio (its time over ours) with `_q25` and `_q75`,
    official_loop_ratio and official_difference (largest difference between the images of both).

    Args:
        record: the row's; None gives no values.
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
        "images_per_s": 1 / time["median_s"],
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
        for name, rounds in (("speedup", "rounds_s"), ("loop_speedup", "loop_rounds_s")):
            theirs, ours = first.latency.get(rounds), time.get(rounds)
            if theirs and ours and len(theirs) == len(ours):
                faster = ratio(theirs, ours)
                found |= {name: faster.median, f"{name}_q25": faster.q25, f"{name}_q75": faster.q75}
    before, after = first and first.denoiser_macs("all"), record.denoiser_macs("all")
    found["ideal"] = ideal = before / after if before and after else None
    speedup = found.get("loop_speedup") or found.get("speedup")
    found["realised"] = speedup / ideal if speedup and ideal else None
    if official := time.get("official", {}):
        names = ("ratio", "ratio_q25", "ratio_q75", "loop_ratio", "difference")
        found |= {f"official_{name}": official[name] for name in names if name in official}
        found |= {"official": official["name"], "official_time_s": official["median_s"]}
    return found
