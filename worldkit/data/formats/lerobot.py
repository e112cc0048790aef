"""LeRobot data sets, v2.0, v2.1 and v3.0, read from their files (parquet, mp4, json) without the lerobot package.

Cameras (features of dtype ``video`` or ``image``) become views, ``action`` the condition, the task of a clip's first
frame ``"language"``; ``observation.NAME`` becomes ``state["NAME"]`` (so ``observation.state`` is ``state["state"]``),
any other numbers ``state`` under their own name. An image ``goal_image`` is the goal; each of several cameras may have
its own, ``goal_image.NAME``. Row ``t`` of an action is given after frame ``t`` was seen, as everywhere here. Frames are
decoded once, at the size asked for, and kept in the cache.

Source: the published layout, https://huggingface.co/docs/lerobot, "LeRobotDataset v3.0".
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, require_extra
from ..base import EpisodeSource
from ..cache import Span, cache_key
from ..decode import decode_at, fit_video, video_size
from ..film import decoder
from ..paths import inside
from ..progress import track
from ..recording import Recording, RecordingSource, as_action, cached_frames
from ..splits import MissingSplitError, split_episodes
from .columns import choose_cameras
from .lerobot_leaks import given_splits, leaks
from .lerobot_meta import DataSetInfo, EpisodeInfo, read_columns, read_episodes, read_info, read_tasks

TOLERANCE = 1e-4  # seconds between a frame of a video and the time it should have, as in lerobot
GOAL, CAMERA = "goal_image", "observation.images."
_VERSION = 2  # raise when decoding or resizing changes, so that old cache entries are not used


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
    resize: str = "crop",
    split_seed: int = 0,
) -> EpisodeSource:
    """A LeRobot data set in a folder.

    Args:
        target: The folder with ``meta``, ``data`` and ``videos``.
        split: ``"train"``, ``"val"`` or ``"test"``. If ``meta/info.json`` has more than one split, that is used; most
            have only ``train``, all episodes, and are split by episode here (see `worldkit.data.splits`).
        height: Default: the height of the first camera.
        width: Default: the height given, else the width of the first camera.
        cameras: Names (``"front"`` for ``observation.images.front`` will do), or one string with commas. Default: the
            only one, or all as views, if they have one frame size.
        resize: ``"crop"``: scale the frame until it covers the target and cut the centre. ``"stretch"``: scale both
            sides freely.
        split_seed: Another seed, another split by episode.
    Raises:
        DataError: for a missing or damaged file, another version, tables that disagree, a video that is shorter than
            its episodes, or cameras of different sizes.
        MissingExtraError: without pyarrow or PyAV.
    """
    if resize not in ("crop", "stretch"):
        raise DataError(f"resize must be 'crop' or 'stretch', got {resize!r}")
    root = Path(target).expanduser()
    info = read_info(root)
    chosen = choose_cameras(root, info.cameras(without=GOAL), cameras, resized=height is not None)
    native = info.cameras()[chosen[0]]
    size = (height or native[0], width or height or native[1])
    episodes = read_episodes(info)
    for error in leaks(info, episodes):
        raise error
    spans = _split(info, episodes, split, split_seed)
    tasks = read_tasks(info)
    rows = read_columns(info, [episodes[i] for i, _, _ in spans])
    read = partial(_recording, info, chosen, size, resize)
    recordings = [
        read(episodes[i], rows[episodes[i].index]).cut(start, stop)
        for i, start, stop in track(spans, f"Decoding {root.name}")
    ]
    facts = {"name": root.name, "kind": "lerobot", "version": info.version, "fps": info.fps, "split": split}
    return LeRobotSource(recordings, tasks, **facts, cameras=chosen, synthetic=False)


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
    if split not in given:
        raise MissingSplitError(f"{info.path} has splits {', '.join(info.splits)}, but not '{split}'")
    first, last = given[split]
    found = [(i, 0, episode.length) for i, episode in enumerate(episodes) if first <= episode.index < last]
    if not found:
        raise DataError(f"{info.path}: split '{split}' is {first}:{last}, but no such episode is listed in meta")
    return found


def _recording(
    info: DataSetInfo,
    cameras: Sequence[str],
    size: tuple[int, int],
    resize: str,
    episode: EpisodeInfo,
    columns: Mapping[str, np.ndarray],
) -> Recording:
    """One episode: its frames decoded into the cache, its columns under our names."""
    where = f"{episode.data}, episode {episode.index}"
    views = [read_camera(info, name, size, resize, episode, columns["timestamp"]) for name in cameras]
    timed: dict[str, np.ndarray] = {"task_index": columns["task_index"].reshape(-1)}
    for name, values in columns.items():
        if name in ("action", "actions"):
            timed["action"] = as_action(values, where)
        elif name == "done_mask" or name.startswith("masks."):
            timed[name] = values
        elif name not in ("timestamp", "task_index"):
            timed[f"state.{name.removeprefix('observation.')}"] = values
    shown = [next(_images(info, name, size, resize, episode, 1)) for name in _goals(info, cameras)]
    goals = [np.ascontiguousarray(image.transpose(2, 0, 1)) for image in shown]
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


def read_camera(
    info: DataSetInfo, name: str, size: tuple[int, int], resize: str, episode: EpisodeInfo, stamps: np.ndarray
) -> Span:
    """The frames of one camera at the timestamps of an episode, decoded if they are not in the cache."""
    is_video = info.features[name]["dtype"] == "video"
    path, begin = episode.videos[name] if is_video else (episode.data, 0.0)
    if not path.is_file():
        raise DataError(f"{path} does not exist, but episode {episode.index} of camera '{name}' should be in it")
    times = stamps.reshape(-1).astype(np.float64) + begin
    facts = {
        "file": (str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size),
        "camera": name,
        "episode": episode.index,
        "decoder": decoder("av" if is_video else "pillow"),
        "times": hashlib.sha256(times.tobytes()).hexdigest(),
    }
    key = cache_key(f"{info.root.name}-{episode.index}", version=_VERSION, size=size, resize=resize, **facts)
    if is_video:
        tolerance = TOLERANCE + float(np.spacing(np.float32(stamps.max())))  # they are stored as float32
        decode = partial(decode_at, path, times.tolist(), *size, resize=resize, tolerance=tolerance)
        frames = partial(_checked, info, name, path, decode)
    else:
        frames = partial(_images, info, name, size, resize, episode, episode.length)
    try:
        return Span.whole(cached_frames(key, frames))
    except DataError as error:
        raise DataError(f"episode {episode.index}, camera '{name}': {error}") from error


def _checked(
    info: DataSetInfo, name: str, path: Path, decode: Callable[[], Iterator[np.ndarray]]
) -> Iterator[np.ndarray]:
    """Frames of a video, after a look at their size."""
    try:
        size = video_size(path)
    except DataError as error:
        raise DataError(f"{path} cannot be read as a video: it is truncated, damaged or not a video") from error
    info.check_size(name, size, path)
    yield from decode()


def _images(
    info: DataSetInfo, name: str, size: tuple[int, int], resize: str, episode: EpisodeInfo, count: int
) -> Iterator[np.ndarray]:
    """The first ``count`` images of an episode from the parquet file, ``[H, W, 3]`` each."""
    parquet = require_extra("pyarrow.parquet", "data", f"reading {episode.data.name}")
    image_module = require_extra("PIL.Image", "video", "reading images of a LeRobot data set")
    chosen = [("episode_index", "==", episode.index)]
    table = parquet.read_table(episode.data, columns=["episode_index", "frame_index", name], filters=chosen)
    table = table.sort_by("frame_index").slice(0, count)
    for number, cell in enumerate(table[name].to_pylist()):
        try:
            stored = cell if isinstance(cell, Mapping) else {"bytes": cell}
            held = stored.get("bytes")
            source = io.BytesIO(held) if held else inside(info.root, stored["path"], episode.data)
            with image_module.open(source) as opened:
                image = np.array(opened.convert("RGB"))
        except (OSError, SyntaxError, ValueError, KeyError, TypeError, image_module.DecompressionBombError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{episode.data}: image of frame {number} cannot be read ({error})") from error
        info.check_size(name, image.shape[:2], episode.data)
        yield fit_video(image.transpose(2, 0, 1)[None], size, resize)[0].transpose(1, 2, 0)
