"""Writes LeRobot data sets, v3.0, so that lerobot and `worldkit.data.formats.lerobot` read them.

Left out, as no reader needs them: statistics per episode in ``meta/episodes``, quantiles in ``meta/stats.json``.
``state["next.NAME"]`` becomes the feature ``next.NAME``, any other state ``observation.NAME``.

Source: the published layout, https://huggingface.co/docs/lerobot, "LeRobotDataset v3.0".
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, require_extra
from ..paths import fill_template, inside
from ..recording import flat_entries
from ..statistics import RunningStatistics
from .lerobot import CAMERA, GOAL, goal_features

CHUNK_FILES, DATA_MEGABYTES, VIDEO_MEGABYTES = 1000, 100, 200
_PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_INDEX = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
_SAMPLED_FRAMES = 16  # per episode, for the statistics of images


class LeRobotWriter:
    """Writes one data set with all its splits (``meta/info.json`` tells which episodes belong to which).

    Args:
        path: Folder.
        plan: What will be written; see `worldkit.data.writers.Plan`.
        lossless: Keep frames as PNG inside the parquet files, bit for bit, instead of H.264 (crf 18, a key frame every
            8 frames; PSNR 39 dB on street footage at 128 px, 29 dB on Balls, whose flat saturated colours suffer from
            the halved colour resolution).
        robot_type: For ``meta/info.json``.
    Raises:
        DataError: for an entry the format has no place for.
        MissingExtraError: without pyarrow, PyAV (videos) or Pillow (images).
    """

    data_path, video_path = "data/" + _PLACE + ".parquet", "videos/{video_key}/" + _PLACE + ".mp4"
    megabytes: tuple[float, float] = (DATA_MEGABYTES, VIDEO_MEGABYTES)  # a file this large is followed by another

    def __init__(self, path: Path, *, plan: Any, lossless: bool = False, robot_type: str | None = None):
        self._arrow = require_extra("pyarrow", "data", "writing a LeRobot data set")
        self._parquet = require_extra("pyarrow.parquet", "data", "writing a LeRobot data set")
        self._image = require_extra("PIL.Image", "video", "writing images") if lossless or GOAL in plan.sample else None
        self._root, self._plan, self._lossless, self._robot_type = path, plan, lossless, robot_type
        self._cameras = _camera_names(plan)
        self._goals = _goal_names(plan.sample, self._cameras)
        self._rate = Fraction(plan.fps).limit_denominator(1001)  # frames per second of the videos
        self._features = self._describe()
        self._table = _Rolling(path, self.data_path, self.megabytes[0], self._open_table)
        self._videos = {
            name: _Rolling(path, self.video_path, self.megabytes[1], self._open_film, video_key=name)
            for name in ([] if lossless else self._cameras)
        }
        self._tasks: dict[str, int] = {}
        self._episodes: list[dict[str, Any]] = []
        self._statistics = {n: RunningStatistics() for n in [*self._features, *self._cameras] if n not in self._goals}
        self._frames = 0

    def _describe(self) -> dict[str, dict[str, Any]]:
        """The features of ``meta/info.json``, in the order of the columns."""
        sample = self._plan.sample
        if np.shape(sample["video"])[-3] != 3:
            raise DataError(f"LeRobot frames are RGB, the video is {list(np.shape(sample['video']))}")
        timed, constant = flat_entries(sample)
        for name, value in constant.items():
            if name != GOAL and not (name == "language" and isinstance(value, str)):
                raise DataError(f"a LeRobot data set has no place for '{name}' {list(np.shape(value))}: write npz")
        height, width = np.shape(sample["video"])[-2:]
        image = {"shape": [height, width, 3], "names": ["height", "width", "channels"]}
        codec = {"video.codec": "h264", "video.pix_fmt": _pixel_format(height, width), "video.fps": float(self._rate)}
        details = {"video.height": height, "video.width": width, "video.channels": 3, **codec}
        camera = {"dtype": "image", **image} if self._lossless else {
            "dtype": "video", **image, "info": {**details, "video.is_depth_map": False, "has_audio": False}
        }
        features = {name: dict(camera) for name in self._cameras}
        for name, array in timed.items():
            shape = list(array.shape[1:]) or [1]
            # one-number features are stored as plain numbers; a name tells [T, 1] from [T]
            names = [f"{name}_{i}" for i in range(shape[0])] if array.ndim == 2 else None
            features[_feature(name)] = {"dtype": str(array.dtype), "shape": shape, "names": names}
        for name in self._goals:
            channels, *sides = constant[GOAL].shape[-3:]
            features[name] = {"dtype": "image", "shape": [*sides, channels], "names": image["names"]}
        return features | {n: {"dtype": d, "shape": [1], "names": None} for n, d in _INDEX.items()}

    def write(self, episode: Mapping[str, Any]) -> None:
        """Add an episode, entries as `EpisodeSource.read` gives them."""
        video = np.moveaxis(np.asarray(episode["video"]), -3, -1)
        views = dict(zip(self._cameras, [video] if video.ndim == 4 else video, strict=True))
        timed, constant = flat_entries(episode)
        length, number = video.shape[-4], len(self._episodes)
        task = self._tasks.setdefault(constant.get("language", ""), len(self._tasks))
        steps = np.arange(length)
        columns: dict[str, Any] = {_feature(name): array for name, array in timed.items()}
        columns["timestamp"] = (steps / float(self._rate)).astype(np.float32)
        columns |= {"frame_index": steps, "index": steps + self._frames}
        columns |= {"episode_index": np.full(length, number), "task_index": np.full(length, task)}
        for name, values in columns.items():
            self._count(name, values.reshape(length, -1))
        for view, name in enumerate(self._goals):
            goal = constant[GOAL].reshape(-1, *constant[GOAL].shape[-3:])[view]
            columns[name] = [self._png(np.moveaxis(goal, 0, -1), "goal.png")] * length
        row = {
            "episode_index": number,
            "tasks": [constant.get("language", "")],
            "length": length,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
        }
        for name, frames in views.items():
            sampled = frames[np.unique(np.linspace(0, length - 1, min(length, _SAMPLED_FRAMES)).round().astype(int))]
            self._count(name, sampled.reshape(-1, 3) / 255)
            if self._lossless:
                columns[name] = [self._png(frame, f"frame-{i:06d}.png") for i, frame in enumerate(frames)]
            else:
                film, place = self._videos[name].next()
                start = film.frames
                film.write(frames)
                row |= {f"videos/{name}/{key}": index for key, index in place.items()}
                row[f"videos/{name}/from_timestamp"] = float(start / self._rate)
                row[f"videos/{name}/to_timestamp"] = float(film.frames / self._rate)
        writer, place = self._table.next()
        row |= {f"data/{key}": index for key, index in place.items()}
        writer.write_table(self._rows(columns))
        self._episodes.append(row)
        self._frames += length

    def _count(self, name: str, values: np.ndarray) -> None:
        """Add rows of a feature of the present episode to the statistics."""
        self._statistics[name].update(values)

    def _png(self, frame: np.ndarray, path: str) -> dict[str, Any]:
        file = io.BytesIO()
        self._image.fromarray(np.ascontiguousarray(frame)).save(file, "png")
        return {"bytes": file.getvalue(), "path": path}

    def _schema(self) -> Any:
        arrow = self._arrow
        picture = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        fields = []
        for name, feature in self._features.items():
            if feature["dtype"] == "video":
                continue
            kind = picture
            if feature["dtype"] != "image":
                kind, shape = arrow.from_numpy_dtype(np.dtype(feature["dtype"])), feature["shape"]
                if len(shape) > 1:
                    for _ in shape:
                        kind = arrow.list_(kind)
                elif shape != [1]:
                    kind = arrow.list_(kind, shape[0])
            fields.append((name, kind))
        return arrow.schema(fields)

    def _rows(self, columns: Mapping[str, Any]) -> Any:
        schema, arrays = self._schema(), []
        for field in schema:
            values = columns[field.name]
            if isinstance(values, np.ndarray):
                values = values.reshape(-1) if self._features[field.name]["shape"] == [1] else values.tolist()
            arrays.append(self._arrow.array(values, type=field.type))
        return self._arrow.Table.from_arrays(arrays, schema=schema)

    def _open_table(self, path: Path) -> Any:
        return self._parquet.ParquetWriter(path, self._schema(), compression="snappy")

    def _open_film(self, path: Path) -> _Film:
        return _Film(path, self._rate)

    def close(self) -> None:
        """Write ``meta``; ``info.json``, by which the folder is recognised, comes last."""
        self._close_files()
        meta = self._root / "meta"
        (meta / "episodes" / "chunk-000").mkdir(parents=True)
        own = {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        rows = self._arrow.Table.from_pylist([{**row, **own} for row in self._episodes])
        self._parquet.write_table(rows, meta / "episodes" / "chunk-000" / "file-000.parquet")
        self._write_tasks(meta / "tasks.parquet")
        write_json(meta / "stats.json", {name: self._summary(name, found) for name, found in self._statistics.items()})
        sizes = {"data_files_size_in_mb": DATA_MEGABYTES, "video_files_size_in_mb": VIDEO_MEGABYTES}
        write_json(meta / "info.json", self._info("v3.0") | sizes)

    def _close_files(self) -> None:
        for file in (self._table, *self._videos.values()):
            file.close()

    def _write_tasks(self, path: Path) -> None:
        table = self._arrow.table({"task_index": list(self._tasks.values()), "task": list(self._tasks)})
        columns = [("task_index", "int64", "int64"), ("task", "unicode", "object")]
        described = [
            {"name": n, "field_name": n, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
            for n, kind, dtype in columns
        ]
        # lerobot looks instructions up in the index of a pandas table; this is how pandas knows its index
        pandas = {"index_columns": ["task"], "column_indexes": [], "columns": described, "pandas_version": "2.0.0"}
        self._parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)

    def _summary(self, name: str, found: RunningStatistics) -> dict[str, Any]:
        shape = (3, 1, 1) if name in self._cameras else tuple(self._features[name]["shape"])
        numbers = {key: getattr(found, key).reshape(shape).tolist() for key in ("min", "max", "mean", "std")}
        return {**numbers, "count": [found.count]}

    def _info(self, version: str) -> dict[str, Any]:
        splits, first = {}, 0
        for split, count in self._plan.splits.items():
            splits[split or "train"] = f"{first}:{first + count}"
            first += count
        fps = float(self._rate)
        return {
            "codebase_version": version,
            "robot_type": self._robot_type,
            "total_episodes": len(self._episodes),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK_FILES,
            "fps": int(fps) if fps == int(fps) else fps,
            "splits": splits,
            "data_path": self.data_path,
            "video_path": None if self._lossless else self.video_path,
            "features": self._features,
        }


class _Rolling:
    """A file that is followed by the next one when it has grown large; ``open_file(path)`` needs ``close``."""

    def __init__(self, root: Path, template: str, megabytes: float, open_file: Any, **names: str):
        self._root, self._template, self._open_file, self._names = root, template, open_file, names
        self._limit, self._number, self._file, self._path = megabytes * 2**20, -1, None, root

    def next(self) -> tuple[Any, dict[str, int]]:
        """The file for the next episode, and its place."""
        # a film makes its file when the encoder hands out the first frame
        size = self._path.stat().st_size if self._path.is_file() else 0
        if self._file is None or size >= self._limit:
            self.close()
            self._number += 1
            episode = {"episode_index": self._number, "episode_chunk": self._number // CHUNK_FILES}  # of v2.1
            self._path = inside(self._root, fill_template(self._template, {**self._place(), **episode, **self._names}))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open_file(self._path)
        return self._file, self._place()

    def _place(self) -> dict[str, int]:
        return {"chunk_index": self._number // CHUNK_FILES, "file_index": self._number % CHUNK_FILES}

    def close(self) -> None:
        """Complete the file at hand."""
        if self._file is not None:
            self._file.close()


class _Film:
    """An mp4 that episodes are appended to; no frame refers to a later one, so times are exact."""

    def __init__(self, path: Path, rate: Fraction):
        self._av = require_extra("av", "video", "writing mp4")
        self._container = self._av.open(str(path), "w")
        self._stream = self._container.add_stream("libx264", rate=rate)
        self._stream.options = {"crf": "18", "g": "8", "bf": "0"}
        self._time_base, self.frames, self._whole = 1 / rate, 0, True

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 ``[T, H, W, 3]``."""
        self._whole = False
        height, width = frames.shape[1:3]
        if not self.frames:
            self._stream.height, self._stream.width = height, width
            self._stream.pix_fmt = _pixel_format(height, width)
        for number, image in enumerate(frames):
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = self.frames, self._time_base
            if number == 0:  # enter every episode without decoding the one before
                frame.pict_type = self._av.video.frame.PictureType.I
            self._container.mux(self._stream.encode(frame))
            self.frames += 1
        self._whole = True

    def close(self) -> None:
        """Complete the file."""
        if self._whole:  # FFmpeg crashes where it is to go on with a file that it could not begin
            self._container.mux(self._stream.encode())
        self._container.close()


