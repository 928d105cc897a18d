"""From a drawing to an image: placed on a canvas, treated in a style, laid on a colour.

Two styles are drawings as they are: `cartoon` in colour, `stencil` in one ink. Two are made from the coloured drawing
by program: `pixel` from 16 x 16 cells, `outline` in thin lines. Ink is dark on light backgrounds, light on dark ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.styles.captions import COLOURS

SIDE = 64
CELLS = 16
DARK, LIGHT = (24, 24, 32), (250, 250, 250)
LINE = 7  # width of an outline, in pixels of a drawing of side 256


def premultiply(drawing: Tensor) -> Tensor:
    """uint8 (4, S, S) to float in [0, 1], colours multiplied by alpha."""
    image = drawing.float() / 255
    return torch.cat([image[:3] * image[3:], image[3:]])


def ink(colour: str) -> Tensor:
    """The ink that is read on a background, (3, 1, 1) in [0, 1]."""
    red, green, blue = COLOURS[colour]
    chosen = DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 145 else LIGHT
    return torch.tensor(chosen).view(3, 1, 1) / 255


def outline(drawing: Tensor) -> Tensor:
    """Where lines go: premultiplied (4, S, S) to (1, S, S) in [0, 1].

    A line stands where alpha or a colour changes fast, so soft shading leaves none. The drawing's border is padded with
    nothing, for drawings touch it, and the space outside is nothing too.
    """
    side = drawing.shape[-1]
    layers = F.pad(drawing, (LINE,) * 4)[None]
    smooth = F.avg_pool2d(F.pad(layers, (2,) * 4), 5, stride=1)
    reach = LINE // 2
    # The largest difference within the line's width: a morphological gradient.
    highest = F.max_pool2d(smooth, LINE, stride=1, padding=reach)
    lowest = -F.max_pool2d(-smooth, LINE, stride=1, padding=reach)
    change = (highest - lowest)[0]
    strength = torch.maximum(change[3], change[:3].amax(0))[None]
    line = ((strength - 0.28) / 0.15).clamp(0, 1)
    # Half of a line stands outside of the drawing, which is made a little smaller so that it has room.
    return F.interpolate(line[None], size=(side, side), mode="area")[0]


def place(image: Tensor, size: int, left: int, top: int, side: int = SIDE) -> Tensor:
    """(C, S, S) resized to `size` and put on an empty canvas, (C, side, side)."""
    small = F.interpolate(image[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    canvas = image.new_zeros(len(image), side, side)
    canvas[:, top : top + size, left : left + size] = small
    return canvas


def pixelate(canvas: Tensor) -> Tensor:
    """Premultiplied (4, H, H) to 16 x 16 cells, each of one colour and either full or empty.

    Made after a drawing is placed: placed afterwards, the cells would not stand on the grid.
    """
    cells = F.avg_pool2d(canvas[None], canvas.shape[-1] // CELLS)[0]
    full = (cells[3:] > 0.4).float()
    colours = cells[:3] / cells[3:].clamp(min=1e-3) * full
    grid = torch.cat([colours, full])[None]
    return F.interpolate(grid, scale_factor=canvas.shape[-1] // CELLS, mode="nearest")[0]


def on_colour(canvas: Tensor, colour: str) -> Tensor:
    """Lay a premultiplied canvas (4, H, H), or ink as (1, H, H), on a background: (3, H, H) in [0, 1]."""
    background = torch.tensor(COLOURS[colour]).view(3, 1, 1) / 255
    if len(canvas) == 1:
        return canvas * ink(colour) + (1 - canvas) * background
    return canvas[:3] + (1 - canvas[3:]) * background
