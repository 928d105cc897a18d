"""Files of prompts in every format, and the mistakes in them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from postdiff.datasets import files
from postdiff.datasets.lines import LONGEST, Line
from postdiff.engine.errors import UsageError

WORDS = ["a red heart", 'a "quoted", long prompt', "naïve café ☕ 猫"]


def written(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def parquet(tmp_path):
    file = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"pixels": [b"\x00", b"\x01", b"\x02"], "caption": WORDS}), file)
    return file


QUOTED = [word.replace('"', '""') for word in WORDS]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "\n".join(WORDS) + "\n\n"),
        ("p.txt", "\r\n".join(WORDS)),
        ("p.txt", "\ufeff" + "\n".join(WORDS)),
        ("p.txt", "\r".join(WORDS)),
        ("p.txt", "\r\r\n".join(WORDS) + "\r\r\n"),
        ("p.txt", "\ufeff\ufeff\n\n" + "\n \n\t\n\ufeff\n".join(f"  {word} " for word in WORDS) + "\n\n"),
        ("p.csv", "number,Prompt\r\n" + "".join(f'{i},"{word}"\r\n' for i, word in enumerate(QUOTED))),
        ("p.csv", "\ufeffPrompts,Category\n" + "".join(f'"{word}",Colours\n' for word in QUOTED)),
        # Tabs part fields, so quotes inside one are just quotes, and those around one are a spreadsheet's.
        ("p.tsv", f'Prompt\tCategory\tNote\n{WORDS[0]}\tx\t\n"{QUOTED[1]}"\tx\t\n{WORDS[2]}\tx\t""\n'),
        ("p.csv", "prompt,note\r" + "".join(f'"{word}",\r,\r\r' for word in QUOTED)),
        ("p.tsv", f"Prompt\n{WORDS[0]}\n{WORDS[1]}\n{WORDS[2]}\n"),
        ("p.tsv", "\ufeffPrompt\tNote\r\n" + "\t\r\n\t\r\n".join(WORDS) + "\t\r\n"),
        ("p.jsonl", "".join(json.dumps({"text": word}) + "\n\n" for word in WORDS)),
        ("p.jsonl", "".join(json.dumps({"prompt": word}, ensure_ascii=False) + "\n" for word in WORDS)),
        ("p.jsonl", "\ufeff" + "\r\n\r\n".join(json.dumps({"prompt": word}) for word in WORDS)),
        ("p.ndjson", "\n\ufeff".join(json.dumps({"prompt": word}) for word in WORDS)),
        ("p.json", json.dumps(WORDS, indent=1)),
        ("p.json", "\ufeff" + json.dumps(WORDS).replace("\n", "\r\n") + "\r\n"),
        ("p.json", json.dumps([{"prompt": word, "caption": "other"} for word in WORDS])),
        ("p.json", "".join(json.dumps({"prompt": word}) + "\n" for word in WORDS)),
    ],
)
def test_every_format_gives_the_same_lines(tmp_path, name, content):
    assert files.read(written(tmp_path, name, content)) == [Line(str(i), word) for i, word in enumerate(WORDS)]


def test_any_parquet_table_with_prompts(tmp_path):
    assert [line.prompt for line in files.read(parquet(tmp_path))] == WORDS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", 'prompt\n""\na\n'),
        ("p.csv", "id,prompt\n0,\n1,a\n"),
        ("p.tsv", 'prompt\n""\na\n'),
        ("p.tsv", "prompt\tnote\n\tx\na\tx\n"),
        ("p.jsonl", '{"prompt": ""}\n{"prompt": "a"}\n'),
        ("p.json", '["", "a"]'),
    ],
)
def test_the_empty_prompt_is_one_where_it_is_written(tmp_path, name, content):
    assert [line.prompt for line in files.read(written(tmp_path, name, content))] == ["", "a"]


def test_blank_lines_count_in_messages_and_not_among_prompts(tmp_path):
    with_blanks = files.read(written(tmp_path, "p.txt", "\n\none\n\n\ntwo\n"))
    assert with_blanks == files.read(written(tmp_path, "p.txt", "one\ntwo")) == [Line("0", "one"), Line("1", "two")]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json"])
def test_columns_in_any_language(tmp_path, ending):
    values = {"番号": "1", "プロンプト": "赤いハート", "種": "7"}
    separator = "," if ending == ".csv" else "\t"
    table = "\n".join(separator.join(row) for row in (values, values.values()))
    content = table if ending in (".csv", ".tsv") else json.dumps([values] if ending == ".json" else values)
    file = written(tmp_path, f"猫{ending}", content)
    assert files.read(file, "プロンプト", seeds="種") == [Line("0", "赤いハート", seed=7)]
    with pytest.raises(UsageError, match="has no column or key 'prompt', but '番号', 'プロンプト', '種'; rename one"):
        files.read(file)


def test_separators_that_only_python_splits_at_stay_inside_prompts(tmp_path):
    odd = "one\u2028two\x85three"
    file = written(tmp_path, "p.jsonl", json.dumps({"prompt": odd}, ensure_ascii=False))
    assert [line.prompt for line in files.read(file)] == [odd]


def test_ids_images_and_classes_are_read_where_wanted(tmp_path):
    file = written(tmp_path, "p.csv", "id,prompt,image,class\nx,tench,a/0.png,7\ny,carp,1.png,3\n")
    assert files.read(file) == [Line("x", "tench"), Line("y", "carp")]
    assert files.read(file, "image", images=True, classes=8) == [
        Line("x", "a/0.png", "a/0.png", 7),
        Line("y", "1.png", "1.png", 3),
    ]


LONG = "word " * 1000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"a heart\n\xff\xfe", r"is not UTF-8 \(byte 0xff in line 2\); save it as UTF-8"),
        ("p.txt", "a heart".encode("utf-16"), "is not UTF-8"),
        ("p.txt", "a\0h\0e\0", "is not UTF-8 but looks like UTF-16"),
        ("p.csv", "prompt\nnaïve\n".encode("utf-16-be"), "is not UTF-8 but looks like UTF-16"),
        ("p.json", '["猫"]'.encode("utf-16"), "is not UTF-8 but UTF-16; save it as UTF-8"),
        ("p.tsv", "prompt\n猫\n".encode("utf-32"), "is not UTF-8 but UTF-32; save it as UTF-8"),
        ("p.txt", b"one\ntwo\n" + bytes(500), "ends in 500 NUL bytes, so it was not written whole; copy it again"),
        (
            "p.jsonl",
            b'{"prompt": "one"}\n{"prompt": "a\0b"}\n',
            "is no text \\(a NUL byte in line 2\\); save it as UTF-8",
        ),
        ("p.txt", "", "holds no prompts"),
        ("p.txt", " \n\n", "holds no prompts"),
        ("p.txt", f"one\n\n{LONG}\n", f"line 3: the prompt has 4999 characters, more than {LONGEST}.*shorten it"),
        ("p.csv", "prompt\n", "holds no prompts"),
        ("p.csv", "prompt,note\na red, round heart,x\n", "line 2 has 3 fields, and the header 2 columns; put quotes"),
        ("p.csv", 'prompt\n"never closed\n', r"line 2 is not CSV \(.*\); mend its quotes"),
        ("p.csv", "prompt,prompt\na,b\n", "two columns are called 'prompt'"),
        ("p.csv", "name,words\na,b\n", "has no column or key 'prompt', but 'name', 'words'; rename one"),
        ("p.csv", "id,prompt\n1,a\n1,b\n", "two lines have the id '1'; give each line its own"),
        ("p.csv", "id,prompt\n1,a\n2,  \n", "line 3: the prompt is nothing but white space; write one, or"),
        ("p.json", '["a", " \\n"]', "item 2: the prompt is nothing but white space"),
        ("p.json", "[null]", "item 1 is no JSON object"),
        ("p.jsonl", '{"prompt": null}', "line 1: the prompt must be text, not 'None'"),
        ("p.jsonl", '{"prompt": NaN}', "line 1: the prompt must be text, not 'nan'"),
        ("p.jsonl", '{"prompt": [[[["a"]]]]}', "line 1: the prompt must be text, not '\\[\\[\\[...\\]\\]\\]'"),
        ("p.jsonl", '{"prompt": %s}' % ("9" * 5000), "line 1 holds a number of more than 4,300 digits; mend it"),
        ("p.json", "[%s]" % ("9" * 5000), "p.json holds a number of more than 4,300 digits; mend it"),
        ("p.jsonl", '{"prompt": "a"}\n' + "[" * 100_000, "p.jsonl, line 2 is nested too deep|not JSON at line 2"),
        ("p.jsonl", '{"prompt": "a", "id": [1]}', "line 1: id \\[1\\] is no name; use numbers, or text of"),
        ("p.jsonl", '{"prompt": "a", "id": true}', "line 1: id True is no name"),
        ("p.jsonl", '{"prompt": "a", "id": NaN}', "line 1: id nan is no name"),
        ("p.jsonl", '{"prompt": "a", "id": "\\ud800"}', "line 1: id '\\\\ud800' is no name"),
        ("p.jsonl", '{"prompt": "a", "id": "%s"}' % ("x" * 5000), "line 1: id 'xxxxx.*' is no name"),
        ("p.tsv", "prompt" + "\t" * 20_000, "has 20,001 columns, more than 10,000"),
        ("p.csv", "prompt" + "," * 20_000, "has 20,001 columns, more than 10,000"),
        (
            "p.csv",
            "prompt\n" + "x" * 200_000,
            r"line 2 is not CSV \(field larger than field limit .*\); mend its quotes",
        ),
        (
            "p.csv",
            ",".join(f"column {i}" for i in range(500)) + "\na" + "," * 499,
            "but 'column 0', 'column 1'.* and 49. more; rename",
        ),
        ("p.tsv", "prompt\tnote\na\n", "line 2 has 1 fields, and the header 2 columns"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"is not JSON at line 2, column 12 \(.*\); mend it"),
        ("p.jsonl", '{"prompt": "a"}\n[1]\n', "line 2 is no JSON object; write one with a key 'prompt'"),
        ("p.jsonl", '{"prompt": "a"}\n{"promt": "b"}\n', "line 2: no key 'prompt'; every line needs it"),
        ("p.jsonl", '{"prompt": 3}\n', "line 1: the prompt must be text, not '3'"),
        ("p.jsonl", '{"prompt": "\\ud800"}\n', "holds characters that are no text"),
        ("p.jsonl", '{"id": 1, "prompt": "a"}\n{"prompt": "b"}\n', "1 of 2 lines have a key 'id'"),
        ("p.json", '["a", "b"', r"is not JSON at line 1, column 10"),
        ("p.json", '["a",\n 3]', "item 2 is no JSON object"),
        ("p.json", '{"prompt": "a"}', "is no list"),
        ("p.json", "[" * 100_000, "nested too deep|is not JSON"),
        ("p.json", '{"images": [], "annotations": []}', "is a COCO file; choose among its captions with"),
        ("p.parquet", "no table", "cannot be read as Parquet"),
        ("p.docx", "a", r"files ending in '\.docx' are not read; use one of \.txt, \.csv"),
    ],
)
def test_mistakes_are_one_line_with_their_place(tmp_path, name, content, message):
    with pytest.raises(UsageError, match=message) as error:
        files.read(written(tmp_path, name, content))
    line = str(error.value)
    assert "\n" not in line and name in line and len(line) < 220 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"image": "../up.png"}, "image '../up.png' is no file name below a folder"),
        ({"image": "/etc/passwd"}, "is no file name below a folder"),
        ({"image": "a/../../b.png"}, "is no file name below a folder"),
        ({"image": "C:\\b.png"}, "is no file name below a folder"),
        ({"image": "..\\b.png"}, "is no file name below a folder"),
        ({"image": ""}, "is no file name below a folder"),
        ({"image": 3}, "is no file name below a folder"),
        ({"image": "猫" * 100}, "is no file name below a folder"),
        ({"image": "\ud800.png"}, "is no file name below a folder"),
        ({"class": 10}, "class 10 is none of 0 to 9"),
        ({"class": -1}, "class -1 is none of 0 to 9"),
        ({"class": "-1"}, "class '-1' is none of 0 to 9"),
        ({"class": True}, "class True is none of 0 to 9"),
        ({"class": 1.5}, "class 1.5 is none of 0 to 9"),
    ],
)
def test_images_stay_in_their_folder_and_classes_in_range(tmp_path, line, message):
    file = written(tmp_path, "p.jsonl", json.dumps({"prompt": "a", **line}))
    with pytest.raises(UsageError, match=message):
        files.read(file, images="image" in line, classes=10)


def test_a_column_is_suggested(tmp_path):
    with pytest.raises(UsageError, match="unknown column 'Promt'; did you mean 'Prompt'"):
        files.read(written(tmp_path, "p.tsv", "Prompt\tNote\na\tb\n"), "Promt")