def _pixel_format(height: int, width: int) -> str:
    return "yuv444p" if height % 2 or width % 2 else "yuv420p"  # half the colour resolution needs even sides


def _camera_names(plan: Any) -> list[str]:
    count = 1 if np.ndim(plan.sample["video"]) == 4 else len(plan.sample["video"])
    names = list(plan.cameras) if len(plan.cameras) == count else []
    names = names or ([f"view{i}" for i in range(count)] if count > 1 else ["front"])
    return [CAMERA + name.removeprefix(CAMERA).replace("/", "_") for name in names]


def _goal_names(sample: Mapping[str, Any], cameras: Sequence[str]) -> list[str]:
    """The features of the goals."""
    goal = sample.get(GOAL)
    if goal is None or goal.ndim == 3:
        return [] if goal is None else [GOAL]
    if len(goal) != len(cameras):
        raise DataError(f"{GOAL} must be one image, or one per camera: it has {len(goal)}, the video {len(cameras)}")
    return goal_features(cameras)


def _feature(name: str) -> str:
    """The feature of a flat entry name."""
    group, dot, key = name.partition(".")
    if group != "state" or not dot:
        return name
    return key if key.startswith("next.") else f"observation.{key}"


def write_json(path: Path, content: Any) -> None:
    """JSON as LeRobot has it: indented, any letters."""
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
