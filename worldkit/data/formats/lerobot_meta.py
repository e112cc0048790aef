"""The tables of a LeRobot data set: ``meta`` and the numbers in ``data``, for v2.0, v2.1 and v3.0.

v3.0 keeps many episodes in one file: ``meta/episodes/chunk-000/file-000.parquet`` says for each episode in which data
file its rows are, and in which file and from which second on each camera shows it. v2.x has one parquet and one mp4 per
camera and episode, and ``meta/episodes.jsonl``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, require_extra
from ..paths import fill_template, inside
from ..recording import ACTIONS

BOOKKEEPING = ("frame_index", "episode_index", "index")
_KEPT = ("timestamp", "task_index")
_DENSEST = 1000
"""Rows that a byte of a file can hold: what repeats is stored as runs."""


@dataclass(frozen=True)
class DataSetInfo:
    """What ``meta/info.json`` says.

    Attributes:
        root: Folder of the data set.
        version: ``"v3.0"`` and the like.
        fps: Frames per second.
        features: Name -> ``dtype``, ``shape``, ``names``.
        splits: Split -> first episode and one past the last.
        raw: The whole file.
    """

    root: Path
    version: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    splits: Mapping[str, tuple[int, int]]
    raw: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """``meta/info.json``."""
        return self.root / "meta" / "info.json"

    @property
    def chunked(self) -> bool:
        """v3: files hold many episodes."""
        return self.version.startswith("v3.")

    def numbers(self) -> list[str]:
        """Features of numbers, in the order of the columns."""
        return [n for n, f in self.features.items() if np.dtype(_DTYPES.get(f["dtype"], "O")).kind in "fiub"]

    def cameras(self, without: str = "") -> dict[str, tuple[int, int]]:
        """Camera -> height and width; depth maps are no cameras, nor are ``without`` and ``without.NAME``."""
        found = {}
        for name, feature in self.features.items():
            details = {**(feature.get("info") or {}), **(feature.get("video_info") or {})}
            depth = details.get("is_depth_map") or details.get("video.is_depth_map")
            if feature["dtype"] in ("video", "image") and not depth and name.partition(".")[0] != without:
                found[name] = self.frame_size(name)
        return found

    def frame_size(self, name: str) -> tuple[int, int]:
        """Height and width that are stated for a feature of images."""
        shape = _shape(self.features[name], f"{self.path}: feature '{name}'")
        names = [str(n).lower() for n in self.features[name].get("names") or ()]
        if len(names) == len(shape) and {"height", "width"} <= {*names}:
            return shape[names.index("height")], shape[names.index("width")]
        first = len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3)
        return (shape[1], shape[2]) if first else (shape[0], shape[1])

    def check_size(self, name: str, size: tuple[int, int], path: Path) -> None:
        """Raise DataError if images have another size than stated (an odd side may have grown by one for a codec)."""
        stated = self.frame_size(name)
        if any(not 0 <= found - told <= told % 2 for found, told in zip(size, stated, strict=True)):
            given = f"{stated[0]}x{stated[1]} for '{name}' (height x width)"
            raise DataError(f"{path} has frames of {size[0]}x{size[1]}, but {self.path} states {given}: correct it")


@dataclass(frozen=True)
class EpisodeInfo:
    """Where one episode lies.

    Attributes:
        index: Its number.
        length: Frames.
        data: The parquet file with its rows.
        videos: Camera -> video file and the second at which the episode begins there; without cameras it lacks.
    """

    index: int
    length: int
    data: Path
    videos: Mapping[str, tuple[Path, float]] = field(default_factory=dict)


def read_info(root: Path) -> DataSetInfo:
    """``meta/info.json`` of a data set.

    Raises:
        DataError: if it is missing, damaged, or of a version other than v2.0, v2.1 or v3.
    """
    path = inside(root, "meta/info.json")
    raw = _json(path)
    try:
        version = str(raw["codebase_version"])
        version = version if version.startswith("v") else f"v{version}"
        if version not in ("v2.0", "v2.1") and not version.startswith("v3."):
            raise DataError(
                f"{path}: version {version} is not supported; v2.0, v2.1 and v3.0 are. Convert it with the scripts of "
                "the lerobot package"
            )
        splits = {}
        for name, span in (raw.get("splits") or {}).items():
            first, _, last = str(span).partition(":")
            splits[name] = (int(first or 0), int(last) if last else int(raw["total_episodes"]))
        info = DataSetInfo(root, version, float(raw["fps"]), raw["features"], splits, raw)
        if not info.fps > 0:
            raise DataError(f"{path}: fps must be above 0, got {raw['fps']!r}")
        info.cameras()  # reads every feature of theirs
        for name in {*ACTIONS} & {*info.features} - {*info.numbers()}:
            raise DataError(f"{path}: feature '{name}' must be numbers, it is {info.features[name]['dtype']!r}")
        for name in info.numbers():
            _shape(info.features[name], f"{path}: feature '{name}'")
        return info
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def read_tasks(info: DataSetInfo) -> dict[int, str]:
    """Task number -> instruction.

    Raises:
        DataError: if the table is missing or damaged.
    """
    if not info.chunked:
        path = inside(info.root, "meta/tasks.jsonl")
        return {int(_get(row, "task_index", path)): str(_get(row, "task", path)) for row in _json_lines(path)}
    path = inside(info.root, "meta/tasks.parquet")
    table = _table(path)
    # pandas keeps the instructions as its index, which has a name or not
    texts = [name for name in ("task", "__index_level_0__") if name in table.column_names]
    if not texts or "task_index" not in table.column_names:
        raise DataError(f"{path} must have columns task and task_index; it has {', '.join(table.column_names)}")
    with reading_parquet(path):
        return dict(zip(table["task_index"].to_pylist(), table[texts[0]].to_pylist(), strict=True))


def read_episodes(info: DataSetInfo) -> list[EpisodeInfo]:
    """All episodes, in order.

    Raises:
        DataError: if the table is missing, empty, damaged, or shorter than ``meta/info.json`` says.
    """
    try:
        episodes = sorted(_chunked(info) if info.chunked else _single(info), key=lambda e: e.index)
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        if isinstance(error, DataError):
            raise
        problem = f"{type(error).__name__}: {error}"
        raise DataError(f"{info.root / 'meta'}: the table of episodes is damaged: {problem}") from error
    stated = info.raw.get("total_episodes", len(episodes))
    if not episodes or len(episodes) != stated:
        raise DataError(f"{info.path} states {stated} episodes, but the table of episodes has {len(episodes)}")
    for episode in episodes:
        if episode.length < 1:
            raise DataError(f"{info.root / 'meta'}: episode {episode.index} has {episode.length} frames: leave it out")
    return episodes


def _chunked(info: DataSetInfo) -> Iterable[EpisodeInfo]:
    files = sorted((info.root / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise DataError(f"{info.root / 'meta' / 'episodes'} holds no chunk-000/file-000.parquet")
    videos = [name for name, feature in info.features.items() if feature["dtype"] == "video"]
    for path in (inside(info.root, file.relative_to(info.root)) for file in files):
        columns = [name for name in _schema(path) if not name.startswith("stats/")]
        for row in _table(path, columns).to_pylist():
            where = {"chunk_index": int(row["data/chunk_index"]), "file_index": int(row["data/file_index"])}
            shown = {name: place for name in videos if (place := _place(info, name, row)) is not None}
            yield EpisodeInfo(int(row["episode_index"]), int(row["length"]), _file(info, "data_path", **where), shown)


def _place(info: DataSetInfo, camera: str, row: Mapping[str, Any]) -> tuple[Path, float] | None:
    """Video file and second of a camera, ``None`` if an episode has no such camera (as in merged data sets)."""
    cells = {name: row[f"videos/{camera}/{name}"] for name in ("chunk_index", "file_index", "from_timestamp")}
    if any(cell is None or cell != cell for cell in cells.values()):  # empty cells turn the column into float
        return None
    place = {name: int(cells[name]) for name in ("chunk_index", "file_index")}
    return _file(info, "video_path", video_key=camera, **place), float(cells["from_timestamp"])


def _single(info: DataSetInfo) -> Iterable[EpisodeInfo]:
    path = inside(info.root, "meta/episodes.jsonl")
    videos = [name for name, feature in info.features.items() if feature["dtype"] == "video"]
    for row in _json_lines(path):
        index = int(_get(row, "episode_index", path))
        place = {"episode_index": index, "episode_chunk": index // int(info.raw["chunks_size"])}
        shown = {name: (_file(info, "video_path", video_key=name, **place), 0.0) for name in videos}
        yield EpisodeInfo(index, int(_get(row, "length", path)), _file(info, "data_path", **place), shown)


def _file(info: DataSetInfo, key: str, **place: int | str) -> Path:
    """The file that a template of ``meta/info.json`` means."""
    template = info.raw.get(key)
    try:
        name = fill_template(template, place)
    except ValueError as error:
        known = ", ".join(f"{{{name}}}" for name in place)
        raise DataError(
            f"{info.path}: '{key}' must be a path with {known} in it, got {template!r:.200}: {error}"
        ) from error
    return inside(info.root, name, info.path)


def read_columns(info: DataSetInfo, episodes: Sequence[EpisodeInfo]) -> dict[int, dict[str, np.ndarray]]:
    """Every numeric column of some episodes, ordered by frame.

    Returns:
        Episode number -> column -> array ``[T, ...]``. Columns of shape ``[1]`` are ``[T]`` if the feature names no
        dimension, else ``[T, 1]``.
    Raises:
        DataError: if a file is missing, lacks a column, or disagrees with the table of episodes.
    """
    numbers = [name for name in info.numbers() if name != "index"]
    wanted = [*dict.fromkeys([*_KEPT, "episode_index", "frame_index", *numbers])]
    found: dict[int, dict[str, np.ndarray]] = {}
    for path in dict.fromkeys(episode.data for episode in episodes):
        table = _table(path, wanted)
        columns = {name: _numbers(path, name, table[name], info.features.get(name, {})) for name in wanted}
        owner = columns["episode_index"].reshape(-1)
        for episode in (e for e in episodes if e.data == path):
            rows = np.flatnonzero(owner == episode.index)
            frames = columns["frame_index"].reshape(-1)[rows]
            if len(rows) != episode.length:
                raise DataError(
                    f"{path} holds {len(rows)} rows of episode {episode.index}, but meta says {episode.length} frames"
                )
            rows = rows[np.argsort(frames, kind="stable")]
            missing = np.flatnonzero(np.sort(frames) != np.arange(len(frames)))
            if len(missing):
                raise DataError(f"{path}: frame {missing[0]} of episode {episode.index} is missing (frame_index)")
            found[episode.index] = {n: a[rows] for n, a in columns.items() if n not in BOOKKEEPING}
    return found


_DTYPES = {name: name for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64")} | {
    name: name for name in ("uint8", "uint16", "uint32", "uint64", "bool")
}


def _shape(feature: Mapping[str, Any], where: str) -> tuple[int, ...]:
    shape = feature.get("shape", (1,))
    if not isinstance(shape, list | tuple) or not all(isinstance(n, int) for n in shape):
        raise DataError(f"{where} must have a shape, a list of whole numbers, got {shape!r}")
    return tuple(shape)


def _numbers(path: Path, name: str, column: Any, feature: Mapping[str, Any]) -> np.ndarray:
    """A parquet column of numbers, or of lists of them at any depth, as an array."""
    if column.null_count:
        raise DataError(f"{path}: column '{name}' has {column.null_count} empty cells")
    array = column.combine_chunks()
    shape = _shape(feature, f"{path}: column '{name}'")
    types = require_extra("pyarrow.types", "data", f"reading {path.name}")
    while types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
        _check_equal_lengths(path, name, array, len(column))
        array = array.flatten()
    values = array.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "fiub" or values.size != len(column) * int(np.prod(shape)):
        raise DataError(
            f"{path}: column '{name}' should hold {feature.get('dtype', 'numbers')} {list(shape)} in every row, but "
            f"has {values.size} values of {values.dtype} in {len(column)} rows"
        )
    flat = shape == (1,) and not feature.get("names")
    return np.array(values.reshape(len(column), *(() if flat else shape)))


def _check_equal_lengths(path: Path, name: str, lists: Any, rows: int) -> None:
    """Lists of different lengths may add up to the right number, with values slid from row to row."""
    compute = require_extra("pyarrow.compute", "data", f"reading {path.name}")
    lengths = compute.list_value_length(lists).to_numpy(zero_copy_only=False)
    odd = np.flatnonzero(lengths != lengths[:1])
    if len(odd):
        row = odd[0] * rows // len(lengths)
        raise DataError(
            f"{path}: column '{name}' has {lengths[odd[0]]:g} values in row {row}, but {lengths[0]:g} in the first: "
            "every row must have the same number"
        )


@contextmanager
def reading_parquet(path: Path) -> Iterator[None]:
    """Say which parquet file cannot be read.

    Raises:
        DataError: for everything that a damaged one raises; names and texts in it may be no UTF-8.
    """
    arrow = require_extra("pyarrow", "data", f"reading {path.name}")
    try:
        yield
    except (arrow.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as parquet: it is truncated or damaged ({error})") from error


def open_parquet(path: Path) -> Any:
    """A ``ParquetFile`` whose footer agrees with itself: pyarrow takes memory for as many rows as a group says.

    What the footer says of columns is not asked for: pyarrow 26 ends Python where that is damaged.

    Raises:
        ValueError: it does not; pyarrow has further errors. Call it in `reading_parquet`.
    """
    file = require_extra("pyarrow.parquet", "data", f"reading {path.name}").ParquetFile(path)
    about = file.metadata
    rows = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    if min(rows, default=0) < 0 or sum(rows) != about.num_rows:
        raise ValueError(f"{about.num_rows} rows are said to lie in groups of {rows}")
    if sum(rows) > 2**20 + _DENSEST * path.stat().st_size:
        raise ValueError(f"{sum(rows)} rows are said to be of {path.stat().st_size} bytes")
    return file


def _table(path: Path, columns: Sequence[str] | None = None) -> Any:
    if not path.is_file():
        raise DataError(f"{path} does not exist: the data set is incomplete")
    missing = [name for name in columns or () if name not in _schema(path)]
    if missing:
        raise DataError(f"{path} has no column '{missing[0]}'; it has {', '.join(_schema(path))}")
    with reading_parquet(path):
        return open_parquet(path).read(columns=None if columns is None else list(columns))


def _schema(path: Path) -> list[str]:
    parquet = require_extra("pyarrow.parquet", "data", f"reading {path.name}")
    with reading_parquet(path):
        return parquet.read_schema(path).names


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: the data set is incomplete") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error})") from error


def _json_lines(path: Path) -> list[Any]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: the data set is incomplete") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON lines ({error})") from error


def _get(row: Any, name: str, path: Path) -> Any:
    if not isinstance(row, dict) or name not in row:
        raise DataError(f"{path}: a line has no '{name}': {row!r:.80}")
    return row[name]
