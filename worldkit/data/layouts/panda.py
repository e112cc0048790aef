"""PandaPush: ``{1C,2C,3C,3C_rand,1T,2T,3T}/{view1,view2}/EPISODE0000/*0000.png`` with one ``metadata*0000.pt`` each.

Names end in four digits, their number; images with "goal" in their name are left out. A metadata file is a dict with
``action`` ``[3]`` and ``is_terminal``.

As upstream: both cameras (video ``[2, T, 3, H, W]``); episodes are cut per task (`TASK_FRAMES`) and to 50 frames; the
last 1 % of the episodes of every task are for validation and for testing; windows inside the cut episode, one that it
fills by half where it is shorter; the done mask is 0 in padding and where ``is_terminal``; in training the goal is a
random frame after the window (the last frame if there is none), the same in both cameras, otherwise the last frame; in
``val`` and ``test`` every episode gives one clip, its first frames. Otherwise: the goal of a window is drawn once, not
anew in every epoch (``goal_seed`` draws others); a task with less than 100 episodes has one for validation, upstream
none for training; the robot's action is one for both cameras, ``[T, 3]``, where upstream repeats it; tasks that are
not there are left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import DataError
from .files import has_below, names_in, numbered, subfolders
from .source import Episode, PaddedSource, View, random_frame, read_metadata

TASK_FRAMES = {"1C": 25, "2C": 35, "3C": 50, "3C_rand": 50, "1T": 20, "2T": 45, "3T": 50}
VIEWS = ("view1", "view2")
EXPECTED = "{1C,2C,3C,3C_rand,1T,2T,3T}/{view1,view2}/EPISODE0000/ with *0000.png and metadata*0000.pt"
VALID_SHARE = 0.01


def last_digits(stem: str) -> int:
    """The number at the end of a name.

    Example:
        >>> last_digits("episode_0012")
        12
    """
    return int(stem.split(".")[0][-4:])


class PandaSource(PaddedSource):
    """Episodes of PandaPush."""

    kind, beside, number = "panda", ("action", "done_mask"), staticmethod(last_digits)

    def columns(self, episode: Episode) -> dict[str, np.ndarray]:
        found = read_metadata(
            episode.views[0].metadata_paths(), {"action": "action", "is_terminal": "done_mask"}
        )
        found["done_mask"] = (found["done_mask"].reshape(-1) == 0).astype(np.float32)
        return found

    def goal_frame(self, episode: int, start: int, stop: int) -> int:
        last = self.length(episode) - 1
        if self.split != "train" or stop > last:
            return last
        return random_frame(self._goal_seed, episode, start, stop, last)


def is_panda(target: str) -> bool:
    """Whether a folder has one of the tasks with its two cameras."""
    root = Path(target).expanduser()
    return any(all(has_below(root, task, view) for view in VIEWS) for task in TASK_FRAMES)


def open_panda(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    episode_length: int = 50,
    goal_seed: int = 0,
    resize: str = "crop",
    on_error: str = "raise",
) -> PandaSource:
    """PandaPush as the official LPWM code lays it out; see the module docstring.

    Args:
        target: The folder.
        split: ``"train"``, ``"val"`` or ``"test"`` (the same as ``"val"``).
        height: Default: the images'.
        width: Default: the height given, else the images'.
        episode_length: Longer episodes are cut, besides the cut of their task.
        goal_seed: Another seed, other goals in training.
        resize: ``"crop"`` as upstream, ``"stretch"`` or ``"pad"``.
        on_error: ``"raise"``, or ``"skip"`` to leave out episodes that cannot be read.
    Raises:
        DataError: for a folder that is not laid out so, or cameras that disagree about the episodes.
    """
    root = Path(target).expanduser()
    tasks = [task for task in TASK_FRAMES if (root / task).is_dir()]
    if not tasks:
        raise DataError(f"{root} has none of the tasks {', '.join(TASK_FRAMES)}: expected {EXPECTED}")
    episodes: list[Episode] = []
    for task in tasks:
        episodes += _chosen(root / task, split, min(episode_length, TASK_FRAMES[task]))
    options = {"height": height, "width": width, "resize": resize, "on_error": on_error, "goal_seed": goal_seed}
    return PandaSource(root, episodes, split=split, **options)


def _chosen(folder: Path, split: str, longest: int) -> list[Episode]:
    """Episodes of one task in one split."""
    names = [numbered(subfolders(folder / v), last_digits, folder / v, "EPISODE0000") for v in VIEWS]
    if len(names[0]) != len(names[1]):
        raise DataError(f"{folder}: {VIEWS[0]} has {len(names[0])} episodes, {VIEWS[1]} has {len(names[1])}")
    pairs = list(zip(*names, strict=True))
    valid = max(1, int(VALID_SHARE * len(pairs)))
    chosen = pairs[:-valid] if split == "train" else pairs[-valid:]
    episodes = []
    for pair in chosen:
        views = tuple(numbered_view(folder / v / n, longest) for v, n in zip(VIEWS, pair, strict=True))
        frames = [len(view.images) for view in views]
        if frames[0] != frames[1]:
            raise DataError(f"{views[0].folder} has {frames[0]} frames, but {views[1].folder} has {frames[1]} frames")
        episodes.append(Episode(f"{folder.name}/{pair[0]}", views))
    return episodes


def numbered_view(folder: Path, longest: int) -> View:
    """Images and metadata of a folder whose names end in four digits, cut to a length; goal images left out."""
    images = [name for name in names_in(folder, ".png") if "goal" not in name]
    images = numbered(images, last_digits, folder, "NAME0000.png")[:longest]
    files = numbered(names_in(folder, ".pt", "metadata"), last_digits, folder, "metadata0000.pt")
    return View(folder, tuple(images), tuple(files[: len(images)]))
