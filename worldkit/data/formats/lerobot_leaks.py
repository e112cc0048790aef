"""What episodes or splits of a LeRobot data set share: frames that would be trained on and tested on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from ...errors import DataError
from ..splits import split_of
from .lerobot_meta import DataSetInfo, EpisodeInfo


def given_splits(info: DataSetInfo) -> dict[str, tuple[int, int]]:
    """Our name of each split in ``meta/info.json`` -> first episode and one past the last."""
    return {split: span for name, span in info.splits.items() if (split := split_of(name))}


def leaks(info: DataSetInfo, episodes: Sequence[EpisodeInfo]) -> Iterator[DataError]:
    """Splits that share episodes, an episode that is listed twice, and videos whose episodes share frames."""
    for (one, span), (other, another) in combinations(given_splits(info).items(), 2):
        first, last = max(span[0], another[0]), min(span[1], another[1])
        if first < last:
            yield DataError(f"{info.path}: splits '{one}' and '{other}' share episodes {first} to {last - 1}")
    meta = info.root / "meta"
    for before, after in zip(episodes, episodes[1:], strict=False):
        if before.index == after.index:
            yield DataError(f"{meta}: episode {before.index} is listed twice")
    shown: dict[Path, list[tuple[float, EpisodeInfo]]] = {}
    for episode in episodes:
        for path, begin in episode.videos.values():
            shown.setdefault(path, []).append((begin, episode))
    for path, begins in shown.items():
        begins.sort(key=lambda found: found[0])
        for (begin, before), (following, after) in zip(begins, begins[1:], strict=False):
            end = begin + before.length / info.fps
            if following < end - 0.5 / info.fps:
                told = f"episode {before.index} lasts until {end:.3f} s, but episode {after.index} begins at"
                yield DataError(f"{meta}: {told} {following:.3f} s of {path}: they share frames")
