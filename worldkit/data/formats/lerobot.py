"""LeRobot data sets, v2.0, v2.1 and v3.0, read from their files (parquet, mp4, json) without the lerobot package.

Cameras (features of dtype ``video`` or ``image``) become views, ``action`` the condition, the task of a clip's first
frame ``"language"``; ``observation.NAME`` becomes ``state["NAME"]`` (so ``observation.state`` is ``state["state"]``),
any other numbers ``state`` under their own name. An image ``goal_image`` is the goal; each of several cameras may have
its own, ``goal_image.NAME``. Row ``t`` of an action is given after frame ``t`` was seen, as everywhere here. Frames are
decoded once, at the size asked for, and kept in the cache.

Source: the published layout, https://huggingface.co/docs/lerobot, "LeRobotDataset v3.0".
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...progress import track
from ..base import EpisodeSource
from ..decode import WHITE, check_white
from ..fit import Fitting, check_resize
from ..recording import Recording, RecordingSource, as_action
from ..splits import ALL, MissingSplitError, split_episodes
from .columns import choose_cameras
from .lerobot_frames import GOAL, Cameras, View, find_cameras, goal_image, numbered, read_camera
from .lerobot_leaks import given_splits, leaks
from .lerobot_meta import DataSetInfo, EpisodeInfo, read_columns, read_episodes, read_info, read_tasks

CAMERA = "observation.images."


def is_lerobot(target: str) -> bool:
    """Whether a target is a folder with ``meta/info.json``."""
    return (Path(target).expanduser() / "meta" / "info.json").is_file()


def open_lerobot(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    cameras: str | Sequence[str] | None = None,
    resize: str = "pad",
    split_seed: int = 0,
    white: int = WHITE,
) -> EpisodeSource:
    """A LeRobot data set in a folder.

    Args:
        target: The folder with ``meta``, ``data`` and ``videos``.
        split: ``"train"``, ``"val"`` or ``"test"``. If ``meta/info.json`` has more than one split, that is used; most
            have only ``train``, all episodes, and are split by episode here (see `worldkit.data.splits`).
        height: Default: the height of the first camera.
        width: Default: the height given, else the width of the first camera.
        cameras: Names (``"front"`` for ``observation.images.front`` will do), or one string with commas. Default: the
            only one, or all as views, if they have one frame size; without those that some episodes lack and those
            that are probably depth (one channel of 16 bits), with a warning. Episodes without a camera that is named
            are left out, with a warning.
        resize: ``"pad"`` (whole picture, black borders), ``"stretch"`` or ``"crop"``; see `worldkit.data.fit`.
        split_seed: Another seed, another split by episode.
        white: The value of 16-bit images that becomes white; for depth in mm, the farthest to tell apart (4000).
    Raises:
        DataError: for a missing or damaged file, another version, tables that disagree, a video that is shorter than
            its episodes, or cameras of different sizes.
        MissingExtraError: without pyarrow or PyAV.
    """
    view = View((height or 0, width or 0), resize, white)
    return _open(target, view, split=split, cameras=cameras, split_seed=split_seed)


def peek_lerobot(
    target: str, *, height: int | None = None, width: int | None = None, resize: str = "pad", white: int = WHITE,
    **options: Any,
) -> EpisodeSource:
    """As `open_lerobot`, but frames are decoded when they are read, and not kept."""
    return _open(target, View((height or 0, width or 0), resize, white, peek=True), **options)


def _open(
    target: str,
    view: View,
    *,
    split: str,
    cameras: str | Sequence[str] | None = None,
    split_seed: int = 0,
) -> EpisodeSource:
    check_resize(view.resize)
    check_white(view.white)
    root = Path(target).expanduser()
    info = read_info(root)
    every = read_episodes(info)
    for error in leaks(info, every):
        raise error
    found = find_cameras(info, every)
    chosen = _choose(root, found, cameras, resized=view.size[0] > 0)
    episodes = _with_cameras(root, found, chosen, every)
    native = found.shapes[chosen[0]]
    height, width = view.size
    view = replace(view, size=(height or native[0], width or height or native[1]))
    spans = _split(info, episodes, split, split_seed)
    tasks = read_tasks(info)
    rows = read_columns(info, [episodes[i] for i, _, _ in spans])
    read = partial(_recording, info, chosen, view)
    shown = spans if view.peek else track(spans, f"Decoding {root.name}")
    recordings = [read(episodes[i], rows[episodes[i].index]).cut(start, stop) for i, start, stop in shown]
    facts = {"name": root.name, "kind": "lerobot", "version": info.version, "fps": info.fps, "split": split}
    if view.peek:
        shapes = [f"{name.rpartition('.')[2]} {h}x{w}" for name in chosen for h, w in [found.shapes[name]]]
        facts |= {"frame_sizes": dict.fromkeys(shapes, len(spans)), "frame_rates": {f"{info.fps:g}": len(spans)}}
    fitting = Fitting([found.shapes[name] for name in chosen], view.size, view.resize)
    skipped = len(every) - len(episodes)
    return LeRobotSource(
        recordings, tasks, skipped=skipped, fitting=fitting, **facts, cameras=chosen, synthetic=False
    )


def _choose(root: Path, found: Cameras, cameras: str | Sequence[str] | None, *, resized: bool) -> list[str]:
    """The cameras to show; warns of those left out."""
    shapes = found.default()
    if cameras is not None or not found.remarks():
        return choose_cameras(root, found.shapes, cameras, resized=resized)
    if not shapes:
        raise DataError(f"{root} has no camera to show by default: {'; '.join(found.remarks())}")
    for remark in found.remarks():
        warnings.warn(f"{root}: {remark}", RuntimeWarning, stacklevel=2)
    return choose_cameras(root, shapes, None, resized=resized)


def _with_cameras(
    root: Path, found: Cameras, chosen: Sequence[str], episodes: list[EpisodeInfo]
) -> list[EpisodeInfo]:
    """The episodes that have all cameras; warns of those left out."""
    without = {number: name for name in chosen for number in found.lacking.get(name, ())}
    kept = [episode for episode in episodes if episode.index not in without]
    if not kept:
        raise DataError(f"{root}: no episode has all of the cameras {', '.join(chosen)}: choose others with cameras=")
    if without:
        lacking = f"{numbered(sorted(without))} lack camera '{next(iter(without.values()))}'"
        warnings.warn(f"{root}: {lacking} and are left out", RuntimeWarning, stacklevel=2)
    return kept


class LeRobotSource(RecordingSource):
    """Recordings whose instruction may change from frame to frame; the first frame of a clip counts."""

    def __init__(self, recordings: Sequence[Recording], tasks: Mapping[int, str], **summary: Any):
        numbers = [r.timed["task_index"] for r in recordings]
        for recording, indices in zip(recordings, numbers, strict=True):
            unknown = sorted(set(indices.tolist()) - set(tasks)) if tasks else []
            if unknown:
                raise DataError(f"{summary['name']}: {recording.name} has task {unknown[0]}, which meta/tasks lacks")
        super().__init__(recordings, **summary)
        self._tasks = tasks if any(tasks.values()) else {}

    def read(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        item = super().read(episode, start, stop)
        task = item.pop("task_index")
        if self._tasks:
            item["language"] = self._tasks[int(task[0])]
        return item

    def read_entry(self, episode: int, name: str) -> Any:
        if name != "language":
            return super().read_entry(episode, name)
        return self._tasks.get(int(super().read_entry(episode, "task_index")[0]))


def _split(
    info: DataSetInfo, episodes: Sequence[EpisodeInfo], split: str, seed: int
) -> list[tuple[int, int, int]]:
    lengths = [episode.length for episode in episodes]
    given = given_splits(info)
    if set(given) <= {"train"} and given.get("train", (0, len(episodes))) == (0, len(episodes)):
        return split_episodes([f"episode_{e.index:06d}" for e in episodes], lengths, split, seed=seed)
    if split == ALL:
        return [(i, 0, length) for i, length in enumerate(lengths)]
    if split not in given:
        raise MissingSplitError(f"{info.path} has splits {', '.join(info.splits)}, but not '{split}'")
    first, last = given[split]
    found = [(i, 0, episode.length) for i, episode in enumerate(episodes) if first <= episode.index < last]
    if not found:
        raise DataError(f"{info.path}: split '{split}' is {first}:{last}, but no such episode is listed in meta")
    return found


def _recording(
    info: DataSetInfo, cameras: Sequence[str], view: View, episode: EpisodeInfo, columns: Mapping[str, np.ndarray]
) -> Recording:
    """One episode: its frames decoded into the cache, its columns under our names."""
    where = f"{episode.data}, episode {episode.index}"
    views = [read_camera(info, name, view, episode, columns["timestamp"]) for name in cameras]
    timed: dict[str, np.ndarray] = {"task_index": columns["task_index"].reshape(-1)}
    for name, values in columns.items():
        if name in ("action", "actions"):
            timed["action"] = as_action(values, where)
        elif name == "done_mask" or name.startswith("masks."):
            timed[name] = values
        elif name not in ("timestamp", "task_index"):
            timed[f"state.{name.removeprefix('observation.')}"] = values
    goals = [goal_image(info, name, view, episode) for name in _goals(info, cameras)]
    constant = {GOAL: goals[0] if len(goals) == 1 else np.stack(goals)} if goals else {}
    return Recording(f"episode {episode.index}", tuple(views), timed, constant)


def goal_features(cameras: Sequence[str]) -> list[str]:
    """The features of the goals where each camera has its own.

    Example:
        >>> goal_features(["observation.images.front"])
        ['goal_image.front']
    """
    return [f"{GOAL}.{name.removeprefix(CAMERA)}" for name in cameras]


def _goals(info: DataSetInfo, cameras: Sequence[str]) -> list[str]:
    """The features with the goals of some cameras."""
    wanted = [GOAL] if GOAL in info.features else goal_features(cameras)
    return wanted if all(info.features.get(name, {}).get("dtype") == "image" for name in wanted) else []
