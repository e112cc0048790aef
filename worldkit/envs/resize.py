"""Pictures of an environment at another size; see `worldkit.pictures`."""

from __future__ import annotations

import numpy as np

from ..pictures import fit_pictures


def resize(picture: np.ndarray, height: int, width: int, how: str = "stretch") -> np.ndarray:
    """A picture at another size; by default the whole of it, so things stretch where the shape differs.

    Args:
        picture: uint8 ``[h, w, C]``.
        height, width: In pixels.
        how: `worldkit.pictures.RESIZE`.
    Returns:
        uint8 ``[H, W, C]``, a new array.
    Example:
        >>> resize(np.full((4, 6, 3), 9, np.uint8), 2, 2)[0, 0].tolist()
        [9, 9, 9]
    """
    return np.array(fit_pictures(picture, (height, width), how))
