"""The picture of an experiment: prompts across, rows down, the same seed in each column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from postdiff.lab.files import folders
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.samples import Sample

__all__ = ["COLUMNS", "draw"]

COLUMNS = 10
SMALL = 128  # pictures below this side are doubled, pixel by pixel
GAP = 6
INK, PAPER = (20, 20, 20), (255, 255, 255)


def draw(rows: Sequence[tuple[str, ImageFolder]], samples: Sequence[Sample], file: Path) -> None:
    """Write a PNG.

    Args:
        rows: label and pictures of each row, from the top.
        samples: one column each; every row must have their pictures.
        file: where to write.
    """
    pictures = [[_doubled(folder.image(sample)) for sample in samples] for _, folder in rows]
    width = max(picture.width for line in pictures for picture in line)
    height = max(picture.height for line in pictures for picture in line)
    font = _font(max(13, width // 9))
    # The default font is Pillow's own, so the picture needs no font of the machine.
    left = GAP + max(round(font.getlength(label)) for label, _ in rows) + 2 * GAP
    titles = [_wrapped(sample.prompt, font, width) for sample in samples]
    line_height = round(font.size * 1.25)
    top = GAP + line_height * max(len(title) for title in titles) + GAP
    sheet = Image.new("RGB", (left + len(samples) * (width + GAP), top + len(rows) * (height + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        x = left + column * (width + GAP) + width // 2
        for line, text in enumerate(title):
            y = top - GAP - line_height * (len(title) - line)
            pen.text((x, y), text, INK, font, anchor="ma")
    for line, ((label, _), found) in enumerate(zip(rows, pictures, strict=True)):
        y = top + line * (height + GAP)
        pen.text((left - 2 * GAP, y + height // 2), label, INK, font, anchor="rm")
        for column, picture in enumerate(found):
            sheet.paste(picture, (left + column * (width + GAP), y))
    with folders.whole_file(file) as temporary:
        sheet.save(temporary)


def _doubled(picture: Image.Image) -> Image.Image:
    if max(picture.size) >= SMALL:
        return picture
    return picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
