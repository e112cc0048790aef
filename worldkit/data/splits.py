"""Train, val and test: by clip where there are clips enough, else by time.

* Three clips or more: every clip belongs to one split, 80/10/10, chosen by a hash of its name. Up to 20 clips the
  counts are those of the ratio, rounded, but never 0: 8 clips are 6, 1 and 1. Of more clips, train may have 2 % of
  those above 20 more or less, and so may val and test together. When a clip is added, it may push at most one clip from
  train to val or back, and one from val to test or back; the more clips, the rarer. Measured with random names: from 8
  to 16 clips 1.1 of the 8 move, from 100 to 200 2.2 of the 100, from 1000 to 2000 0.4 of the 1000, from 3000 on none.
* One or two clips: each is cut in time into three blocks that share no frame: the first 80 % are train, the next 10 %
  val, the last 10 % test.
* A folder with sub-folders (or files) named ``train``/``training``, ``val``/``valid``/``validation``,
  ``test``/``testing``, in letters of any case, is split already.
* The split ``"all"`` is everything: whole episodes, in the order in which they lie there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError

SPLITS = ("train", "val", "test")
FRACTIONS = (0.8, 0.1, 0.1)
ALL = "all"
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


class MissingSplitError(DataError):
    """The data set is split, but has no such split."""


class AlreadySplitError(DataError):
    """All of the data is asked for, but it lies in parts that must be opened one by one."""


def check_split(split: str) -> None:
    """Raises DataError unless ``split`` is ``"train"``, ``"val"`` or ``"test"``."""
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(map(repr, SPLITS))} or '{ALL}', got {split!r}")


def split_clips(names: Sequence[str], *, seed: int = 0) -> dict[str, list[int]]:
    """Which clips belong to which split, for three clips or more.

    Args:
        names: Distinct names of the clips (paths relative to the folder, so the split is the same on every machine).
        seed: Another seed, another split.
    Returns:
        Split name -> sorted indices into ``names``; no split is empty.
    Raises:
        DataError: if there are less than three clips.
    Example:
        >>> split_clips(["a.mp4", "b.mp4", "c.mp4"])
        {'train': [1], 'val': [0], 'test': [2]}
    """
    if len(names) < len(SPLITS):
        raise DataError(f"{len(names)} clip(s) cannot be split by clip into {', '.join(SPLITS)}: at least 3 are needed")
    count = len(names)
    place = [int(hashlib.sha256(os.fsencode(f"{seed}/{name}")).hexdigest()[:12], 16) / 16**12 for name in names]
    order = sorted(range(count), key=place.__getitem__)
    first = min(max(_border(place, FRACTIONS[0]), 1), count - 2)
    second = min(max(_border(place, FRACTIONS[0] + FRACTIONS[1]), first + 1), count - 1)
    parts = (order[:first], order[first:second], order[second:])
    return {name: sorted(part) for name, part in zip(SPLITS, parts, strict=True)}


def _border(place: Sequence[float], share: float) -> int:
    """How many clips come before a border: as many as lie before it, but never far from their share.

    With every clip it grows by 0 or 1, so that a clip that is added moves at most one other one across it.
    """
    percent, free = round(100 * share) * len(place) + 50, 2 * max(0, len(place) - 20)
    return min(max(sum(p < share for p in place), (percent - free) // 100), (percent + free) // 100)


def split_time(num_frames: int, split: str) -> tuple[int, int]:
    """First and one-past-last frame of a split's block of one clip.

    Example:
        >>> [split_time(250, split) for split in ("train", "val", "test")]
        [(0, 200), (200, 225), (225, 250)]
    """
    if split == ALL:
        return 0, num_frames
    check_split(split)
    first = round(num_frames * FRACTIONS[0])
    second = round(num_frames * (FRACTIONS[0] + FRACTIONS[1]))
    return {"train": (0, first), "val": (first, second), "test": (second, num_frames)}[split]


def split_episodes(
    names: Sequence[str], lengths: Sequence[int], split: str, *, seed: int = 0
) -> list[tuple[int, int, int]]:
    """The part of a data set that is not split yet: by episode where there are three or more, else by time.

    Args:
        names: Distinct names of the episodes.
        lengths: Frames of each.
        split: ``"train"``, ``"val"`` or ``"test"``.
        seed: Another seed, another split by episode.
    Returns:
        ``(episode, first frame, one past the last frame)`` of each episode or block; of all, whole, with ``"all"``.
    Example:
        >>> split_episodes(["a"], [10], "val"), split_episodes(["a", "b", "c"], [5, 6, 7], "val")
        ([(0, 8, 9)], [(1, 0, 6)])
    """
    if split == ALL:
        return [(i, 0, length) for i, length in enumerate(lengths)]
    check_split(split)
    if len(names) < len(SPLITS):
        return [(i, *split_time(length, split)) for i, length in enumerate(lengths)]
    return [(i, 0, lengths[i]) for i in split_clips(names, seed=seed)[split]]


def split_of(name: str) -> str | None:
    """The split that a folder or a file (without its suffix) is called after.

    Example:
        >>> split_of("Validation"), split_of("validated")
        ('val', None)
    """
    return next((split for split, spellings in SPLIT_FOLDERS.items() if name.lower() in spellings), None)


def split_paths(folder: Path, suffixes: Sequence[str] = ("",)) -> dict[str, list[Path]]:
    """Split -> what a folder holds of it: sub-folders, or files, by their suffixes; in the order of splits.

    Example:
        >>> split_paths(Path("no such folder"))
        {}
    """
    found: dict[str, list[Path]] = {name: [] for name in SPLITS}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            stem, suffix = os.path.splitext(entry.name)
            split = split_of(stem)
            if split and suffix.lower() in suffixes and (entry.is_file() if suffix else entry.is_dir()):
                found[split].append(folder / entry.name)
    return {name: paths for name, paths in found.items() if paths}


def nested_splits(folder: Path, names: Sequence[str]) -> str:
    """What to say of a folder that is not split, but whose clips lie in folders of different splits; else nothing.

    Args:
        folder: The folder.
        names: Paths of its clips, relative to it.
    Example:
        >>> nested_splits(Path("bikes"), ["day1/a.mp4", "day2/train/a.mp4"])
        ''
    """
    found: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        for i, part in enumerate(parts):
            if split := split_of(part):
                found.setdefault(split, "/".join(parts[: i + 1]))
    if len(found) < 2:
        return ""
    above = {name.rpartition("/")[0] for name in found.values()}
    give = f"give {folder / above.pop()}" if len(above) == 1 else "give a folder that holds train, val and test"
    held = " and ".join(found.values())
    return f"{folder} holds {held}: their clips would be mixed and split anew. To keep them apart, {give}"


def split_folder(folder: Path, split: str, suffixes: Sequence[str] = ("",)) -> Path | None:
    """The sub-folder that holds a split, or the file, given suffixes; ``None`` if the folder is not split at all.

    Raises:
        MissingSplitError: if the folder is split, but not this split.
        DataError: if it holds one split twice, under two names.
        AlreadySplitError: if the folder is split, and all of it is asked for.
    """
    if split != ALL:
        check_split(split)
    found: dict[str, Path] = {}
    for name, paths in split_paths(folder, suffixes).items():
        if len(paths) > 1:
            held = " and ".join(path.name for path in paths)
            raise DataError(f"{folder} holds {held}, both of split '{name}': rename or move all but one")
        found[name] = paths[0]
    if not found:
        return None
    if split == ALL:
        raise AlreadySplitError(f"{folder} is split into {', '.join(p.name for p in found.values())}")
    if split not in found:
        some = " with some of train's clips (trainings are scored on it)" if split == "val" and "train" in found else ""
        raise MissingSplitError(
            f"{folder} has {', '.join(p.name for p in found.values())}, but nothing for split '{split}': "
            f"add {' or '.join(SPLIT_FOLDERS[split])}{some}, or ask for {' or '.join(map(repr, found))}"
        )
    return found[split]
