"""`postdiff data prepare` from end to end: what it writes, what it fetches, what it refuses."""

import hashlib
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from postdiff.datasets import fetch
from postdiff.datasets.manifest import Manifest
from postdiff.lab.data import data_cards


def folder(outputs):
    """Files below `outputs/data`."""
    return sorted(file.name for file in (outputs / "data").glob("*")) if (outputs / "data").is_dir() else []


def test_captions_become_a_manifest(coco, outputs, command):
    code, out, err = command("data", "prepare", "mini", "--from", str(coco / "captions.json"), "--count", "6")
    assert (code, err) == (0, "")
    found = Manifest.load(outputs / "data" / "mini.parquet")
    assert (found.name, found.kind, found.seeds, len(found.lines)) == ("mini", "captions", (0,), 6)
    assert found.rule == {
        "choose": "first",
        "count": 6,
        "seed": 0,
        "column": None,
        "told": "6 of 20 images, seed 0; the first caption of each",
    }
    assert all((coco / "images" / name).is_file() for name in found.images)
    sha256 = hashlib.sha256((coco / "captions.json").read_bytes()).hexdigest()
    assert [(origin.file, origin.sha256) for origin in found.origins] == [("captions.json", sha256)]
    for part in ("6 of 20 images", sha256, found.content, str(outputs / "data" / "mini.parquet"), "data=mini "):
        assert part in out
    assert folder(outputs) == ["mini.parquet"]


def test_an_archive_and_a_folder_give_the_same_lines(coco, outputs, command):
    for name, source in {"a": "captions.json", "b": "captions.zip"}.items():
        words = ["--from", str(coco / source), "--choose", "random", "--seed", "3", "--count", "5"]
        if name == "b":
            # Two files in it could be meant, and the card of COCO 2014 says which one.
            assert "holds 2 files with prompts" in command("data", "prepare", name, *words)[2]
            words += ["--out", str(outputs / "b.parquet")]
            name = "coco2014_30k"
        assert command("data", "prepare", name, *words)[0] == 0
    (coco / "annotations").mkdir()
    (coco / "captions.json").rename(coco / "annotations" / "captions_val2014.json")
    more = ["--from", str(coco), "--choose", "random", "--seed", "3", "--count", "5"]
    assert command("data", "prepare", "coco2014_30k", *more)[0] == 0
    a, b = Manifest.load(outputs / "data" / "a.parquet"), Manifest.load(outputs / "b.parquet")
    c = Manifest.load(outputs / "data" / "coco2014_30k.parquet")
    assert a.lines == b.lines == c.lines and a.content == b.content == c.content
    assert [origin.file for origin in b.origins] == ["captions.zip", "captions_val2014.json"]
    assert b.origins[1].sha256 == a.origins[0].sha256 == c.origins[0].sha256


def test_the_same_again_changes_nothing_and_another_choice_is_refused(coco, outputs, command, refused):
    words = ["data", "prepare", "mini", "--from", str(coco / "captions.json"), "--count", "6"]
    assert command(*words)[0] == 0
    before = (outputs / "data" / "mini.parquet").stat().st_mtime_ns
    code, out, _ = command(*words)
    assert code == 0 and "there already" in out
    line = refused(*words, "--seed", "1")
    assert "holds another choice (6 of 20 images, seed 0; the first caption of each)" in line and "--out" in line
    assert (outputs / "data" / "mini.parquet").stat().st_mtime_ns == before
    other = outputs / "elsewhere" / "mini.parquet"
    code, out, _ = command(*words, "--seed", "1", "--out", str(other))
    assert code == 0 and f"data={other}" in out and other.is_file()


def test_a_file_that_is_no_manifest_is_left_alone(coco, tmp_path, outputs, refused):
    place = tmp_path / "mine.parquet"
    place.write_text("something of the user's")
    line = refused("data", "prepare", "mini", "--from", str(coco / "captions.json"), "--out", str(place))
    assert "is there already and no sound manifest; remove it, or use --out" in line
    assert place.read_text() == "something of the user's"


def test_shipped_prompts_and_classes(outputs, command):
    assert command("data", "prepare", "emoji", "--count", "20", "--seed", "3")[0] == 0
    emoji = Manifest.load(outputs / "data" / "emoji.parquet")
    assert (emoji.kind, emoji.rule["choose"], len(emoji.lines)) == ("prompts", "random", 20)
    assert {line.prompt for line in emoji.lines} < {line.prompt for line in data_cards.read(data_cards.card("emoji"))}
    assert command("data", "prepare", "imagenet_50k", "--count", "3000", "--seeds", "1,2")[0] == 0
    card = data_cards.card("imagenet_50k")
    entries = data_cards.read(card)
    assert (card.classes, card.seeds, len(entries)) == (1000, [1, 2], 3000)
    assert (entries[1207].label, entries[1207].prompt) == (207, "golden retriever")


