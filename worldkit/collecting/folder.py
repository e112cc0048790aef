"""A folder of episodes that grows: every one is a file that is there as a whole or not at all."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data.entries import save_entries
from ..errors import DataError
from ..files import naming, open_to_others, write_atomically

ABOUT = "collection.json"
_NAME = re.compile(r"episode_(\d+)\.npz")


def resize_of(data: str) -> str | None:
    """How an environment's pictures became the frames of a folder that ``worldkit collect`` wrote; None of other data.

    Example:
        >>> resize_of("balls-32") is None
        True
    """
    try:
        about = json.loads((Path(data).expanduser() / ABOUT).read_text(encoding="utf-8"))
        return str(about["options"].get("resize", "stretch")) if "size" in about["options"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class EpisodeFolder:
    """A folder of ``episode_000000.npz`` and so on, as the format ``npz`` reads them, and what they come from.

    Args:
        path: The folder.
        about: What its episodes come from: all of them must come from the same; plain values that JSON knows.
        append: Whether there may be episodes already.
    Raises:
        DataError: if the folder holds something else, or episodes of something else, or episodes and not ``append``.
    """

    def __init__(self, path: str | os.PathLike[str], *, about: Mapping[str, Any], append: bool = False):
        self.path = Path(path).expanduser()
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path} is a file: episodes are collected in a folder, name another one")
        files = self.path.iterdir() if self.path.exists() else ()
        held = [file.name for file in files if not file.name.startswith(".")]
        numbers = [int(found[1]) for name in held if (found := _NAME.fullmatch(name))]
        self._held, self.found = set(numbers), len(numbers)
        others = [name for name in held if name != ABOUT and not _NAME.fullmatch(name)]
        if others:
            raise DataError(f"{self.path} holds other things ({', '.join(sorted(others)[:3])}): name another folder")
        if numbers and not append:
            raise DataError(f"{self.path} holds {len(numbers)} episodes already: append=True adds to them")
        about = json.loads(json.dumps(about))
        if numbers:
            self._check_same(about)
        write_atomically(self.path / ABOUT, lambda file: file.write_text(json.dumps(about, indent=2) + "\n"))

    def _check_same(self, about: Mapping[str, Any]) -> None:
        try:
            before = json.loads((self.path / ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} holds episodes, and {ABOUT}, which says of what, cannot be read ({error}): "
                            "name another folder") from error
        for name in {**before, **about}:
            if before.get(name) != about.get(name):
                raise DataError(f"{self.path} holds episodes with {name} {before.get(name)!r}, not {about.get(name)!r}"
                                ": a data set is of one kind, name another folder")

    def free_numbers(self) -> Iterator[int]:
        """Numbers that no episode has, from 0 on: gaps come first, which a killed collection of several leaves."""
        return (number for number in itertools.count() if number not in self._held)

    def add(self, episode: Mapping[str, Any], number: int | None = None, *, replace: bool = False) -> Path:
        """Store an episode; entries as `worldkit.collecting.play_episode` gives them.

        Args:
            episode: The entries.
            number: Its number, if that is free still (another process may have taken it), else the first free one.
            replace: Put it in the place of an episode of that number.
        Raises:
            OSError: if it cannot be written; nothing of it is left then.
        """
        partial = self.path / f".episode.{os.getpid()}.tmp"
        try:
            with naming(self.path), open(partial, "wb") as file:
                save_entries(file, episode, video=np.asarray(episode["video"]))
            open_to_others(partial)
            if replace and number is not None:
                self._held.add(number)
                return partial.replace(self._place(number))
            for free in itertools.chain([] if number is None else [number], self.free_numbers()):
                self._held.add(free)
                target = self._place(free)
                try:
                    os.link(partial, target)  # unlike a renaming, never in the place of another process's episode
                    return target
                except FileExistsError:
                    continue
                except OSError:  # a file system without links
                    if not target.exists():
                        return partial.rename(target)
            raise AssertionError("numbers do not end")
        finally:
            partial.unlink(missing_ok=True)

    def _place(self, number: int) -> Path:
        return self.path / f"episode_{number:06d}.npz"
