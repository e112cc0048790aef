"""Pictures as uint8 tensors ``[3, h, w]``: conversion, enlargement, borders, labels, grids, PNG and GIF files."""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from ..batch import check_shape, to_float_video
from ..errors import ShapeError
from ..files import write_atomically
from ..gif import gif_file

if TYPE_CHECKING:
    from PIL import Image, ImageFont

Color = tuple[int, int, int]
"""RGB, 0 .. 255."""

WHITE: Color = (255, 255, 255)
INK: Color = (30, 34, 42)
MUTED: Color = (96, 104, 118)


def to_uint8(image: Tensor) -> Tensor:
    """Float images in about [0, 1] -> uint8, clamped and rounded; uint8 is passed on. Any shape; result on the CPU.

    Raises:
        ShapeError: if float values leave [-0.5, 1.5] or are NaN (a wrong unit), or the dtype is neither.
    Example:
        >>> to_uint8(torch.tensor([-0.1, 0.0, 0.5, 1.0])).tolist()
        [0, 0, 128, 255]
    """
    image = image.detach().cpu()
    if image.dtype == torch.uint8:
        return image
    if image.is_floating_point() and image.numel():
        image = image.float()
        low, high = torch.aminmax(image)
        if not (low >= -0.5 and high <= 1.5):  # written so that NaN fails, too
            raise ShapeError(
                f"image must be uint8, or float in [0, 1], got values from {low:.4g} to {high:.4g}; divide by 255, "
                "or bring it to [0, 1]"
            )
        image = image.clamp(0, 1)
    return (to_float_video(image, name="image") * 255).round().to(torch.uint8)


def enlarge(images: Tensor, cell: int) -> tuple[Tensor, int]:
    """Enlarge small pictures by a whole factor, so that pixels stay sharp squares.

    Args:
        images: ``[T, 3, h, w]`` uint8.
        cell: Wanted height in pixels. The factor is the smallest that reaches it; larger pictures are left as they are.
    Returns:
        (pictures ``[T, 3, f h, f w]``, factor f).
    Example:
        >>> enlarge(torch.zeros(1, 3, 32, 48, dtype=torch.uint8), 96)[0].shape
        torch.Size([1, 3, 96, 144])
    """
    factor = max(1, math.ceil(cell / check_shape(images, "t c h w", name="images", c=3)["h"]))
    return repeat(images, "t c h w -> t c (h fh) (w fw)", fh=factor, fw=factor), factor


def canvas(height: int, width: int, color: Color = WHITE) -> Tensor:
    """Plain picture, ``[3, height, width]`` uint8."""
    return repeat(torch.tensor(color, dtype=torch.uint8), "c -> c h w", h=height, w=width).clone()


def border(images: Tensor, color: Color, width: int = 4) -> Tensor:
    """Pictures with a coloured frame around them, ``[T, 3, h, w]`` -> ``[T, 3, h + 2 width, w + 2 width]``.

    Example:
        >>> border(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), (255, 0, 0), 1)[0, :, 0, 0].tolist()
        [255, 0, 0]
    """
    check_shape(images, "t c h w", name="images", c=3)
    padded = F.pad(images, (width, width, width, width))
    inside = F.pad(torch.ones(images.shape[-2:], dtype=torch.bool), (width, width, width, width))
    return torch.where(inside, padded, rearrange(torch.tensor(color, dtype=torch.uint8), "c -> c 1 1"))


def grid(images: Tensor, columns: int, *, gap: int = 4, color: Color = WHITE) -> Tensor:
    """Pictures of one size in rows of ``columns``, with gaps between them.

    Args:
        images: ``[N, 3, h, w]``, uint8 or float in [0, 1].
        columns: Pictures per row.
        gap: Gap between pictures in pixels.
        color: Colour of the gaps and of places without a picture.
    Returns:
        ``[3, H, W]`` uint8.
    Raises:
        ShapeError: if there is no picture or no column.
    Example:
        >>> grid(torch.zeros(5, 3, 8, 8), columns=3, gap=2).shape
        torch.Size([3, 18, 28])
    """
    sizes = check_shape(images, "n c h w", name="images", c=3)
    if sizes["n"] == 0 or columns < 1:
        raise ShapeError(f"a grid needs pictures and columns >= 1, got {sizes['n']} pictures and columns={columns}")
    images, h, w = to_uint8(images), sizes["h"], sizes["w"]
    columns = min(columns, sizes["n"])
    rows = math.ceil(sizes["n"] / columns)
    out = canvas(rows * (h + gap) - gap, columns * (w + gap) - gap, color)
    for i, image in enumerate(images):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        out[:, top : top + h, left : left + w] = image
    return out