def test_a_table_of_ones_own(tmp_path, outputs, command):
    file = tmp_path / "mine.csv"
    file.write_text("id,words,image\nx,a red heart,1.png\ny,a blue car,2.png\nz,an owl,3.png\n")
    assert command("data", "prepare", "mine", "--from", str(file), "--column", "words", "--count", "2")[0] == 0
    found = Manifest.load(outputs / "data" / "mine.parquet")
    assert [(line.id, line.prompt, line.image) for line in found.lines] == [
        ("x", "a red heart", "1.png"),
        ("y", "a blue car", "2.png"),
    ]
    assert found.rule["column"] == "words" and found.rule["told"] == "the first 2 of 3 prompts"
    code, out, _ = command("list", "data")
    assert code == 0 and "mine " in out and "prepared: " in out


def test_a_name_in_any_language(tmp_path, outputs, command):
    (tmp_path / "猫.csv").write_text("プロンプト\n赤いハート\n")
    words = ["--from", str(tmp_path / "猫.csv"), "--column", "プロンプト"]
    code, out, err = command("data", "prepare", "絵文字", *words)
    assert (code, err) == (0, "") and "data=絵文字 " in out
    assert [line.prompt for line in data_cards.read(data_cards.card("絵文字"))] == ["赤いハート"]


def test_a_shipped_name_for_a_set_elsewhere(tmp_path, outputs, command):
    (tmp_path / "own.txt").write_text("a\n")
    out = outputs / "elsewhere.parquet"
    code, message, _ = command("data", "prepare", "emoji", "--from", str(tmp_path / "own.txt"), "--out", str(out))
    assert code == 0 and f"data={out}" in message and out.is_file()


def test_classes_of_ones_own(tmp_path, outputs, command, refused):
    file = tmp_path / "animals.txt"
    file.write_text("owl\nfox\n")
    words = ["data", "prepare", "animals", "--from", str(file)]
    assert "must name each of 3 classes once, and has 2 lines" in refused(*words, "--classes", "3")
    assert command(*words, "--classes", "2", "--count", "4")[0] == 0
    assert [entry.label for entry in data_cards.read(data_cards.card("animals"))] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cocoo"], "unknown data 'cocoo'; did you mean 'coco"),
        (["../up", "--from", "{json}"], "'../up' is no name for a data set"),
        (["prompts.csv"], "'prompts.csv' is a file; give the set a name: postdiff data prepare prompts --from"),
        (["mini", "--from", "nowhere.json"], "nowhere.json is no file or folder"),
        (["mini", "--from", "{folder}"], "is a folder, and no card says which of its files counts"),
        (["coco2017_5k", "--from", "{folder}"], "holds neither annotations/captions_val2017.json nor annotations_"),
        (["coco2017_5k", "--from", "{zip}"], "holds no annotations/captions_val2017.json"),
        (["mini", "--from", "{json}", "--count", "21"], "has 20 images with captions; use at most that"),
        (["mini", "--from", "{json}", "--count", "0"], "--count 0 is too small"),
        (["mini", "--from", "{json}", "--count", "-3"], "--count -3 is too small"),
        (["mini", "--from", "{json}", "--count", "six"], "invalid int value: 'six'"),
        (["mini", "--from", "{json}", "--seed", "-1"], "--seed -1 is negative"),
        (["mini", "--from", "{json}", "--seed", "1"], "--seed 1 changes nothing, since nothing is drawn"),
        (["mini", "--from", "{json}", "--choose", "frist"], "unknown rule for captions 'frist'; did you mean 'first'"),
        (["mini", "--from", "{json}", "--column", "caption"], "is a COCO file, whose captions have no column"),
        (["mini", "--from", "{json}", "--seeds", "1,1"], "--seeds 1,1 must be different whole numbers"),
        (["mini", "--from", "{json}", "--seeds", "-1"], "--seeds -1 must be different whole numbers"),
        (
            ["mini", "--from", "{json}", "--seeds", str(2**63)],
            f"--seeds {2**63} must be different whole numbers from 0 and",
        ),
        (["mini", "--from", "{json}", "--seeds", "9" * 5000], "must be different whole numbers from 0 and below"),
        (["mini", "--from", "{json}", "--seeds", ""], "must be different whole numbers"),
        (["mini", "--from", "{json}", "--seeds", "1,,2"], "must be different whole numbers"),
        (["mini", "--from", "{json}", "--seed", str(2**63), "--count", "3"], "is too large; use one below"),
        (
            ["mini", "--from", "{tsv}", "--classes", "9999999999"],
            "--classes 9999999999 is too many; use at most 1,000,000",
        ),
        (
            ["emoji", "--from", "{tsv}"],
            "data=emoji is a card that reads its own file, and would go on to mean that; give",
        ),
        (["x" * 5000, "--from", "{tsv}"], "is no name for a data set; use letters"),
        (["mini", "--from", "~nosuchuser/x.txt"], "'~nosuchuser/x.txt' names a home folder that is not known here"),
        (["mini", "--from", "{tsv}", "--out", "~nosuchuser/x.parquet"], "names a home folder that is not known here"),
        (["mini", "--from", "{json}", "--out", "{folder}/mini.csv"], "must end in .parquet"),
        (["coco2014_30k", "--from", "{json}"], "count=30000, but .*captions.json has 20 images"),
        (["coco2014_30k", "--classes", "3"], "--classes is for files of your own"),
        (["mini", "--from", "{broken}"], "is no sound zip archive"),
        (["parti_prompts", "--from", "{tsv}"], "has 2 prompts, and the official set 1632"),
        (["drawbench", "--from", "{tsv}"], "unknown column 'Prompts'; did you mean 'Prompt'"),
        (["mini", "--from", "{tsv}", "--column", "Promt"], "unknown column 'Promt'; did you mean 'Prompt'"),
        (["imagenet_50k", "--count", "1500"], "is no multiple of 1000 classes"),
        (["mini", "--from", "{json}", "steps=3"], "unexpected 'steps=3'"),
    ],
)
def test_mistakes_leave_nothing_behind(coco, outputs, refused, words, message):
    (coco / "broken.zip").write_bytes((coco / "captions.zip").read_bytes()[:400])
    (coco / "two.tsv").write_text("Prompt\tCategory\nbond\tAbstract\nelement\tAbstract\n")
    names = {"json": "captions.json", "zip": "captions.zip", "broken": "broken.zip", "tsv": "two.tsv"}
    places = {key: coco / name for key, name in names.items()}
    line = refused("data", "prepare", *(word.format(folder=coco, **places) for word in words))
    assert re.search(message, line), line
    assert folder(outputs) == []


