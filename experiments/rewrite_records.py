"""Give records of earlier versions today's keys, without a change to a number or an id.

    python experiments/rewrite_records.py [FOLDER ...]

The default is the folder of committed records. Records of your own are in `outputs/records`. A record that has
today's keys is left as it is, so that nothing happens the second time.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

COMMITTED = Path(__file__).parent / "records"
TOP = {"pictures": "images", "figures": "values"}
CONFIG = {"mirror": "logger"}
LOGGER = {"pictures": "images"}
IDENTITY = {"real_pictures": "reference_images"}


def rewritten(record: dict[str, Any]) -> dict[str, Any]:
    """A record with today's keys, in their old order.

    Raises:
        ValueError: it has a key in both spellings.
    """
    found = _renamed(record, TOP)
    if isinstance(config := found.get("config"), dict):
        found["config"] = config = _renamed(config, CONFIG)
        if isinstance(config.get("logger"), dict):
            config["logger"] = _renamed(config["logger"], LOGGER)
    if isinstance(metrics := found.get("metrics"), dict):
        found["metrics"] = {name: _metric(value) for name, value in metrics.items()}
    return found


def _metric(value: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get("identity"), dict):
        return value
    return {**value, "identity": _renamed(value["identity"], IDENTITY)}


def _renamed(content: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    for old, new in names.items():
        if old in content and new in content:
            raise ValueError(f"has both '{old}' and '{new}'")
    return {names.get(key, key): value for key, value in content.items()}


def main(words: list[str] | None = None) -> int:
    """Rewrite every record below the folders; gives the exit code, 1 if one could not be rewritten."""
    parser = argparse.ArgumentParser(description="Give records of earlier versions today's keys.")
    parser.add_argument("folders", nargs="*", type=Path, default=[COMMITTED], metavar="FOLDER")
    changed, failed = 0, 0
    for file in sorted(file for folder in parser.parse_args(words).folders for file in folder.rglob("*.json")):
        text = file.read_text()
        try:
            content = json.loads(text)
            new = rewritten(content) if isinstance(content, dict) and "kind" in content else content
        except ValueError as error:
            print(f"{file}: left as it is: {error}", file=sys.stderr)
            failed = 1
            continue
        if new != content:
            file.write_text(json.dumps(new, indent=1, allow_nan=False) + "\n")
            changed += 1
    print(f"{changed} records rewritten")
    return failed


if __name__ == "__main__":
    sys.exit(main())
