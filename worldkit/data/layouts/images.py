"""Layouts that are images and nothing else: OBJ3D, CLEVRER, Mario and PHYRE.

``obj3d``: ``{train,val,test}/NUMBER/test_NUMBER.png``, of any size. ``clevrer``: ``{train,valid}/NUMBER/NUMBER.png``,
frames 18 to 117 of each video; test is the folder ``test`` or, where there is none, what ``valid`` holds from episode
1000 on, and val is what lies before. ``mario``: ``{train,val}/NUMBER/NUMBER.png``, tested on val.
``phyre``: ``{train,valid,test}/NUMBER/NUMBER.png``, colours inverted, the last 30 frames (the solved task at rest)
dropped. Windows slide over the first 100 frames.

Otherwise than upstream, which evaluates whole episodes, windows have the length asked for. Upstream pads episodes of
PHYRE to 100 frames and moves windows back inside the true length, which shows their ends more often; here every window
inside the true length is shown once, and only an episode shorter than a window is padded by its last frame.

OBJ3D is told by its file names. The others look like any folder of frame folders: they are recognised where the folder,
or the one that it lies in, is called so (``data/phyre``), and else must be named: ``format="phyre"``.
``format="video"`` reads the pictures as they are.

Source: LPWM's loaders, and those of github.com/taldatech/ddlp @ 5686275, which are the same and have CLEVRER besides.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..splits import split_paths
from .files import names_in, numbered, part_of, subfolders
from .source import Episode, LayoutSource, View

FIRST_TESTED = 1000  # of CLEVRER's validation videos, what DDLP tests on
IDLE_FRAMES = 30  # three seconds at ten frames per second: PHYRE calls a task solved when it has held so long


class Obj3DSource(LayoutSource):
    """Episodes of OBJ3D."""

    kind = "obj3d"


class ClevrerSource(LayoutSource):
    """Episodes of CLEVRER."""

    kind = "clevrer"


class MarioSource(LayoutSource):
    """Episodes of Mario."""

    kind = "mario"


class PhyreSource(LayoutSource):
    """Episodes of PHYRE."""

    kind, inverted, besides = "phyre", True, f"colours inverted, the last {IDLE_FRAMES} frames left out (phyre)"

    def last_start(self, episode: int, span: int) -> int:
        return max(0, self.length(episode) - span)


def _opener(
    source: type[LayoutSource],
    expected: str,
    *,
    prefix: str = "",
    stand_in: dict[str, str] | None = None,
    dropped: int = 0,
    first_tested: int | None = None,
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
        root = Path(target).expanduser()
        divided = first_tested is not None and "test" not in split_paths(root)
        instead = {"test": "val"} if divided else stand_in
        folder, episodes = part_of(target, split, expected=expected, stand_in=instead), []
        for name in sorted(filter(str.isdecimal, subfolders(folder)), key=int):  # others are passed over, as upstream
            if divided and split != "train" and (int(name) < first_tested) != (split == "val"):
                continue
            here = folder / name
            images = numbered(names_in(here, ".png", prefix), lambda s: int(s.removeprefix(prefix)), here, expected)
            images = images[: max(0, len(images) - dropped)][:episode_length]
            episodes.append(Episode(name, (View(here, tuple(images)),)))
        return source(root, episodes, split=split, height=height, width=width, resize=resize, on_error=on_error)

    open_layout.__doc__ = f"""{expected}; see the module docstring. ``episode_length``: longer episodes are cut;
    ``resize``: ``"stretch"`` as upstream, ``"crop"`` or ``"pad"``; ``on_error``: ``"raise"``, or ``"skip"`` to leave
    out episodes that cannot be read."""
    return open_layout


open_obj3d = _opener(Obj3DSource, "{train,val,test}/NUMBER/test_NUMBER.png", prefix="test_")
open_clevrer = _opener(ClevrerSource, "{train,valid}/NUMBER/NUMBER.png", first_tested=FIRST_TESTED)
open_mario = _opener(MarioSource, "{train,val}/NUMBER/NUMBER.png", stand_in={"test": "val"})
open_phyre = _opener(PhyreSource, "{train,valid,test}/NUMBER/NUMBER.png", dropped=IDLE_FRAMES)


def is_obj3d(target: str) -> bool:
    """Whether numbered folders below the splits hold ``test_NUMBER.png``."""
    return _holds(Path(target).expanduser(), "test_")


def is_called(name: str) -> Callable[[str], bool]:
    """A recogniser: numbered folders with ``NUMBER.png`` below splits, in a folder of this name or right below one."""

    def matches(target: str) -> bool:
        root = Path(target).expanduser().absolute()
        return any(name in part.lower() for part in root.parts[-2:]) and _holds(root, "")

    return matches


def _holds(root: Path, prefix: str) -> bool:
    """Whether the first numbered folder of a split holds a picture ``PREFIX NUMBER.png``; quick."""
    for folders in split_paths(root).values():
        first = next(filter(str.isdecimal, subfolders(folders[0])), None)
        if first is not None:
            name = next(iter(names_in(folders[0] / first, ".png")), "")
            return name.startswith(prefix) and Path(name).stem.removeprefix(prefix).isdecimal()
    return False
