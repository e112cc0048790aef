"""OGBench, cube and scene: ``{cube,scene}/{train,valid}/EPISODE0000/*0000.png`` with one ``metadata*0000.pt`` each.

Names end in four digits, their number; images with "goal" in their name are left out. A metadata file is a dict with
``actions`` ``[5]`` and ``terminals``.

As upstream: at most 1001 frames per episode; the done mask is 0 in padding and where ``terminals``; in training the
goal is a random frame at most 70 after the window (the last frame if there is none), otherwise the last frame of the
clip; ``val`` and ``test`` are the folder ``valid``, where every episode gives one clip, its first frames. Otherwise:
upstream draws 50 random clips per episode and epoch, here every start that could be drawn is one window; the goal of a
window is drawn once, not anew in every epoch (``goal_seed`` draws others); a task that is not there is left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import DataError
from .files import has_below, numbered, part_of, subfolders
from .panda import last_digits, numbered_view
from .source import Episode, SparseSource, random_frame, read_metadata

TASKS = ("cube", "scene")
EXPECTED = "{cube,scene}/{train,valid}/EPISODE0000/ with *0000.png and metadata*0000.pt"
GOAL_DISTANCE = 70


class OGBenchSource(SparseSource):
    """Episodes of OGBench."""

    kind, beside, number = "ogbench", ("action", "done_mask"), staticmethod(last_digits)

    def columns(self, episode: Episode) -> dict[str, np.ndarray]:
        found = read_metadata(episode.views[0].metadata_paths(), {"actions": "action", "terminals": "done_mask"})
        found["done_mask"] = (found["done_mask"].reshape(-1) == 0).astype(np.float32)
        return found

    def goal_frame(self, episode: int, start: int, stop: int) -> int:
        last = self.length(episode) - 1
        if self.split != "train":
            return min(stop - 1, last)
        if stop > last:
            return last
        return random_frame(self._goal_seed, episode, start, stop, min(stop + GOAL_DISTANCE, last))


def is_ogbench(target: str) -> bool:
    """Whether a folder has a task with folders of numbered metadata."""
    root = Path(target).expanduser()
    folders = [root / task / split for task in TASKS for split in ("train", "valid") if has_below(root, task, split)]
    for folder in folders:
        first = next(folder.glob("[!.]*/metadata*.pt"), None)
        if first is not None:
            return True
    return False


def open_ogbench(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    episode_length: int = 1001,
    goal_seed: int = 0,
    resize: str = "crop",
    on_error: str = "raise",
) -> OGBenchSource:
    """OGBench as the official LPWM code lays it out; see the module docstring.

    Args:
        target: The folder.
        split: ``"train"``, ``"val"`` or ``"test"`` (the same as ``"val"``).
        height: Default: the images'.
        width: Default: the height given, else the images'.
        episode_length: Longer episodes are cut.
        goal_seed: Another seed, other goals in training.
        resize: ``"crop"`` as upstream, ``"stretch"`` or ``"pad"``.
        on_error: ``"raise"``, or ``"skip"`` to leave out episodes that cannot be read.
    Raises:
        DataError: for a folder that is not laid out so.
    """
    root = Path(target).expanduser()
    tasks = [task for task in TASKS if (root / task).is_dir()]
    if not tasks:
        raise DataError(f"{root} has neither {' nor '.join(TASKS)}: expected {EXPECTED}")
    episodes = []
    for task in tasks:
        folder = part_of(str(root / task), split, expected=EXPECTED, stand_in={"test": "val"})
        for name in numbered(subfolders(folder), last_digits, folder, "EPISODE0000"):
            episodes.append(Episode(f"{task}/{name}", (numbered_view(folder / name, episode_length),)))
    options = {"height": height, "width": width, "resize": resize, "on_error": on_error, "goal_seed": goal_seed}
    return OGBenchSource(root, episodes, split=split, **options)
