"""Collected episodes in another format than the one in which they are collected."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..data import open_dataset, write_dataset
from ..errors import DataError

EPISODES = "npz"
"""The format that grows episode by episode, and so the one in which they are collected."""


class Export:
    """Episodes beside a data set, which is written when they are complete.

    Args:
        out: The data set.
        to: Its format.
        fps: Frames per second, if they are known.
        append: Whether it may be there already.
    Attributes:
        episodes: Folder of the episodes, ``OUT.episodes``.
    Raises:
        DataError: if there is one already, and not ``append``.
    """

    def __init__(self, out: str | os.PathLike[str], to: str, *, fps: float | None, append: bool):
        self.out, self.to, self.fps = Path(out).expanduser(), to, fps
        self.episodes = self.out.with_name(f"{self.out.name}.episodes")
        if self.out.exists() and not (append and self.episodes.is_dir()):
            raise DataError(f"{self.out} exists already" + (
                f", and not its episodes, {self.episodes}, without which it cannot be added to" if append else
                ": append=True adds to it") + "; or name another one")

    def rehearse(self) -> None:
        """Write the episodes that are there to a place where they are forgotten, to see that the format holds them.

        Raises:
            DataError: if it does not.
        """
        with tempfile.TemporaryDirectory() as folder:
            self._write(Path(folder) / self.out.name)

    def write(self) -> None:
        """Write the data set, in the place of the one before.

        Raises:
            DataError: if it cannot be written; the episodes are there still.
        """
        self._write(self.out)

    def _write(self, path: Path) -> None:
        source = open_dataset(self.episodes, split="all", num_frames=1).source
        write_dataset(source, path, self.to, fps=self.fps, overwrite=True)
