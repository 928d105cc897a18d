"""Whatever lies where an image goes and is not what was written for that sample is never measured: it is made anew."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib

import pytest
import torch
from PIL import Image, PngImagePlugin

from postdiff.engine.errors import UsageError
from postdiff.lab.data import samples as samples_
from postdiff.lab.images.image_folder import ImageFolder

SAMPLES = samples_.pairs(["a heart", "an apple", "a dog"], [0])
BATCHES = {(sample.seed, sample.index): samples_.batch_name(SAMPLES) for sample in SAMPLES}
PIXELS = torch.randint(256, (3, 3, 8, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def folder(root, name="abc", batches=BATCHES):
    return ImageFolder(root / name, batches)


@pytest.fixture
def drawn(tmp_path):
    """A folder with the images of three samples, and the file of the second."""
    made = folder(tmp_path)
    made.write(SAMPLES, PIXELS)
    return made, made.file(SAMPLES[1])


def png(image, text=None, key="postdiff"):
    chunks = PngImagePlugin.PngInfo()
    if text is not None:
        chunks.add_itxt(key, text)
    stream = io.BytesIO()
    image.save(stream, "png", pnginfo=chunks)
    return stream.getvalue()


def chunk_of(file):
    with Image.open(file) as image:
        return json.loads(image.info["postdiff"])


def huge(side):
    """The header of an image of so many pixels, and next to nothing behind it."""

    def part(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"")) + part(b"IEND", b"")


def with_chunk(content, text, packed=False):
    """A PNG with our chunk put behind its header."""
    body = b"postdiff\0" + bytes([packed]) + b"\0\0\0" + text
    part = struct.pack(">I", len(body)) + b"iTXt" + body + struct.pack(">I", zlib.crc32(b"iTXt" + body))
    return content[:33] + part + content[33:]


OTHER = Image.new("RGB", (10, 8), (9, 200, 30))
FOREIGN = {
    "no mark": lambda row, own: png(OTHER),
    "no mark, another size": lambda row, own: png(OTHER.resize((32, 32))),
    "the pixels themselves without a mark": lambda row, own: png(Image.open(io.BytesIO(own))),
    "a JPEG of that name": lambda row, own: jpeg(),
    "a mark of older versions": lambda row, own: png(
        OTHER, json.dumps({key: row[key] for key in ("index", "prompt", "seed", "sha256")})
    ),
    "other settings": lambda row, own: with_row(own, {**row, "images": "def"}),
    "another sample": lambda row, own: with_row(own, {**row, "index": 2}),
    "another seed": lambda row, own: with_row(own, {**row, "seed": 1}),
    "another prompt": lambda row, own: with_row(own, {**row, "prompt": "a cat"}),
    "another batch": lambda row, own: with_row(own, {**row, "batch": samples_.batch_name(SAMPLES[:2])}),
    "the mark on other pixels": lambda row, own: png(OTHER, json.dumps(row)),
    "the mark on grey pixels": lambda row, own: png(OTHER.convert("L"), json.dumps(row)),
    "the mark as a list": lambda row, own: png(OTHER, json.dumps([row])),
    "the mark of other types": lambda row, own: png(OTHER, json.dumps({**row, "index": "1"})),
    "the mark with NaN": lambda row, own: png(OTHER, json.dumps({**row, "seed": float("nan")})),
    "the mark nested 100,000 deep": lambda row, own: png(OTHER, "[" * 100_000 + "]" * 100_000),
    "the mark under another name": lambda row, own: png(OTHER, json.dumps(row), "other"),
    "half the file": lambda row, own: own[: len(own) // 2],
    "nothing": lambda row, own: b"",
    "zeros": lambda row, own: b"\0" * 3000,
    "a flipped bit of a pixel": lambda row, own: own[:-40] + bytes([own[-40] ^ 4]) + own[-39:],
    "a header of 60000 x 60000": lambda row, own: huge(60_000),
    "a marked header of 60000 x 60000": lambda row, own: with_chunk(huge(60_000), json.dumps(row).encode()),
    "a marked header of 12000 x 12000": lambda row, own: with_chunk(huge(12_000), json.dumps(row).encode()),
    "a text that unpacks to 50 MB": lambda row, own: with_chunk(own, zlib.compress(b"a" * 50_000_000), packed=True),
}


def with_row(own, row):
    return png(Image.open(io.BytesIO(own)), json.dumps(row))


def jpeg():
    stream = io.BytesIO()
    OTHER.save(stream, "jpeg")
    return stream.getvalue()


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_no_image(drawn, kind, recwarn):
    made, file = drawn
    content = FOREIGN[kind](chunk_of(file), file.read_bytes())
    file.write_bytes(content)
    refused_and_removed(made, file)
    assert not recwarn.list, "Pillow's own warnings would stand beside our line"


def refused_and_removed(made, file):
    assert list(made.damaged(SAMPLES)) == [file]
    assert list(made.damaged(SAMPLES, since=2**63)) in ([file], []), "what it says may be right, its pixels are not"
    with pytest.raises(UsageError) as error:
        made.read(SAMPLES)
    assert len(str(error.value)) <= 300 + len(str(file)) and "\n" not in str(error.value)
    assert list(made.repair(SAMPLES)) == [file] and not file.exists()


def test_a_single_image_of_another_batch_is_missing_but_not_damaged(drawn, tmp_path):
    fewer = {(sample.seed, sample.index): samples_.batch_name(SAMPLES[:2]) for sample in SAMPLES[:2]}
    other = folder(tmp_path, batches=fewer)
    assert other.file(SAMPLES[0]).is_file() and not other.has(SAMPLES[0])
    with pytest.raises(UsageError, match="generated in another batch, of a run with other seeds or count"):
        other.read(SAMPLES[:1])
    assert folder(tmp_path, batches=None).has(SAMPLES[0])


def test_what_lies_in_the_place_of_an_image(drawn, tmp_path):
    made, file = drawn
    file.unlink()
    os.mkfifo(file)
    assert not made.has(SAMPLES[1]) and not made.damaged(SAMPLES)
    made.write(SAMPLES[1:2], PIXELS[1:2])
    assert file.is_file() and not made.damaged(SAMPLES)
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    made.write(SAMPLES[1:2], PIXELS[1:2])
    assert not file.is_symlink() and not (tmp_path / "nowhere").exists()
    file.unlink()
    file.mkdir()
    for act in (lambda: made.repair(SAMPLES), lambda: made.write(SAMPLES[1:2], PIXELS[1:2])):
        with pytest.raises(UsageError, match="is a folder, and a file must go there; remove or rename"):
            act()


def test_files_of_others_beside_ours_stay(drawn):
    made, file = drawn
    others = [file.parent / name for name in ("my_notes.png", "1.png", ".my-settings.json")]
    for other in others:
        other.write_bytes(b"mine")
    made.repair(SAMPLES)
    assert all(other.read_bytes() == b"mine" for other in others) and not made.damaged(SAMPLES)
