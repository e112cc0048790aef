"""`ClipDataset` (windows of episodes), `collate` (items to a `Batch`), and `ArraySource` (episodes in memory).

The dataset cuts windows of ``num_frames`` frames: ``"slide"`` takes every start (training), ``"tile"`` takes windows
that do not overlap (evaluation). Frames stay uint8 all the way.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batch import Batch
from ..errors import DataError
from ..names import NOT_CONDITIONS, TargetColumn, VectorColumn
from .base import EpisodeSource
from .items import check_item, plain_array
from .targets import Targets
from .vectors import as_vector

_TIMED = ("action", "done_mask")  # entries besides the video with a time axis, at the front
_NOT_CONDITIONS = NOT_CONDITIONS
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class ArraySource(EpisodeSource):
    """Episodes that are already in memory.

    Args:
        episodes: One dict per episode, entries as in `EpisodeSource.read`, over the whole episode.
        name: What it is called in messages and reports.
        synthetic: Whether the frames were generated.
    Raises:
        DataError: if there is no episode, or a video is not uint8 with 4 or 5 axes.
    Example:
        >>> source = ArraySource([{"video": np.zeros((7, 3, 8, 8), np.uint8)}])
        >>> len(ClipDataset(source, num_frames=5))
        3
    """

    def __init__(self, episodes: Sequence[Mapping[str, Any]], name: str = "arrays", synthetic: bool = False):
        if not episodes:
            raise DataError(f"{name}: no episodes given")
        self._episodes = [{key: _tensors(value) for key, value in episode.items()} for episode in episodes]
        self._name, self._synthetic = name, synthetic
        for i, episode in enumerate(self._episodes):
            video = episode.get("video")
            if not torch.is_tensor(video) or video.dtype != torch.uint8 or video.ndim not in (4, 5):
                found = f"{video.dtype} {list(video.shape)}" if torch.is_tensor(video) else type(video).__name__
                raise DataError(
                    f"{name}: video of episode {i} must be uint8 [T, C, H, W] or [V, T, C, H, W], got {found}"
                )

    @property
    def num_episodes(self) -> int:
        return len(self._episodes)

    def length(self, episode: int) -> int:
        return self._episodes[episode]["video"].shape[-4]

    def read(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        return _cut(self._episodes[episode], slice(start, stop))

    @property
    def summary(self) -> dict[str, Any]:
        size = list(self._episodes[0]["video"].shape[-2:])
        return {"name": self._name, "kind": "arrays", "resolution": size, "synthetic": self._synthetic}


class ClipDataset(torch.utils.data.Dataset):
    """Windows of ``num_frames`` frames over all episodes of a source.

    Args:
        source: Where the episodes come from.
        num_frames: Frames per item.
        stride_between_windows: Distance between the starts of two windows in frames (``"slide"`` only).
        frame_skip: Take every n-th frame; a window then spans ``(num_frames - 1) * frame_skip + 1`` frames.
        mode: ``"slide"``, ``"tile"`` (windows that do not overlap; a rest at the end is left out) or ``"first"`` (the
            first window of every episode).
        conditions: Condition -> entry that it is, or column of the state; a model has it in ``config.columns``. Others
            are left out. Default: every entry that can be a condition, under its own name.
        targets: Target -> where it lies, see `worldkit.data.targets`; a model has it in ``config.targets``. Default:
            reward, terminated and truncated, where the data have them.
        vectors: Vector beside the video -> entry or column of the state; a model has it in ``config.vectors``. Default:
            none.
    Attributes:
        skipped: Clips left out: shorter than a window, or (``on_error="skip"``) not decodable.
    Raises:
        DataError: if every episode is shorter than a window; names the lengths. If there is no such entry or column.
    Example:
        >>> source = ArraySource([{"video": np.zeros((n, 3, 8, 8), np.uint8)} for n in (4, 7, 2)])
        >>> dataset = ClipDataset(source, num_frames=3)
        >>> len(dataset), dataset.skipped, dataset[2]["episode"], dataset[2]["start"]
        (7, 1, 1, 0)
    """

    def __init__(
        self,
        source: EpisodeSource,
        num_frames: int,
        stride_between_windows: int = 1,
        frame_skip: int = 1,
        mode: str = "slide",
        conditions: Mapping[str, str] | None = None,
        targets: Mapping[str, TargetColumn] | None = None,
        vectors: Mapping[str, VectorColumn | str] | None = None,
    ):
        for name, value in (
            ("num_frames", num_frames),
            ("stride_between_windows", stride_between_windows),
            ("frame_skip", frame_skip),
        ):
            if not isinstance(value, int) or value < 1:
                raise DataError(f"{name} must be a whole number of at least 1, got {value!r}")
        if mode not in ("slide", "tile", "first"):
            raise DataError(f"mode must be 'slide', 'tile' or 'first', got {mode!r}")
        self.source, self.num_frames, self.frame_skip, self.mode = source, num_frames, frame_skip, mode
        self._span = (num_frames - 1) * frame_skip + 1
        self._stride = stride_between_windows if mode == "slide" else self._span
        last = np.array([source.last_start(i, self._span) for i in range(source.num_episodes)], dtype=np.int64)
        windows = np.where(last >= 0, 1 if mode == "first" else last // self._stride + 1, 0)
        self._last = np.cumsum(windows)  # one past the last window of each episode
        self.skipped = source.skipped + int((windows == 0).sum())
        if not windows.sum():
            raise DataError(self._too_short())
        self.conditions, self.targets, self.vectors = conditions, targets, vectors
        self._look()

    def feeding(
        self, conditions: Mapping[str, str] | None, targets: Mapping[str, TargetColumn] | None = None,
        vectors: Mapping[str, VectorColumn | str] | None = None,
    ) -> ClipDataset:
        """The same clips with these conditions, targets and vectors, see above."""
        clips = copy.copy(self)
        clips.conditions, clips.targets, clips.vectors = conditions, targets, vectors
        clips._look()
        return clips

    def conditions_in_data(self) -> dict[str, Any]:
        """Every entry of the data that can be a condition, as the first clip has it (its first frame, with an axis)."""
        item = self.source.read(self.window(0)[0], 0, 1)
        return {name: value for name, value in item.items() if name not in _NOT_CONDITIONS}

    def _look(self) -> None:
        """See whether the conditions and targets that are asked for are there."""
        self._targets: Targets | None = None
        first = self.source.read(self.window(0)[0], 0, 1) if self.conditions or self.vectors else {}
        if self.conditions:
            self._fed(first)
        if self.vectors:
            self._read_vectors(first)
        if self.targets:
            self._read_targets({})

    def _read_vectors(self, item: Mapping[str, Any]) -> dict[str, Tensor]:
        """Vectors beside the video of an item."""
        name_of_data = self.source.summary.get("name", "data")
        found, state = {}, item.get("state", {})
        for name, column in (self.vectors or {}).items():
            column = VectorColumn(column) if isinstance(column, str) else column
            short, frames = column.column.removeprefix("state."), item["video"].shape[-4]
            entries = {key: value for key, value in item.items() if key not in _NOT_CONDITIONS
                       and len(getattr(value, "shape", ())) > 0 and len(value) == frames}
            if column.column not in entries and short not in state:
                raise DataError(
                    f"{name_of_data}: no column '{column.column}' for the vector '{name}', which the model observes; "
                    f"it has: {', '.join([*entries, *state]) or 'none'}. Feed it from one of them: "
                    f"-o obs.columns.{name}=COLUMN"
                )
            values = entries[column.column] if column.column in entries else state[short]
            found[name] = as_vector(values, name, column, name_of_data)
        return found

    def _read_targets(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """Targets of a clip by the state of its window; an empty state: only see whether they are there."""
        if self.targets is None and not state or self.targets == {}:
            return {}
        if self._targets is None:
            first = self.source.read(self.window(0)[0], 0, 1).get("state", {})
            self._targets = Targets(self.source.summary.get("name", "data"), first, self.targets)
        return self._targets.read(state, self.frame_skip) if state else {}

    def _fed(self, item: dict[str, Any]) -> dict[str, Any]:
        """An item with the chosen conditions."""
        assert self.conditions is not None
        fed = {key: value for key, value in item.items() if key in _NOT_CONDITIONS}
        masks = fed.pop("masks", {})
        for name, column in self.conditions.items():
            fed[name] = self._column(item, name, column)
            mask = masks.get(name, masks.get(column))
            if mask is not None:
                fed.setdefault("masks", {})[name] = mask
        return fed

    def _column(self, item: Mapping[str, Any], name: str, column: str) -> Any:
        state, short = item.get("state", {}), column.removeprefix("state.")
        entries = [key for key in item if key not in _NOT_CONDITIONS]
        if column in entries:
            return item[column]
        if short not in state:
            has = ", ".join([*entries, *state]) or "nothing besides the video"
            told = f" (conditioners.{name}.from={column})" if name != column else ""
            raise DataError(
                f"{self.source.summary.get('name', 'data')}: no entry or column '{column}' for the condition '{name}'"
                f"{told}; it has: {has}. Feed it from one of them: conditioners.{name}.from=COLUMN"
            )
        value = torch.as_tensor(state[short])
        value = value if value.dtype in _WHOLE else value.float()
        if not torch.isfinite(value).all():
            raise DataError(
                f"{self.source.summary.get('name', 'data')}: column '{short}', which feeds the condition '{name}', is "
                "not finite everywhere; `worldkit data validate` tells where"
            )
        return value

    def _too_short(self) -> str:
        summary = self.source.summary
        lengths = np.array([self.source.length(i) for i in range(self.source.num_episodes)])
        name = summary.get("name", "data")
        if "split" in summary:
            name += f", split '{summary['split']}'" + (" (by time)" if summary.get("split_by") == "time" else "")
        if len(lengths) == 0 or lengths.max() == 0:
            return f"{name}: no frames. Give more or longer clips"
        by_time = summary.get("split_by") == "time"
        more = "; of three clips or more, whole ones are val and test, of fewer the last tenths" if by_time else ""
        found = f"{lengths.min()}" if lengths.min() == lengths.max() else f"{lengths.min()} to {lengths.max()}"
        return (
            f"{name}: all {len(lengths)} clip(s) are shorter than a window: they have {found} frames, a window of "
            f"num_frames={self.num_frames} with frame_skip={self.frame_skip} spans {self._span}. "
            f"Use num_frames={(lengths.max() - 1) // self.frame_skip + 1} or less (of a training: the model's "
            f"window, -o timestep_horizon=...; of commands that give frames and predict some: both together, --context "
            f"and --horizon), or longer clips{more}."
        )

    def __len__(self) -> int:
        return int(self._last[-1])

    def window(self, index: int) -> tuple[int, int]:
        """Episode and first frame of an item."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        episode = int(np.searchsorted(self._last, index, side="right"))
        first = int(self._last[episode - 1]) if episode else 0
        return episode, (index - first) * self._stride

    def spread(self, most: int) -> list[int]:
        """Items from the first to the last, evenly spread, so many at most."""
        return torch.linspace(0, len(self) - 1, min(most, len(self))).long().unique().tolist()

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One clip: what the source reads, as tensors, plus ``"episode"`` and ``"start"`` (ints)."""
        episode, start = self.window(index)
        found = self.source.read(episode, start, start + self._span)
        check_item(found, self._span, f"{self.source.summary.get('name', 'data')}, {self.source.episode_name(episode)}")
        item = {k: _tensors(v) for k, v in found.items()}
        targets = self._read_targets(item.get("state", {}))
        if self.frame_skip > 1:
            if "action" in (item if self.conditions is None else self.conditions.values()):
                raise DataError("frame_skip above 1 would drop actions between frames: use frame_skip=1 with actions")
            item = _cut(item, slice(None, None, self.frame_skip))
        seen = {"vectors": self._read_vectors(item)} if self.vectors else {}
        item = item if self.conditions is None else self._fed(item)
        return {**item, **({"targets": targets} if targets else {}), **seen, "episode": episode, "start": start}

    @property
    def summary(self) -> dict[str, Any]:
        """The source's summary plus ``episodes``, ``clips``, ``num_frames`` and ``skipped``."""
        return {
            **self.source.summary,
            "episodes": self.source.num_episodes,
            "clips": len(self),
            "num_frames": self.num_frames,
            "skipped": self.skipped,
        }


