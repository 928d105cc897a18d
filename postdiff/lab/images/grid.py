"""The grid of an experiment: prompts across, rows down, the same seed in each column."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from postdiff.lab.data.samples import Sample
from postdiff.lab.files import folders
from postdiff.lab.images.image_folder import ImageFolder

__all__ = ["COLUMNS", "draw"]

COLUMNS = 10
SMALL = 128  # images below this side are doubled, pixel by pixel
GAP = 6
INK, PAPER = (20, 20, 20), (255, 255, 255)


def draw(rows: Sequence[tuple[str, ImageFolder]], samples: Sequence[Sample], file: Path) -> None:
    """Write a PNG.

    Args:
        rows: label and images of each row, from the top.
        samples: one column each; every row must have their images.
        file: where to write.
    """
    images: list[list[Image.Image]] = []
    for _, folder in rows:
        images.append([])
        for sample in samples:
            pixels = folder.read([sample])[0].permute(1, 2, 0).numpy()
            factor = 2 if max(pixels.shape) < SMALL else 1
            images[-1].append(Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1)))
    width = max(image.width for line in images for image in line)
    height = max(image.height for line in images for image in line)
    font = ImageFont.load_default(max(13, width // 9))  # Pillow's own, so no font of the machine is needed
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    left = GAP + max(round(font.getlength(label)) for label, _ in rows) + 2 * GAP
    letters = max(1, int(width / font.getlength("n")))  # "n" is a little wider than the mean of a text
    titles = [textwrap.wrap(sample.prompt, letters) for sample in samples]
    line_height = round(font.size * 1.25)
    top = GAP + line_height * max(len(title) for title in titles) + GAP
    sheet = Image.new("RGB", (left + len(samples) * (width + GAP), top + len(rows) * (height + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        x = left + column * (width + GAP) + width // 2
        for line, text in enumerate(title):
            y = top - GAP - line_height * (len(title) - line)
            pen.text((x, y), text, INK, font, anchor="ma")
    for line, ((label, _), found) in enumerate(zip(rows, images, strict=True)):
        y = top + line * (height + GAP)
        pen.text((left - 2 * GAP, y + height // 2), label, INK, font, anchor="rm")
        for column, image in enumerate(found):
            sheet.paste(image, (left + column * (width + GAP), y))
    with folders.atomic_write(file) as temporary:
        sheet.save(temporary)
