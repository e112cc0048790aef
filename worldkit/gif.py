"""GIF files that keep every frame.

Pillow leaves out a frame that equals the one before and shows that one longer, so that a reader counts fewer frames
than were written. Here every frame is stored, as the rectangle in which it differs from the one before, or as a single
pixel where it does not.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_FOREVER = b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"


def gif_file(pictures: Sequence[Image.Image], hundredths: int) -> bytes:
    """An endless GIF.

    Args:
        pictures: Pillow images of mode ``"P"``, of one size and one palette: the frames.
        hundredths: How long each is shown, in 1/100 s; below 2, most players slow down.
    Example:
        >>> from PIL import Image
        >>> still = Image.new("RGB", (4, 4)).quantize(256)
        >>> data = gif_file([still] * 3, 10)
        >>> import io; Image.open(io.BytesIO(data)).n_frames
        3
    """
    from PIL import ImageChops
    from PIL.GifImagePlugin import getdata

    first = pictures[0]
    colors = bytes(first.getpalette() or ())[:768].ljust(768, b"\0")
    parts = [b"GIF89a", struct.pack("<HHBBB", *first.size, 0xF7, 0, 0), colors, _FOREVER]
    before = None
    for picture in pictures:
        indices = _plain(picture)
        box = (0, 0, *first.size) if before is None else ImageChops.difference(indices, before).getbbox()
        box = box or (0, 0, 1, 1)
        parts += getdata(picture.crop(box), box[:2], duration=10 * hundredths)
        before = indices
    return b"".join([*parts, b";"])


def _plain(picture: Image.Image) -> Image.Image:
    """The colour numbers of a picture, as grey levels."""
    from PIL import Image as pil

    return pil.frombytes("L", picture.size, picture.tobytes())
