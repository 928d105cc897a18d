"""Folders of images: what of them counts, formats and modes as clean-fid has them, what is broken or hostile."""

import dataclasses
import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
import yaml
from cleanfid import utils as clean_fid
from PIL import Image

from postdiff.engine.errors import UsageError
from postdiff.lab.data import conditions, data_cards, image_files
from postdiff.lab.data.conditions import ConditionConfig
from postdiff.lab.metrics import reference_statistics
from tests.metrics import networks


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A tiny network in the place of Inception."""
    monkeypatch.setenv("POSTDIFF_INCEPTION", str(networks.save(networks.Small, tmp_path / "small.pt")))


@pytest.fixture
def real(tmp_path):
    """Three reference images."""
    return networks.save_images(tmp_path / "real", networks.images(2, 3))


PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def save(file, mode="RGB", **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.lower() == ".npy":
        with file.open("wb") as stream:
            np.save(stream, PIXELS)
    else:
        Image.fromarray(PIXELS).convert(mode).save(file, **options)
    return file


def as_clean_fid(file):
    [found] = clean_fid.ResizeDataset([str(file)], mode="legacy_tensorflow")
    return found.round().to(torch.uint8)


@pytest.mark.parametrize("name", [*image_files.ENDINGS, ".JPG", ".JPEG", ".PNG", ".Tif", ".NPY"])
def test_every_format_of_clean_fid(tmp_path, name):
    assert {ending[1:] for ending in image_files.ENDINGS} == {each.lower() for each in clean_fid.EXTENSIONS}
    file = save(tmp_path / f"a{name}", "L" if name == ".pgm" else "RGB")
    assert image_files.found_in(tmp_path, deep=True).images == [file]
    expected = as_clean_fid(file) if name != ".NPY" else torch.from_numpy(PIXELS).permute(2, 0, 1)
    assert torch.equal(reference_statistics._read(file, None), expected)
    assert conditions.prepared(file, (24, 32), ConditionConfig()).size == (32, 24)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


MODES = {
    "1": ("a.png", "1", {}),
    "L": ("a.jpg", "L", {}),
    "LA": ("a.png", "LA", {}),
    "palette": ("a.png", "P", {}),
    "palette with a transparent colour": ("a.png", "P", {"transparency": 3}),
    "palette of bytes": ("a.png", "P", {"transparency": bytes(range(256))}),
    "RGBA": ("a.webp", "RGBA", {"lossless": True}),
    "CMYK": ("a.jpg", "CMYK", {}),
    "CMYK TIFF": ("a.tif", "CMYK", {}),
    "LAB": ("a.tif", "LAB", {}),
    "YCbCr": ("a.jpg", "YCbCr", {}),
    "turned by its camera": ("a.jpg", "RGB", {"exif": turned()}),
    "several frames": ("a.webp", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (32, 24))]}),
}


@pytest.mark.parametrize("kind", MODES)
def test_every_mode_as_clean_fid_reads_it(tmp_path, kind, recwarn):
    name, mode, options = MODES[kind]
    file = save(tmp_path / name, mode, **options)
    found = reference_statistics._read(file, None)
    assert not recwarn.list and torch.equal(found, as_clean_fid(file))
    # To generate on, an image stands upright.
    size = (32, 24) if kind == "turned by its camera" else (24, 32)
    assert np.array(conditions.prepared(file, size, ConditionConfig())).shape == (*size, 3)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *more):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(more) + chunk(b"IEND", b"")


def bmp(width, height):
    return (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 200, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(99)
    )


def encoded(array, kind="png"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def npy(array, shape=None):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    if shape is None:
        return stream.getvalue()
    header = str({"descr": "|u1", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100)


SOUND = encoded(PIXELS)
GREY = np.full((24, 32), 40_000, np.uint16)
BROKEN = {
    "empty": ("a.png", b"", "cannot be read (no image); put it right or remove it"),
    "text": ("a.jpg", b"no image", "cannot be read (no image)"),
    "truncated": ("a.png", SOUND[:400], "cannot be read ("),
    "truncated JPEG": ("a.jpg", encoded(PIXELS, "jpeg")[:500], "cannot be read ("),
    "truncated TIFF": ("a.tif", encoded(PIXELS, "tiff")[:500], "cannot be read ("),
    "truncated WebP": ("a.webp", encoded(PIXELS, "webp")[:500], "cannot be read ("),
    "60000 x 60000": (
        "a.png",
        png(60_000, 60_000),
        "has far too many pixels, more than 67,108,864 in all; make it smaller",
    ),
    "13000 x 13000": ("a.png", png(13_000, 13_000), "has 13000 x 13000 pixels, more than 67,108,864 in all"),
    "a long one": ("a.png", png(2**31 - 1, 1), "has far too many pixels, more than 67,108,864"),
    "a large BMP": ("a.bmp", bmp(20_000, 4_000), "has 20000 x 4000 pixels, more than"),
    "a large PPM": ("a.ppm", b"P6 30000 30000 255\n", "has far too many pixels"),
    "a text that grows": (
        "a.png",
        png(9, 9, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
        "cannot be read (",
    ),
    "PostScript": (
        "a.png",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "cannot be read (no image",
    ),
    "16 bits of grey": ("a.png", encoded(GREY), "has more than 8 bits of grey (mode I;16); save it with 8 bits"),
    "32 bits of grey": ("a.tif", encoded(GREY.astype(np.int32), "tiff"), "has more than 8 bits of grey (mode I)"),
    "floats": ("a.tif", encoded(GREY.astype(np.float32), "tiff"), "has more than 8 bits of grey (mode F)"),
    "npy: floats": ("a.npy", npy(PIXELS / 255), "cannot be read (float64 (24, 32, 3), not uint8 (height, width, 3))"),
    "npy: grey": ("a.npy", npy(PIXELS[..., 0]), "cannot be read (uint8 (24, 32), not uint8"),
    "npy: objects": ("a.npy", npy(np.array([{}, []], dtype=object)), "cannot be read ("),
    "npy: a bomb": ("a.npy", npy(PIXELS, (60_000, 60_000, 3)), "cannot be read ("),
    "npy: truncated": ("a.npy", npy(PIXELS)[:200], "cannot be read ("),
    "npy: text": ("a.npy", b"no array", "cannot be read ("),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_and_hostile_images_are_one_line(tmp_path, kind, recwarn):
    name, content, message = BROKEN[kind]
    (tmp_path / name).write_bytes(content)
    for read in (
        lambda file: reference_statistics._read(file, None),
        lambda file: conditions.prepared(file, (8, 8), ConditionConfig()),
    ):
        with pytest.raises(UsageError) as error:
            read(tmp_path / name)
        line = str(error.value)
        assert (
            f"image {tmp_path / name} {message}" in line and "\n" not in line and len(line) < 180 + len(str(tmp_path))
        )
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["60000 x 60000", "13000 x 13000", "16 bits of grey", "npy: floats", "text"])
def test_a_card_s_images_are_looked_at_before_anything_is_drawn(tmp_path, kind):
    name, content, _ = BROKEN[kind]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / name).write_bytes(content)
    (tmp_path / "p.txt").write_text("a\n")
    with pytest.raises(UsageError, match="image .* (has|cannot be read)"):
        data_cards.read(data_cards.DataCard(prompts=str(tmp_path / "p.txt"), images=str(tmp_path / "images")))


def test_folders_as_clean_fid_walks_them(tmp_path):
    wanted = [save(tmp_path / "real" / name) for name in ("a.png", "b/c.JPG", "b/d/e.webp")]
    (tmp_path / "elsewhere").mkdir()
    save(tmp_path / "elsewhere" / "f.png")
    (tmp_path / "real" / "g").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "real" / "b" / "up").symlink_to(tmp_path / "real")
    for name in (".hidden.png", "b/._c.png", ".cache/x.png"):
        save(tmp_path / "real" / name)
    for name in ("notes.txt", "b/x.gif", "b/y.GIF", "LICENSE"):
        (tmp_path / "real" / name).write_bytes(b"")
    found = image_files.found_in(tmp_path / "real", deep=True)
    assert found.images == sorted([*wanted, tmp_path / "real" / "g" / "f.png"])
    assert found.message == "2 .gif, 1 without an ending, 1 .txt" and found.unread == 2
    shallow = image_files.found_in(tmp_path / "real", deep=False)
    assert shallow.images == [tmp_path / "real" / "a.png"] and shallow.message == "1 without an ending, 1 .txt"


@pytest.mark.parametrize("kind", ["a link that leads nowhere", "a FIFO", "a folder"])
def test_what_is_called_an_image_and_is_none(tmp_path, kind):
    place = tmp_path / "a.png"
    if kind == "a FIFO":
        os.mkfifo(place)
    elif kind == "a folder":
        place.mkdir()
        assert image_files.found_in(tmp_path, deep=True).images == []
        return
    else:
        place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"image .*a\.png is no file, or a link that leads nowhere; remove it"):
        image_files.found_in(tmp_path, deep=True)


def test_a_folder_of_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "MOST_FILES", 2)
    for name in "abc":
        (tmp_path / name).write_text("")
    with pytest.raises(UsageError, match="holds more than 2 files; name the folder with the images"):
        image_files.found_in(tmp_path, deep=True)


def test_images_in_order_need_all_of_them_to_be_read(tmp_path):
    for name in ("0.png", "2.png"):
        save(tmp_path / "images" / name)
    (tmp_path / "p.txt").write_text("a\nb\n")
    card = data_cards.DataCard(prompts=str(tmp_path / "p.txt"), images=str(tmp_path / "images"))
    (tmp_path / "images" / "notes.txt").write_text("")
    assert [entry.image.name for entry in data_cards.read(card)] == ["0.png", "2.png"]
    Image.fromarray(PIXELS).save(tmp_path / "images" / "1.gif")
    with pytest.raises(UsageError, match=r"holds images that are not read \(1 \.gif, 1 \.txt\), so which belongs to"):
        data_cards.read(card)
    # By name, any format that Pillow reads will do.
    (tmp_path / "p.csv").write_text("prompt,image\na,1.gif\nb,0.png\n")
    named = data_cards.read(data_cards.DataCard(prompts=str(tmp_path / "p.csv"), images=str(tmp_path / "images")))
    assert [entry.image.name for entry in named] == ["1.gif", "0.png"]


def kept(outputs):
    return sorted(file.name for file in outputs.rglob("*") if file.is_file())


def test_statistics_say_what_they_passed_over(real, network, outputs, command):
    for name in ("x.gif", "notes.txt"):
        (real / name).write_text("")
    save(real / "more" / "y.TIFF")
    for word in ("", " (there already)"):
        code, out, err = command("data", "statistics", str(real))
        assert code == 0 and f"statistics{word}: " in out and out.endswith("; passed over: 1 .gif, 1 .txt\n"), (
            out,
            err,
        )
        assert "4 images, small.pt" in out
    [statistics, names] = sorted(kept(outputs), key=lambda name: name.startswith("images-"))
    assert statistics.endswith(".safetensors") and names.startswith("images-")


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        ("a.png", [], "image .*a.png cannot be read"),
        (png(60_000, 60_000), [], "has far too many pixels"),
        (png(13_000, 13_000), [], "has 13000 x 13000 pixels, more than"),
        (None, ["--crop", "100000"], "--crop 100000 makes 100000 x 100000 pixels of image .*, more than"),
        (encoded(np.zeros((1, 9000, 3), np.uint8)), ["--crop", "300"], "makes 2700000 x 300 pixels of image .*a.png"),
        (None, ["--batch-size", "0"], "--batch-size 0 is too small"),
        (None, ["--mode", "legacy_pytorch"], "."),
        (None, ["--extractor", "/no/such.pt"], "/no/such.pt"),
        (None, ["--images", "/no/such"], "unknown data|image folder /no/such is missing"),
    ],
)
def test_mistakes_leave_nothing_behind(real, network, outputs, command, monkeypatch, change, words, message):
    monkeypatch.delenv("POSTDIFF_INCEPTION_PYTORCH", raising=False)
    if change is not None:
        (real / "a.png").write_bytes(b"no image" if isinstance(change, str) else change)
    code, out, err = command("data", "statistics", str(real), *words)
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("postdiff: error: ")]
    assert (code, out, len(lines)) == (2, "", 1) and kept(outputs) == [], (err, kept(outputs))
    with pytest.raises(UsageError, match=message):
        raise UsageError(lines[0])


def test_a_missing_network_is_reported_before_images_are_hashed(real, outputs, refused, monkeypatch):
    monkeypatch.setenv("POSTDIFF_INCEPTION", "/no/such.pt")
    monkeypatch.setattr(reference_statistics.reference_images, "digest", lambda *_: pytest.fail("images were hashed"))
    assert "/no/such.pt" in refused("data", "statistics", str(real))


def test_large_images_go_in_smaller_batches(tmp_path, monkeypatch):
    files = [save(tmp_path / f"{i}.png") for i in range(5)]
    assert [len(batch) for batch in reference_statistics._batches(files, None, 32)] == [5]
    monkeypatch.setattr(reference_statistics, "MOST_PIXELS", 2 * PIXELS[..., 0].size)
    assert [len(batch) for batch in reference_statistics._batches(files, None, 32)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            {"name": "canny", "options": {"low": float("nan")}},
            "condition 'canny': low: Value 'nan' is no finite number",
        ),
        ({"name": "canny", "options": {"low": 1e30}}, "low=1e+30 is too large; use at most 2040"),
        ({"name": "canny", "options": {"low": -1}}, "low=-1 is too small"),
        ({"name": "canny", "options": {"high": True}}, "high: Value 'True' is no number"),
        ({"name": "canny", "options": {"high": [[[1]]]}}, "high: Value '[[[1]]]' is no number"),
        ({"name": "canny", "options": {"high": "x" * 999}}, "is no number; give another value"),
        ({"name": "canny", "options": {"low": 200, "high": 1}}, "low=200 is not below high=1; exchange or change them"),
        ({"name": "canny", "options": {"low": 300}}, "low=300 is not below high=200"),
        ({"name": "scribble_xdog", "options": {"coarse": 1_000_000}}, "coarse=1000000 is too large; use at most 100"),
        ({"name": "scribble_xdog", "options": {"fine": 0}}, "fine=0 is too small; use at least 0.1"),
        ({"name": "scribble_xdog", "options": {"fine": 5}}, "fine=5 is not below coarse=5"),
        (
            {"name": "scribble_xdog", "options": {"threshold": float("nan")}},
            "threshold: Value 'nan' is no finite number",
        ),
        ({"name": "scribble_xdog", "options": {"threshold": 256}}, "threshold=256 is too large; use at most 255"),
    ],
)
def test_values_of_conditions(tmp_path, monkeypatch, condition, message):
    file = tmp_path / "configs" / "data" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump({"prompts": "zoo/emoji/prompts.jsonl", "images": "images", "condition": condition}))
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))
    with pytest.raises(UsageError) as error:
        data_cards.card("mine")
    assert message in str(error.value) and len(str(error.value)) < 170 + len(str(tmp_path))


@pytest.mark.parametrize("name", conditions.CONDITIONS)
def test_every_option_of_a_condition_has_a_range(name):
    for option in dataclasses.fields(conditions.CONDITIONS[name]):
        for value in (-1e9, 1e9):
            with pytest.raises(UsageError, match=f"{option.name}=.* is too (small|large)"):
                conditions.build(ConditionConfig(name, {option.name: value}))
