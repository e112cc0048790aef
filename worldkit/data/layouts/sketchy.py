"""Sketchy: ``{train,valid,test}/{demos,rollouts}/XXnumber/*.png`` with one ``*.pt`` per frame, a dict with ``actions``.

The number of a frame is the second field of its name between underscores, less its first letter
(``image_f12.png`` is frame 12).

As upstream: demonstrations before rollouts; episodes shorter than 70 frames are left out, longer ones cut to 70;
``action`` ``[T, 7]``. Otherwise: upstream slides in every split, here the mode of the data set decides.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import DataError
from .files import has_below, names_in, numbered, part_of, subfolders
from .source import Episode, LayoutSource, View, read_metadata

EXPECTED = "{train,valid,test}/{demos,rollouts}/XXnumber/ with images and .pt files"


def _number(stem: str) -> int:
    return int(stem.split("_")[1][1:])


class SketchySource(LayoutSource):
    """Episodes of Sketchy."""

    kind, beside, number = "sketchy", ("action",), staticmethod(_number)

    def columns(self, episode: Episode) -> dict[str, np.ndarray]:
        return read_metadata(episode.views[0].metadata_paths(), {"actions": "action"})


def is_sketchy(target: str) -> bool:
    """Whether a folder is split into demonstrations and rollouts."""
    root = Path(target).expanduser()
    return any(has_below(root, split, "demos") and has_below(root, split, "rollouts") for split in ("train", "test"))


def open_sketchy(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    episode_length: int = 70,
    resize: str = "stretch",
    on_error: str = "raise",
) -> SketchySource:
    """Sketchy as the official LPWM code lays it out; see the module docstring.

    Args:
        target: The folder.
        split: ``"train"``, ``"val"`` or ``"test"``.
        height: Default: the images'.
        width: Default: the height given, else the images'.
        episode_length: Shorter episodes are left out, longer ones cut.
        resize: ``"stretch"`` as upstream, ``"crop"`` or ``"pad"``.
        on_error: ``"raise"``, or ``"skip"`` to leave out episodes that cannot be read.
    Raises:
        DataError: for a folder that is not laid out so.
    """
    folder, episodes = part_of(target, split, expected=EXPECTED), []
    for group in ("demos", "rollouts"):
        if not (folder / group).is_dir():
            raise DataError(f"{folder / group} is missing: expected {EXPECTED}")
        names = numbered(subfolders(folder / group), lambda name: int(name[2:]), folder / group, "XXnumber")
        for name in names:
            here = folder / group / name
            images, files = (
                numbered(names_in(here, suffix), _number, here, f"NAME_xNUMBER{suffix}") for suffix in (".png", ".pt")
            )
            if len(images) < episode_length:
                continue
            view = View(here, tuple(images[:episode_length]), tuple(files[:episode_length]))
            episodes.append(Episode(f"{group}/{name}", (view,)))
    root = Path(target).expanduser()
    if not episodes:
        raise DataError(f"{folder}: no episode has {episode_length} frames; episode_length=N takes shorter ones")
    return SketchySource(root, episodes, split=split, height=height, width=width, resize=resize, on_error=on_error)
