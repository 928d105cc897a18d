"""Data that is a mistake: values of data cards, files of prompts, records that are damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from postdiff.lab.data.data_cards import DataCard
from tests.lab.bad import run
from tests.lab.mistakes import HUGE, Mistake, leaves, nested, typed_wrongly, wrong
from tests.lab.test_damaged_records import TEXTS, WHOLE, placed, places

READ = ("schema", "kind", "row", "experiment", "metrics", "n_done", "macs")  # what a table needs of a record
RECORD = "outputs/records/tiny/plain"
PROMPTS = '{"prompt": "a heart"}\n'


def cards() -> Iterator[Mistake]:
    """Every key of a data card with every wrong value."""

    def card(kind: str, text: str) -> Mistake:
        files = {"configs/data/mine.yaml": text, "prompts.jsonl": PROMPTS}
        return Mistake(f"data card: {kind}", run("data=mine"), files)

    for key, kind, optional in leaves(DataCard):
        usual = "" if key == "prompts" else "prompts: HERE/prompts.jsonl\n"
        for value in wrong(kind, optional):
            if key != "summary":
                yield card(f"{key}={value}", usual + nested(key, value, ""))
        yield card(f"typing error in {key}", usual + nested(typed_wrongly(key), "1", ""))
    for text in CARDS:
        yield card(text[:60], text)


OWN = "prompts: HERE/prompts.jsonl\n"
CARDS = (
    *("", "3", "[1]", "prompts: /no/such.jsonl", "prompts: HERE/configs", "prompts: /dev/zero", "prompts: ''"),
    *("prompts: ~nosuchuser/x.txt", "prompts: HERE/prompts.xlsx", f"prompts: /{'x' * 300}/{'y' * 300}.txt"),
    *(OWN + f"column: {name}" for name in ("nosuch", "''", "x" * 5000)),
    *(OWN + f"seed_column: {name}" for name in ("nosuch", "prompt", "''")),
    *(OWN + f"seeds: {seeds}" for seeds in ("[-1]", "[1, 1]", f"[{2**63}]", "[]")),
    *(OWN + f"classes: {number}" for number in ("0", "-1", HUGE, "2000000000")),
    *(OWN + f"condition: {name}" for name in ("cany", "canny", "[canny]", "{name: canny}", "{nam: canny}")),
    *(OWN + f"images: {folder}" for folder in ("/no/such", "HERE/prompts.jsonl", "/dev/null", "~nosuchuser/x")),
    OWN + "source: {kind: captions, file: x.zip}",
    *(f"source: {{{text}}}" for text in ("kind: nosuch", "file: x", "kind: prompts", "kind: captions, file: ../x.zip")),
    *(
        f"source: {{kind: prompts, file: x.txt, {more}}}"
        for more in ("choose: nosuch", "count: 0", "seed: -1", "lines: -4", "url: 'ftp://x'", "md5: zz", "sha256: 3")
    ),
)


def prompts() -> Iterator[Mistake]:
    """Files of prompts."""
    for name, content in PROMPT_FILES:
        words = run(f"data=HERE/prompts{name}")
        yield Mistake(f"prompts: {name} {content[:40]!r}", words, {f"prompts{name}": content})


PROMPT_FILES: tuple[tuple[str, Any], ...] = (
    *((ending, "") for ending in (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".npz", "")),
    *((ending, b"\xff\xfe\x00" * 30) for ending in (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet")),
    *((".jsonl", text) for text in ("{", "[1]", '{"a": 1}', '{"prompt": 3}', '{"prompt": null}', '{"prompt": ["a"]}')),
    *((".jsonl", text) for text in (PROMPTS + "x", '{"prompt": "\\ud800"}', "[" * 100_000, f'{{"prompt": {HUGE}}}')),
    *((".json", text) for text in ("{", "[]", "{}", "3", "[3]", '[{"a": 1}]', "[" * 100_000 + "]" * 100_000)),
    *((".csv", text) for text in ("prompt\n", "a,b\n1,2\n", "prompt,prompt\na,b\n", 'prompt\n"a', "prompt\na,b\n")),
    *((".tsv", text) for text in ("Prompt\n", "x\ty\na\tb\n", "prompt\na\tb\tc\n")),
    *((".txt", text) for text in ("\n\n\n", " \n\t\n", "a\x00b\n")),
)


def records() -> Iterator[Mistake]:
    """A record of the row that a table is to be made of."""
    for name, text in TEXTS.items():
        kind = ".speed" if "time" in name else ""
        yield _damaged(name, f"{RECORD}{kind}.json", text)
    for kind, whole in (("quality", WHOLE["quality"]), ("speed", WHOLE["speed"])):
        file = f"{RECORD}{'.speed' if kind == 'speed' else ''}.json"
        for path in places(whole):
            if path and path[0] in READ and "identity" not in path:
                yield _damaged(f"{kind} {path}", file, json.dumps(placed(whole, path, {"x": [None]})))


def _damaged(kind: str, file: str, text: Any) -> Mistake:
    return Mistake(f"record: {kind}", ("table", "tiny", "--rows", "plain"), {file: text})


def everything() -> list[Mistake]:
    """All of these."""
    return [*cards(), *prompts(), *records()]
