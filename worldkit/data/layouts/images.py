"""Layouts that are images and nothing else: OBJ3D, Mario and PHYRE.

``obj3d``: ``{train,val,test}/NUMBER/test_NUMBER.png``. ``mario``: ``{train,val}/NUMBER/NUMBER.png``, tested on val.
``phyre``: ``{train,valid,test}/NUMBER/NUMBER.png``, colours inverted, the last 30 frames (the solved task at rest)
dropped. Windows slide over the first 100 frames.

Otherwise than upstream, which evaluates whole episodes, windows have the length asked for. Upstream pads episodes of
PHYRE to 100 frames and moves windows back inside the true length, which shows their ends more often; here every window
inside the true length is shown once, and only an episode shorter than a window is padded by its last frame.

These look like any folder of frame folders, so they must be named: ``format="mario"``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .files import names_in, numbered, part_of, subfolders
from .source import Episode, LayoutSource, View

IDLE_FRAMES = 30  # three seconds at ten frames per second: PHYRE calls a task solved when it has held so long


class Obj3DSource(LayoutSource):
    """Episodes of OBJ3D."""

    kind = "obj3d"


class MarioSource(LayoutSource):
    """Episodes of Mario."""

    kind = "mario"


class PhyreSource(LayoutSource):
    """Episodes of PHYRE."""

    kind, inverted = "phyre", True

    def last_start(self, episode: int, span: int) -> int:
        return max(0, self.length(episode) - span)


def _opener(
    source: type[LayoutSource],
    expected: str,
    *,
    prefix: str = "",
    stand_in: dict[str, str] | None = None,
    dropped: int = 0,
) -> Callable[..., LayoutSource]:
    def open_layout(
        target: str,
        *,
        split: str,
        height: int | None = None,
        width: int | None = None,
        episode_length: int = 100,
        resize: str = "stretch",
        on_error: str = "raise",
    ) -> LayoutSource:
        folder, episodes = part_of(target, split, expected=expected, stand_in=stand_in), []
        for name in sorted(filter(str.isdecimal, subfolders(folder)), key=int):  # others are passed over, as upstream
            here = folder / name
            images = numbered(names_in(here, ".png", prefix), lambda s: int(s.removeprefix(prefix)), here, expected)
            images = images[: max(0, len(images) - dropped)][:episode_length]
            episodes.append(Episode(name, (View(here, tuple(images)),)))
        root = Path(target).expanduser()
        return source(root, episodes, split=split, height=height, width=width, resize=resize, on_error=on_error)

    open_layout.__doc__ = f"""{expected}; see the module docstring. ``episode_length``: longer episodes are cut;
    ``resize``: ``"stretch"`` as upstream, ``"crop"`` or ``"pad"``; ``on_error``: ``"raise"``, or ``"skip"`` to leave
    out episodes that cannot be read."""
    return open_layout


open_obj3d = _opener(Obj3DSource, "{train,val,test}/NUMBER/test_NUMBER.png", prefix="test_")
open_mario = _opener(MarioSource, "{train,val}/NUMBER/NUMBER.png", stand_in={"test": "val"})
open_phyre = _opener(PhyreSource, "{train,valid,test}/NUMBER/NUMBER.png", dropped=IDLE_FRAMES)


def never(target: str) -> bool:
    """These layouts cannot be told from an ordinary folder of frame folders."""
    return False