def collate(items: Sequence[Mapping[str, Any]]) -> Batch:
    """Items of a `ClipDataset` -> `Batch`. ``"state"`` is for evaluation and does not enter the batch.

    Args:
        items: Dicts with the same keys and shapes.
    Returns:
        ``video`` uint8 ``[B, T, C, H, W]`` (or with views), conditions, targets and vectors stacked on a new first
        axis (strings: a list).
    Raises:
        DataError: if the items differ in keys or shapes.
    Example:
        >>> collate([{"video": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}] * 2).video.shape
        torch.Size([2, 4, 3, 8, 8])
    """
    keys = set(items[0])
    for item in items:
        if set(item) != keys:
            raise DataError(f"clips of one batch differ in their entries: {sorted(keys ^ set(item))} are not in all")
    return Batch(
        video=_stack("video", [item["video"] for item in items]),
        conditions={k: _stack(k, [item[k] for item in items]) for k in sorted(keys - set(_NOT_CONDITIONS))},
        masks={k: _stack(k, [item["masks"][k] for item in items]) for k in items[0].get("masks", {})},
        done_mask=_stack("done_mask", [item["done_mask"] for item in items]) if "done_mask" in keys else None,
        targets={k: _stack(k, [item["targets"][k] for item in items]) for k in items[0].get("targets", {})},
        vectors={k: _stack(k, [item["vectors"][k] for item in items]) for k in items[0].get("vectors", {})},
    )


def _stack(name: str, values: list[Any]) -> Tensor | list[Any]:
    if not torch.is_tensor(values[0]):
        return values
    shapes = sorted({tuple(value.shape) for value in values})
    if len(shapes) > 1:
        raise DataError(f"{name}: clips of one batch must have one shape, got {' and '.join(map(str, shapes))}")
    return torch.stack(values)


def _tensors(value: Any) -> Any:
    """Arrays, at any depth of dicts, as tensors of their own memory (a read-only file map is copied)."""
    if isinstance(value, Mapping):
        return {k: _tensors(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        plain = plain_array(value)
        return torch.from_numpy(plain) if isinstance(plain, np.ndarray) else plain
    return value


def _cut(item: Mapping[str, Any], frames: slice) -> dict[str, Any]:
    """Entries of an episode or clip restricted to some frames."""
    cut = dict(item)
    cut["video"] = item["video"][..., frames, :, :, :]
    for key in _TIMED:
        if key in item:
            cut[key] = item[key][frames]
    for key in ("state", "masks"):
        if key in item:
            cut[key] = {name: value[frames] for name, value in item[key].items()}
    return cut
