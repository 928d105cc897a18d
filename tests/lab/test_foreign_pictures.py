"""Whatever lies where a picture goes and is not what was written for that sample is never measured: it is made anew."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from postdiff.engine.errors import UsageError
from postdiff.lab import samples as samples_
from postdiff.lab.images.image_folder import ImageFolder

SAMPLES = samples_.pairs(["a heart", "an apple", "a dog"], [0])
BATCHES = {(sample.seed, sample.index): samples_.batch_name(SAMPLES) for sample in SAMPLES}
PIXELS = torch.randint(256, (3, 3, 8, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def folder(root, name="abc", store="png", batches=BATCHES):
    return ImageFolder(root / name, store, batches)


@pytest.fixture
def drawn(tmp_path):
    """`drawn(store)`: a folder with the pictures of three samples, and the file of the second."""

    def make(store="png"):
        made = folder(tmp_path, store=store)
        made.write(SAMPLES, PIXELS)
        return made, made.file(SAMPLES[1])

    return make


def png(image, text=None, key="postdiff"):
    chunks = PngImagePlugin.PngInfo()
    if text is not None:
        chunks.add_itxt(key, text)
    stream = io.BytesIO()
    image.save(stream, "png", pnginfo=chunks)
    return stream.getvalue()


def chunk_of(file):
    with Image.open(file) as picture:
        return json.loads(picture.info["postdiff"])


def huge(side):
    """The header of a picture of so many pixels, and next to nothing behind it."""

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
    "other settings": lambda row, own: with_row(own, {**row, "pictures": "def"}),
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
def test_a_foreign_file_is_no_picture(drawn, kind, recwarn):
    made, file = drawn()
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


def members(file):
    with np.load(file) as found:
        return {name: found[name] for name in found.files}


def changed(**arrays):
    return lambda own: {**own, **arrays}


OTHERS = {
    "fewer pictures than rows": lambda own: {**own, "images": own["images"][:2]},
    "more pictures than rows": lambda own: {**own, "images": np.concatenate([own["images"]] * 2)},
    "pictures of float32": lambda own: {**own, "images": own["images"].astype(np.float32)},
    "flat pictures": lambda own: {**own, "images": own["images"].reshape(3, -1)},
    "grey pictures": lambda own: {**own, "images": own["images"][..., :1]},
    "channels first": lambda own: {**own, "images": own["images"].transpose(0, 3, 1, 2)},
    "other pixels": lambda own: {**own, "images": own["images"] ^ 1},
    "other settings": changed(pictures=np.array("def")),
    "as older versions wrote it": lambda own: {k: v for k, v in own.items() if k not in ("pictures", "batch")},
    "numbers as text": changed(index=np.array(["0", "1", "2"])),
    "numbers as fractions": changed(index=np.array([0.0, 1.0, 2.0])),
    "one row twice": changed(index=np.array([1, 1, 2])),
    "a list of settings": changed(pictures=np.array(["abc"] * 3)),
    "a prompt short": lambda own: {**own, "prompt": own["prompt"][:2]},
    "pickled objects": lambda own: {**own, "prompt": own["prompt"].astype(object)},
    "no pictures": lambda own: {k: v for k, v in own.items() if k != "images"},
    "nothing": lambda own: {},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_foreign_file_of_many_is_none_of_ours(drawn, kind):
    made, file = drawn("npz")
    content = OTHERS[kind](members(file))
    np.savez_compressed(file, **content)
    refused_and_removed_whole(made, file)


def refused_and_removed_whole(made, file):
    made.refresh()
    assert list(made.damaged(SAMPLES)) == [file]
    assert list(made.repair(SAMPLES)) == [file] and not file.exists() and not any(map(made.has, SAMPLES))


@pytest.mark.parametrize("kind", ["half", "nothing", "garbage", "garbage members", "a text of gigabytes", "terabytes"])
def test_a_file_of_many_that_cannot_be_read(drawn, kind):
    made, file = drawn("npz")
    whole = file.read_bytes()
    if kind == "half":
        file.write_bytes(whole[: len(whole) // 2])
    elif kind in ("nothing", "garbage"):
        file.write_bytes(b"" if kind == "nothing" else os.urandom(3000))
    elif kind == "a text of gigabytes":
        rewritten(file, "prompt.npy", header("<U400000000", (3,)))
    elif kind == "terabytes":
        rewritten(file, "images.npy", header("|u1", (3, 1_000_000, 1_000_000, 3)))
    else:
        rewritten(file, "sha256.npy", b"no array at all")
    refused_and_removed_whole(made, file)


def header(descr, shape):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def rewritten(file, name, content):
    """Put another member into a zip file."""
    with zipfile.ZipFile(file) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, own in {**members, name: content}.items():
            archive.writestr(each, own)


def test_pictures_of_another_batch_stand_beside_ours_in_files_of_many(tmp_path):
    """A run with fewer pictures has another last batch; neither run takes the other's, or away from it."""
    fewer = {(sample.seed, sample.index): samples_.batch_name(SAMPLES[:2]) for sample in SAMPLES[:2]}
    one, two = folder(tmp_path, store="npz", batches=fewer), folder(tmp_path, store="npz")
    one.write(SAMPLES[:2], PIXELS[:2])
    assert not two.has(SAMPLES[0]) and not two.damaged(SAMPLES)
    two.write(SAMPLES, PIXELS)
    two.repair(SAMPLES)
    for made, samples in ((one, SAMPLES[:2]), (two, SAMPLES)):
        made.refresh()
        assert all(map(made.has, samples)) and not made.damaged(samples)


def test_a_single_picture_of_another_batch_is_missing_but_not_damaged(drawn, tmp_path):
    drawn()
    fewer = {(sample.seed, sample.index): samples_.batch_name(SAMPLES[:2]) for sample in SAMPLES[:2]}
    other = folder(tmp_path, batches=fewer)
    assert other.there(SAMPLES[0]) and not other.has(SAMPLES[0])
    with pytest.raises(UsageError, match="drawn in another batch, of a run with other seeds or count"):
        other.read(SAMPLES[:1])
    assert folder(tmp_path, batches=None).has(SAMPLES[0])


def test_what_lies_in_the_place_of_a_picture(drawn, tmp_path):
    made, file = drawn()
    file.unlink()
    os.mkfifo(file)
    assert not made.there(SAMPLES[1]) and not made.damaged(SAMPLES)
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
    made, file = drawn("npz")
    mine = file.parent / "my_notes.npz"
    np.savez(mine, notes=np.zeros(3))
    shutil.copy(mine, file.parent / ".my-settings.npz")
    made.repair(SAMPLES)
    assert mine.exists() and (file.parent / ".my-settings.npz").exists() and not made.damaged(SAMPLES)


def test_behind_a_damaged_picture_may_be_another(drawn, tmp_path):
    """A PNG hides the same picture in a file of many, which is looked at as well once the PNG is gone."""
    drawn("npz")
    made, file = drawn()
    file.write_bytes(b"damaged")
    shard = made.shards.file(SAMPLES[1])
    np.savez_compressed(shard, **{**members(shard), "images": members(shard)["images"] ^ 1})
    assert set(made.repair(SAMPLES)) == {file, shard}
    assert [made.there(sample) for sample in SAMPLES] == [True, False, True]
