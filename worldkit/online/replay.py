"""`Replay`: windows of collected episodes, drawn from memory.

Which windows are likely is said by ``by``; Dreamer v2's rule ("ends") is danijar/dreamerv2 @ 07d906e's, from its
description.

The episodes are an ordinary data set (a folder of ``npz`` files, `worldkit.collecting`); this is a view of it that
grows while environments play. Rows are frames: row t holds frame t, the action and the reward of the transition from
there to frame t + 1, and whether that ended the episode. The last row of an episode leads nowhere: action and reward
are 0, flags False.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..batch import Batch
from ..data import open_source
from ..data.vectors import batched
from ..errors import DataError
from ..names import VectorColumn

FLAGS = ("terminated", "truncated")
TARGETS = ("reward", *FLAGS)
MOST_STATES = 2**29
"""Bytes of states that a checkpoint holds at most; a run that goes on without begins with states of nothing."""


class Track:
    """One episode in memory: arrays that grow.

    Attributes:
        number: Of the episode in its folder.
        over: Whether it has ended.
        states: What a model took its frames for when it last looked, float16 ``[T, N, D]``; zeros where it never did,
            None if nobody asks.
    """

    def __init__(self, number: int):
        self.number, self.over = number, False
        self.states: np.ndarray | None = None
        self._rows = 0
        self._columns: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, column: str) -> np.ndarray:
        return self._columns[column][: self._rows]

    @property
    def columns(self) -> list[str]:
        """What it has."""
        return list(self._columns)

    def grow(self, entries: Mapping[str, Any], *, over: bool) -> None:
        """Add rows.

        Args:
            entries: As `worldkit.collecting.play_episode` gives them, of the newest row that is here (its action is
                known by now) and the ones behind it; of all rows at first.
            over: Whether the episode has ended, with its last row.
        """
        rows = {"video": entries["video"], "action": entries["action"], **entries.get("state", {})}
        first, count = max(0, self._rows - 1), len(rows["video"])
        self._reserve(first + count, rows, exactly=over)
        for name, column in self._columns.items():
            column[first : first + count] = rows[name]
        for name in FLAGS:
            known = count - 1 if over else 0  # an episode that goes on is told as cut off
            self._columns[name][first + known : first + count] = False
        self._rows, self.over = first + count, over

    def note(self, row: int, states: np.ndarray) -> None:
        """Note states ``[rows, N, D]`` from a row on."""
        if self.states is None or len(self.states) < row + len(states):
            room = np.zeros((max(row + len(states), 2 * self._rows), *states.shape[1:]), np.float16)
            if self.states is not None:
                room[: len(self.states)] = self.states
            self.states = room
        self.states[row : row + len(states)] = states

    def state(self, row: int, like: tuple[int, ...]) -> np.ndarray:
        """What a row was taken for, ``[N, D]``."""
        known = self.states is not None and row < len(self.states)
        return self.states[row] if known else np.zeros(like, np.float16)

    def _reserve(self, length: int, rows: Mapping[str, np.ndarray], *, exactly: bool) -> None:
        for name in rows if not self._columns else self._columns:
            old, new = self._columns.get(name), np.asarray(rows[name])
            if old is None or len(old) < length or exactly:
                room = np.empty((length if exactly else 2 * length, *new.shape[1:]), new.dtype)
                if old is not None:
                    room[: self._rows] = old[: self._rows]
                self._columns[name] = room


class Stream:
    """Episodes that one environment played, one behind the other.

    Attributes:
        tracks, lengths: In memory, and their rows.
        rows: All of them together.
        dropped: Rows that were there before the first of them.
        fresh: Rows up to here went into the queue of fresh windows.
    """

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self.lengths: list[int] = []
        self.rows = self.dropped = self.fresh = 0

    def grow(self, number: int, entries: Mapping[str, Any], *, over: bool) -> int:
        """Add rows to an episode; how many are new."""
        if not self.tracks or self.tracks[-1].number != number:
            self.tracks.append(Track(number))
            self.lengths.append(0)
        self.tracks[-1].grow(entries, over=over)
        new = len(self.tracks[-1]) - self.lengths[-1]
        self.lengths[-1] += new
        self.rows += new
        return new

    def forget(self) -> int:
        """Drop the oldest episode; how many rows it had."""
        self.tracks.pop(0)
        gone = self.lengths.pop(0)
        self.rows, self.dropped = self.rows - gone, self.dropped + gone
        return gone


class Replay:
    """Draws windows of the episodes that were played.

    Args:
        length: Frames of a window.
        capacity: Rows in memory; beyond them the oldest episodes are forgotten (their files stay).
        cross: Windows may go on in the next episode of the same environment; ``Batch.first`` tells where. Otherwise
            shorter episodes are never seen.
        channels: Colour channels of the video; of files that were grey one is read.
        queue: Every window of new rows, one behind the other, is drawn once before others are (Dreamer v3).
        conditions: Condition -> column that it is fed from.
        vectors: Vector beside the picture -> column; a model has it in ``config.vectors``.
        pictures: Keep them; else video is empty, for models that see vectors alone.
        by: ``"steps"``: all windows are equally likely; ``"episodes"``: all episodes are, then all windows in one;
            ``"ends"``: likewise, but the last window of an episode that is over counts as ``length`` more.
    Example:
        >>> from worldkit.collecting import make_policy, play_episode
        >>> from worldkit.envs import make_env
        >>> env = make_env("games/catch", size=16)
        >>> replay = Replay(8)
        >>> replay.add(0, 0, play_episode(env, make_policy("scripted", env), seed=0), over=True)
        >>> batch = replay.draw(4, np.random.default_rng(0))
        >>> batch.video.shape, batch.targets["reward"].shape, replay.windows
        (torch.Size([4, 8, 3, 16, 16]), torch.Size([4, 8]), 144)
    """

    def __init__(self, length: int, *, capacity: int = 1_000_000, cross: bool = True, queue: bool = False,
                 channels: int = 3, conditions: Mapping[str, str] | None = None,
                 vectors: Mapping[str, VectorColumn] | None = None, pictures: bool = True,
                 by: Literal["steps", "episodes", "ends"] = "steps"):
        self.length, self.capacity, self.cross, self.queue, self.channels = length, capacity, cross, queue, channels
        self.conditions = {"action": "action"} if conditions is None else dict(conditions)
        self.vectors, self.pictures, self.by = dict(vectors or {}), pictures, by
        self.streams: dict[int, Stream] = {}
        self.rows = 0
        self._drawn: list[list[tuple[Track, int, int]]] = []  # parts (track, row, rows) of the newest windows
        self._fresh: deque[tuple[int, int]] = deque()
        self._table: tuple[list[Track], dict[int, int], np.ndarray] | None = None

    def add(self, stream: int, number: int, entries: Mapping[str, Any], *, over: bool) -> None:
        """Add rows of an episode; see `Track.grow`.

        Args:
            stream: Number of the environment that plays it.
            number: Of the episode.
            entries: Rows.
            over: Whether it has ended.
        """
        if not self.pictures:
            entries = {**entries, "video": entries["video"][..., :0, :0]}
        played = self.streams.setdefault(stream, Stream())
        self.rows += played.grow(number, entries, over=over)
        self._table = None
        if self.queue:
            while played.dropped + played.rows - played.fresh >= self.length:
                self._fresh.append((stream, played.fresh))
                played.fresh += self.length
        while self.rows > self.capacity and (oldest := self._oldest()) is not None:
            self.rows -= oldest.forget()

    def rows_of(self, stream: int, number: int) -> int:
        """Rows that are known of an episode."""
        tracks = self.streams[stream].tracks if stream in self.streams else []
        return len(tracks[-1]) if tracks and tracks[-1].number == number else 0

    def _oldest(self) -> Stream | None:
        """Who has the oldest episode that may go: the newest one of a stream stays."""
        more = [stream for stream in self.streams.values() if len(stream.tracks) > 1]
        return min(more, key=lambda stream: stream.tracks[0].number, default=None)

    @property
    def episodes(self) -> list[Track]:
        """Those in memory, in the order in which they were begun; the newest ones may be going on."""
        return sorted((one for stream in self.streams.values() for one in stream.tracks), key=lambda one: one.number)

    @property
    def windows(self) -> int:
        """Windows that can be drawn."""
        return int(self._starts()[2][-1]) if self.streams else 0

    def _starts(self) -> tuple[list[Track], dict[int, int], np.ndarray]:
        """Tracks, where the first one of every stream is among them, and windows that begin up to the end of each."""
        if self._table is None:
            tracks, firsts, starts = [], {}, []
            for number, stream in self.streams.items():
                lengths = np.array(stream.lengths)
                left = lengths[::-1].cumsum()[::-1] if self.cross else lengths
                firsts[number] = len(tracks)
                tracks += stream.tracks
                starts.append(np.clip(left - self.length + 1, 0, lengths))
            self._table = tracks, firsts, np.concatenate(starts).cumsum()
        return self._table

    def draw(self, count: int, random: np.random.Generator) -> Batch:
        """A batch of windows.

        Args:
            count: How many.
            random: Which.
        Returns:
            Video, conditions, targets ``"reward"``, ``"terminated"``, ``"truncated"``, and ``first``: which frames
            begin an episode.
        Raises:
            DataError: there is no window of that length.
        """
        if not self.windows:
            raise DataError(self._too_short())
        tracks, _, ends = self._starts()
        chosen: list[tuple[int, int]] = []
        while self._fresh and len(chosen) < count:
            stream, row = self._fresh.popleft()
            if (found := self._locate(stream, row)) is not None:
                chosen.append(found)
        if self.by != "steps":
            return self._batch(tracks, chosen + self._in_episodes(tracks, ends, count - len(chosen), random))
        places = random.integers(0, ends[-1], count - len(chosen))
        at = np.searchsorted(ends, places, side="right")
        chosen += zip(at.tolist(), (places - np.where(at > 0, ends[at - 1], 0)).tolist(), strict=True)
        return self._batch(tracks, chosen)

    def _in_episodes(
        self, tracks: list[Track], ends: np.ndarray, count: int, random: np.random.Generator
    ) -> list[tuple[int, int]]:
        """Tracks and rows in them: an episode, then a window that begins there."""
        windows = np.diff(ends, prepend=0)
        at = random.choice(np.flatnonzero(windows), count)
        windows = windows[at]
        more = np.array([self.length * tracks[number].over for number in at.tolist()], int) * (self.by == "ends")
        rows = np.minimum(random.integers(0, windows + more), windows - 1)
        return list(zip(at.tolist(), rows.tolist(), strict=True))

    def _locate(self, stream: int, row: int) -> tuple[int, int] | None:
        """Track and row in it of a row of a stream; None if it is forgotten."""
        row -= self.streams[stream].dropped
        if row < 0:
            return None
        track = int(np.searchsorted(np.cumsum(self.streams[stream].lengths), row, side="right"))
        return self._starts()[1][stream] + track, row - sum(self.streams[stream].lengths[:track])

    def _batch(self, tracks: list[Track], chosen: list[tuple[int, int]]) -> Batch:
        columns = {name: column.column.removeprefix("state.") for name, column in self.vectors.items()}
        wanted = {*TARGETS, "video", *self.conditions.values(), *columns.values()}
        if lacking := sorted({*columns.values()} - {*tracks[0].columns}):
            raise DataError(f"the episodes have no column '{lacking[0]}', which the model observes; they have: "
                            f"{', '.join(tracks[0].columns)}. Let it read another one: -o obs.columns.NAME=COLUMN")
        found: dict[str, np.ndarray] = {}
        for name in wanted:
            like = tracks[0][name]
            found[name] = np.empty((len(chosen), self.length, *like.shape[1:]), like.dtype)
        first = np.zeros((len(chosen), self.length), bool)
        self._drawn = []
        for window, (number, row) in enumerate(chosen):
            done = 0
            self._drawn.append([])
            while done < self.length:
                track = tracks[number]
                rows = min(len(track) - row, self.length - done)
                for name, column in found.items():
                    column[window, done : done + rows] = track[name][row : row + rows]
                first[window, done] |= row == 0
                self._drawn[-1].append((track, row, rows))
                done, number, row = done + rows, number + 1, 0
        tensors = {name: torch.from_numpy(column) for name, column in found.items()}
        return Batch(
            video=tensors["video"], targets={name: tensors[name] for name in TARGETS}, first=torch.from_numpy(first),
            conditions={name: tensors[column] for name, column in self.conditions.items()},
            vectors={name: batched(tensors[column], self.vectors[name]) for name, column in columns.items()})

    # -- states

    def note_state(self, stream: int, row: int, state: Tensor) -> None:
        """Note what the newest episode's row was taken for, ``[N, D]``."""
        self.streams[stream].tracks[-1].note(row, state[None].half().numpy())

    def states(self, like: tuple[int, ...]) -> Tensor:
        """What the first frame of every window that was drawn last was taken for, ``[B, 1, N, D]``.

        Args:
            like: (N, D).
        """
        found = [parts[0][0].state(parts[0][1], like) for parts in self._drawn]
        return torch.from_numpy(np.stack(found)).float()[:, None]

    def note_states(self, states: Tensor) -> None:
        """Note what the frames of the windows that were drawn last are taken for now, but for the first ones.

        Args:
            states: ``[B, length - 1, N, D]``.
        """
        values = states.half().cpu().numpy()
        for window, parts in zip(values, self._drawn, strict=True):
            done = -1  # the first frame is context
            for track, row, rows in parts:
                skip = max(0, -done)
                if rows > skip:
                    track.note(row + skip, window[done + skip : done + rows])
                done += rows

    def _too_short(self) -> str:
        longest = max((rows for stream in self.streams.values() for rows in stream.lengths), default=0)
        together = max((stream.rows for stream in self.streams.values()), default=0)
        if self.cross:
            return (f"the replay holds {together} frames of one environment, fewer than a clip of {self.length}: let "
                    f"it act for more steps before it learns (-o online.prefill={self.length}), or take shorter clips "
                    "(-o online.length=...)")
        return (f"no episode is as long as a clip: the longest has {longest} frames, a clip {self.length}: take "
                f"shorter clips (-o online.length={max(1, longest - 1)}), or let them go on in the next episode "
                "(-o online.cross=true)")

    # -- going on

    def state_dict(self) -> dict[str, Any]:
        """What is needed to have the same again, beside the files: which episodes, in which order."""
        return {
            "streams": [[number, stream.dropped, stream.fresh, [t.number for t in stream.tracks if t.over]]
                        for number, stream in self.streams.items()],
            "fresh": [list(place) for place in self._fresh],
            "states": self._told_states(),
        }

    def _told_states(self) -> dict[int, Tensor] | None:
        """Episode -> states of its rows; None if they are too many for a checkpoint."""
        noted = {track.number: track.states[: len(track)] for stream in self.streams.values()
                 for track in stream.tracks if track.states is not None}
        if sum(states.nbytes for states in noted.values()) > MOST_STATES:
            return None
        return {number: torch.from_numpy(states.copy()) for number, states in noted.items()}

    def load_states(self, states: Mapping[int, Tensor] | None) -> None:
        """Have the states of `state_dict` again, once all episodes are here."""
        for stream in self.streams.values():
            for track in stream.tracks:
                if states and track.number in states:
                    track.note(0, states[track.number].numpy())

    def load_state_dict(self, state: Mapping[str, Any], folder: str | os.PathLike[str]) -> None:
        """Have the same episodes again; those that were being played have to be added once more.

        Raises:
            DataError: an episode is not there any more.
        """
        self.streams, self._table, self.rows = {}, None, 0
        wanted = [number for *_, numbers in state["streams"] for number in numbers]
        episodes = read_episodes(folder, wanted) if wanted else {}
        queue, self.queue = self.queue, False  # what is in it is told below
        for stream, dropped, fresh, numbers in state["streams"]:
            for number in numbers:
                episode = episodes.pop(number)  # readers give grey frames three equal channels
                self.add(stream, number, {**episode, "video": episode["video"][:, : self.channels]}, over=True)
            played = self.streams.setdefault(stream, Stream())
            played.dropped, played.fresh = dropped, fresh
        self.queue, self._fresh = queue, deque(map(tuple, state["fresh"]))


def read_episodes(folder: str | os.PathLike[str], numbers: list[int] | None = None) -> dict[int, dict[str, Any]]:
    """Episodes of a data set by their numbers.

    Args:
        folder: What `worldkit.data.open_source` reads; of one that `worldkit.collecting` wrote the numbers are those of
            the files, else they are counted.
        numbers: Which; None: all.
    Raises:
        DataError: one of them is not there.
    """
    source = open_source(os.fspath(folder), split="all", peek=True)
    names = [source.episode_name(i) for i in range(source.num_episodes)]
    known = {_number(name, i): i for i, name in enumerate(names)}
    missing = sorted(set(numbers or ()) - known.keys())
    if missing:
        raise DataError(f"{folder} lacks episode {missing[0]}, which the run has learned from: put it back, or begin a "
                        "new run (--run)")
    return {number: source.read(i, 0, source.length(i)) for number, i in known.items()
            if numbers is None or number in set(numbers)}


def _number(name: str, place: int) -> int:
    digits = name.rpartition("episode_")[2].removesuffix(".npz")
    return int(digits) if digits.isdecimal() else place