def labelled_rows(rows: Mapping[str, Tensor], titles: Sequence[str]) -> Tensor:
    """Rows of pictures with a name at the left of each row and a title above each column.

    Args:
        rows: Name -> ``[N, 3, h, w]`` uint8, all of one shape.
        titles: N of them.
    Returns:
        ``[3, H, W]`` uint8.
    Example:
        >>> labelled_rows({"input": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}, ["frame 0", "frame 1"]).shape
        torch.Size([3, 58, 180])
    """
    label, top, gap = 108, 22, 4
    height, width = next(iter(rows.values())).shape[-2:]
    out = canvas(top + len(rows) * (height + gap), label + len(titles) * (width + gap))
    for column, text in enumerate(titles):
        left = label + column * (width + gap)
        out[:, :top, left : left + width] = text_block(text, top, width, size=13, color=MUTED)
    for row, (name, pictures) in enumerate(rows.items()):
        edge = top + row * (height + gap)
        out[:, edge : edge + height, :label] = text_block(name, height, label, align="right")
        for column, picture in enumerate(pictures):
            left = label + column * (width + gap)
            out[:, edge : edge + height, left : left + width] = picture
    return out


def text_block(
    text: str, height: int, width: int, *, size: int = 14, color: Color = INK, background: Color = WHITE,
    align: str = "center",
) -> Tensor:
    """Text on a plain ground, wrapped at blanks, ``[3, height, width]`` uint8; what does not fit ends in "…".

    Args:
        align: ``"left"``, ``"center"`` or ``"right"``; vertically it is centred.
    """
    from PIL import Image, ImageDraw

    face = font(size)
    line_height = size + 4
    lines = _wrap(text, max(1, width - 8), face)
    fitting = max(1, height // line_height)
    if len(lines) > fitting:
        lines = [*lines[: fitting - 1], _shorten(lines[fitting - 1] + " …", width - 8, face, always=True)]
    image = Image.new("RGB", (width, height), background)
    draw = ImageDraw.Draw(image)
    top = (height - line_height * len(lines)) / 2 + line_height / 2
    x, anchor = {"left": (4, "lm"), "center": (width / 2, "mm"), "right": (width - 4, "rm")}[align]
    for i, line in enumerate(lines):
        draw.text((x, top + i * line_height), _shorten(line, width - 8, face), fill=color, font=face, anchor=anchor)
    return from_pil(image)


def text_height(text: str, width: int, *, size: int = 14) -> int:
    """Height in pixels that `text_block` needs to show all of a text at this width."""
    return (size + 4) * len(_wrap(text, max(1, width - 8), font(size)))


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's built-in font at a size in pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size)  # type: ignore[return-value]


def to_pil(image: Tensor) -> Image.Image:
    """``[3, h, w]`` -> Pillow image."""
    from PIL import Image as pil

    check_shape(image, "c h w", name="image", c=3)
    return pil.fromarray(rearrange(to_uint8(image), "c h w -> h w c").contiguous().numpy())


def from_pil(image: Image.Image) -> Tensor:
    """Pillow image -> ``[3, h, w]`` uint8."""
    import numpy as np

    return rearrange(torch.from_numpy(np.array(image.convert("RGB"))), "h w c -> c h w").contiguous()


def png_bytes(image: Tensor) -> bytes:
    """PNG file of a picture ``[3, h, w]``, uint8 or float in [0, 1].

    Example:
        >>> png_bytes(torch.zeros(3, 8, 8))[1:4]
        b'PNG'
    """
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def save_png(image: Tensor, path: str | os.PathLike[str]) -> None:
    """Write a picture ``[3, h, w]``, uint8 or float in [0, 1], as PNG; replaces the file in one step."""
    data = png_bytes(image)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def gif_bytes(frames: Tensor, *, fps: float = 8) -> bytes:
    """Endless GIF of an animation.

    One palette of 256 colours for all frames, without dithering, so that still regions do not flicker. A GIF counts
    time in hundredths of a second: 30 fps becomes 33. Every frame is stored, also one that equals the frame before.

    Args:
        frames: ``[T, 3, h, w]``, uint8 or float in [0, 1].
        fps: Frames per second, in (0, 50].
    Raises:
        ShapeError: if there is no frame, or fps is out of range.
    Example:
        >>> gif_bytes(torch.rand(3, 3, 8, 8))[:3]
        b'GIF'
    """
    if check_shape(frames, "t c h w", name="frames", c=3)["t"] == 0:
        raise ShapeError("frames is empty: an animation needs at least one frame")
    if not 0 < fps <= 50:
        raise ShapeError(f"fps of a GIF must be in (0, 50], got {fps}; write an .mp4 for more")
    frames = to_uint8(frames)
    sample = frames[torch.linspace(0, len(frames) - 1, min(16, len(frames))).long()]
    palette = to_pil(rearrange(sample, "t c h w -> c (t h) w")).quantize(256, dither=0)
    pictures = [to_pil(frame).quantize(palette=palette, dither=0) for frame in frames]
    return gif_file(pictures, max(2, round(100 / fps)))


def save_gif(frames: Tensor, path: str | os.PathLike[str], *, fps: float = 8) -> None:
    """Write `gif_bytes` to a file; replaces the file in one step."""
    data = gif_bytes(frames, fps=fps)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def _wrap(text: str, width: int, face: ImageFont.FreeTypeFont) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}".strip()
            if line and face.getlength(joined) > width:
                lines.append(line)
                line = word
            else:
                line = joined
        lines.append(line)
    return lines


def _shorten(line: str, width: int, face: ImageFont.FreeTypeFont, *, always: bool = False) -> str:
    """The line, or as much of it as fits followed by "…"."""
    if face.getlength(line) <= width:
        return line
    line = line.removesuffix(" …") if always else line
    while line and face.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"
