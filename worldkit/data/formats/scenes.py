"""Films of several cameras: which clips show one scene, and so must not be parted by a split.

Recorders write a folder per episode with a film per camera (``ep_0/front.mp4``, ``ep_0/wrist.mp4``). Each film is a
clip, but the same moment seen twice, once in train and once in val, would be a leak.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .clip_files import Clip

_MOST = 8
"""Cameras of a scene at most."""
_NUMBERED, _CAMERA = re.compile(r"\d+$"), re.compile(r"cam|view|eye", re.IGNORECASE)


def scenes(clips: Sequence[Clip]) -> list[str]:
    """Of every clip, the name of what it belongs to: its folder, if that holds the films of one scene, else itself.

    Films are those of one scene where two folders or more hold films of the same two to eight names, and the names are
    words (``front``, ``depth``) or numbered cameras (``cam_0``). Other numbered names (``clip_0``) are clips of their
    own. A folder that lacks some of the cameras counts, too.

    Example:
        >>> films = [Clip(f"{scene}/{name}.mp4", (Path("x.mp4"),)) for scene in "ab" for name in ("front", "wrist")]
        >>> scenes(films)
        ['a', 'a', 'b', 'b']
        >>> scenes([Clip(f"{kind}/{i}.mp4", (Path("x.mp4"),)) for kind in ("run", "walk") for i in range(2)])
        ['run/0.mp4', 'run/1.mp4', 'walk/0.mp4', 'walk/1.mp4']
    """
    held: dict[str, set[str]] = {}
    for clip in clips:
        if clip.is_video and "/" in clip.name:
            held.setdefault(_folder(clip), set()).add(Path(clip.name).stem)
    cameras = [set(names) for names, count in Counter(map(frozenset, held.values())).items()
               if count > 1 and 2 <= len(names) <= _MOST
               and all(_CAMERA.search(name) or not _NUMBERED.search(name) for name in names)]
    one = {folder for folder, names in held.items() if len(names) > 1 and any(names <= known for known in cameras)}
    return [_folder(clip) if clip.is_video and _folder(clip) in one else clip.name for clip in clips]


def _folder(clip: Clip) -> str:
    return clip.name.rpartition("/")[0]


def told(clips: Sequence[Clip]) -> str:
    """What to say of clips that stay together; empty if each is on its own."""
    together = Counter(name for name, clip in zip(scenes(clips), clips, strict=True) if name != clip.name)
    if not together:
        return ""
    first = next(iter(together))
    names = ", ".join(sorted(Path(clip.name).name for clip in clips if _folder(clip) == first))
    return (f"{len(together)} folders hold films of one scene each ({first}: {names}): every film is a clip, and those "
            "of a scene stay together in train, val or test")