@pytest.fixture
def served(coco, tmp_path, monkeypatch):
    """The data card `far`, whose official file a server on loopback has; gives (its card's keys, save, server)."""
    monkeypatch.setattr(fetch, "WAIT_S", 0.0)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(coco)))
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    source = {
        "kind": "captions",
        "file": "captions.zip",
        "url": f"http://127.0.0.1:{http.server_port}/captions.zip",
        "member": "annotations/captions_val2014.json",
        "count": 4,
    }

    def save(**changes):
        file = tmp_path / "extra" / "configs" / "data" / "far.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump({"summary": "captions from afar", "source": {**source, **changes}}))

    save()
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path / "extra"))
    yield source, save, http
    http.shutdown()
    http.server_close()


def test_the_official_file_is_fetched_once(served, coco, outputs, command):
    md5 = hashlib.md5((coco / "captions.zip").read_bytes()).hexdigest()
    served[1](md5=md5)
    code, out, _ = command("data", "prepare", "far")
    assert code == 0 and "(as published)" in out
    assert (outputs / "data" / "downloads" / "captions.zip").read_bytes() == (coco / "captions.zip").read_bytes()
    served[2].shutdown()
    served[2].server_close()
    (outputs / "data" / "far.parquet").unlink()
    assert command("data", "prepare", "far")[0] == 0
    assert len(data_cards.read(data_cards.card("far"))) == 4


def test_without_a_published_checksum_it_says_so(served, command, outputs):
    code, out, _ = command("data", "prepare", "far")
    assert code == 0 and "(no checksum is published)" in out


def test_another_file_than_the_published_one(served, coco, outputs, refused, command):
    served[1](md5="0" * 32)
    assert f"the published one is {'0' * 32}" in refused_last(command, "data", "prepare", "far")
    assert folder(outputs) == ["downloads"] and not list((outputs / "data" / "downloads").iterdir())
    (outputs / "data" / "downloads" / "captions.zip").write_bytes((coco / "captions.zip").read_bytes())
    assert "captions.zip is damaged: its md5 is not the published one" in refused("data", "prepare", "far")
    code, out, _ = command("data", "prepare", "far", "--from", str(coco / "captions.zip"))
    assert code == 0 and "(not the published file)" in out, "a file that is named is taken, and marked"


def refused_last(command, *words):
    """The one line of a command that shows a progress bar before it fails."""
    code, out, err = command(*words)
    assert (code, out) == (2, "") and "Traceback" not in err
    return err.replace("\r", "\n").strip().splitlines()[-1]


def test_without_a_connection_one_line_says_what_to_do(served, outputs, refused, tmp_path):
    served[2].shutdown()
    served[2].server_close()
    place = outputs / "data" / "downloads" / "captions.zip"
    line = refused("data", "prepare", "far")
    assert f"{served[0]['url']} cannot be fetched (no connection)" in line and f"put it at {place}" in line
    line = refused("run", "demo", "data=far")
    assert "data 'far' is not prepared yet; run 'postdiff data prepare far'" in line
    assert served[0]["url"] in line and str(place) in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "caption"}, "unknown kind of source 'caption'; did you mean 'captions'"),
        ({"choose": "balanced"}, "unknown rule for captions 'balanced'"),
        ({"count": 0}, "source: count=0"),
        ({"file": None}, "source names no 'file'"),
        ({"md": "x"}, "unknown key 'source.md'; did you mean 'source.md5'"),
    ],
)
def test_cards_with_a_source_are_checked(served, outputs, refused, changes, message):
    served[1](**changes)
    line = refused("data", "prepare", "far")
    assert message in line and "far.yaml" in line
