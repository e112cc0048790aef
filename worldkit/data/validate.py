"""`validate`: everything that is wrong with a data set, each fault with its path and frame."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .decode import decode_images, image_size
from .entries import CONSTANT, check_constant
from .numbering import find_gaps
from .parts import Frame, Part, find_parts
from .recording import as_action, check_mask

_VIEWS = ("cameras", "frame size")
FROZEN_FRAMES = 5  # so many equal frames in a row are worth a warning
AT_RESET = ("reward", "terminated", "truncated")  # stable-worldmodel writes NaN where an environment was just reset
RATE_OFF = 0.02  # frame rates that differ less count as equal (29.97 and 30)
OUTLIER_SPREADS = 20  # interquartile ranges from the median; a normal distribution has one in 10^180 out there


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or (a warning) suspicious.

    Attributes:
        path: File or folder, and where a file holds many episodes, which one.
        problem: What is wrong.
        frame: At which frame, where it is at one.
        warning: The data can be used nevertheless.
    """

    path: str
    problem: str
    frame: int | None = None
    warning: bool = False

    def __str__(self) -> str:
        place = self.path if self.frame is None else f"{self.path}, frame {self.frame}"
        return f"{place}: {self.problem}"


@dataclass
class Validation:
    """What `validate` found.

    Attributes:
        target: The data set.
        format: Its format.
        episodes, frames: How many were looked at.
        findings: Faults and warnings, in the order of the episodes.
    """

    target: str
    format: str
    episodes: int = 0
    frames: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def faults(self) -> list[Finding]:
        """What makes the data wrong or unreadable."""
        return [finding for finding in self.findings if not finding.warning]

    @property
    def warnings(self) -> list[Finding]:
        """What may be meant so."""
        return [finding for finding in self.findings if finding.warning]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        counts = {"episodes": self.episodes, "frames": self.frames}
        found = {"faults": [asdict(f) for f in self.faults], "warnings": [asdict(f) for f in self.warnings]}
        return {"data": self.target, "format": self.format, **counts, **found}


@dataclass
class _Seen:
    """What one episode holds, for the comparison with the others."""

    part: Part
    frames: int = 0
    sizes: tuple[tuple[int, ...], ...] = ()  # of every camera
    digest: str = ""
    timed: Mapping[str, np.ndarray] = field(default_factory=dict)
    constant: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = True  # frames and entries could be read


def validate(
    target: str | os.PathLike[str],
    *,
    format: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Validation:
    """Read all of a data set and tell what is wrong with it.

    Faults: frames that cannot be decoded, missing numbers in the names of images, episodes without frames, entries that
    differ in length from the frames or that no reader takes, numbers that are not finite, episodes that differ in their
    entries or shapes, a LeRobot data set whose counts, splits, frame rate or tasks disagree.
    Warnings: frozen video, equal episodes (a leak, if they lie in two splits), frame sizes and frame rates that differ,
    cameras that some episodes lack or that are probably depth, actions far from all others, constant action
    dimensions, arrays no reader takes.

    Args:
        target: Name or path, as for `open_dataset`.
        format: Name of the format, if it should not be recognised.
        progress: Called as ``progress(episodes looked at, episodes in all)``.
        **options: Options of the format.
    Raises:
        DataError: if there is no data set, or not one episode can be found.
    Example:
        >>> validate("balls-32", num_episodes=3, episode_length=4).faults
        []
    """
    target = os.fspath(target)
    name, parts, problems = find_parts(target, format, options)
    found = Validation(target, name)
    found.findings += [Finding(target, _without(target, p.text), warning=p.warning) for p in problems]
    seen = []
    for number, part in enumerate(parts):
        episode = _Seen(part)
        found.findings += _check(episode)
        seen.append(episode)
        found.episodes, found.frames = found.episodes + 1, found.frames + episode.frames
        if progress is not None:
            progress(number + 1, len(parts))
    found.findings += [*_compare(seen), *_rates(target, parts), *_twins(seen), *_outliers(seen)]
    return found


def _check(seen: _Seen) -> Iterator[Finding]:
    """What is wrong inside one episode; fills in what it holds."""
    part = seen.part
    found = list(_look(seen, _images(seen) if part.images else _stream(seen)))
    yield from found
    try:
        timed, seen.constant = part.entries()
    except DataError as error:
        seen.whole = False
        if _without(part.path, error) not in [finding.problem for finding in found]:
            yield Finding(part.path, _without(part.path, error))
        return
    seen.timed = {name: np.atleast_1d(array) for name, array in timed.items()}
    for name, array in seen.timed.items():
        if seen.whole and len(array) != seen.frames:
            yield Finding(part.path, f"'{name}' has {len(array)} steps, the video has {seen.frames} frames")
        yield from _refused(part.path, name, array)
        yield from _not_finite(part.path, name, array)
    for name, array in seen.constant.items():
        if name in CONSTANT and isinstance(array, np.ndarray):
            yield from _refused(part.path, name, array)
        elif isinstance(array, np.ndarray) and array.ndim and array.dtype.kind in "fiub" and seen.whole:
            yield from _state(seen, name, array)
        elif isinstance(array, np.ndarray) and array.dtype.kind not in "fiub":
            yield Finding(part.path, f"'{name}' is text, and no instruction (language): it is not read", warning=True)


def _state(seen: _Seen, name: str, array: np.ndarray) -> Iterator[Finding]:
    """An array of a name that is not known is state, if it is as long as the video."""
    if len(array) == seen.frames:
        yield from _not_finite(seen.part.path, name, array)
    else:
        problem = f"'{name}' {list(array.shape)} fits neither the {seen.frames} frames nor a name that is known"
        yield Finding(seen.part.path, f"{problem}: it is not read", warning=True)


def _refused(path: str, name: str, array: np.ndarray) -> Iterator[Finding]:
    """An entry that no reader takes."""
    try:
        if name == "action":
            as_action(np.zeros_like(array), path)  # whether it is finite is told row by row
        elif name in CONSTANT:
            check_constant(array, name, path)
        else:
            check_mask(array, name, path)
    except DataError as error:
        yield Finding(path, _without(path, error))


def _look(seen: _Seen, frames: Iterator[Frame | Finding]) -> Iterator[Finding]:
    """Count frames, tell frozen stretches, and pass on what was found."""
    digest, last, since = hashlib.sha256(), None, 0
    broken = False
    for frame in frames:
        if isinstance(frame, Finding):
            seen.whole, broken = seen.whole and frame.warning, broken or not frame.warning
            yield frame
            continue
        for view in frame:
            digest.update(np.ascontiguousarray(view).data)
        if last is not None and not all(map(np.array_equal, frame, last)):
            yield from _frozen(seen.part.path, since, seen.frames)
            since = seen.frames
        last, seen.sizes = frame, tuple(view.shape[:2] for view in frame)
        seen.frames += 1
    yield from _frozen(seen.part.path, since, seen.frames)
    seen.digest = digest.hexdigest()
    if not seen.frames and not broken:
        seen.whole = False
        yield Finding(seen.part.path, "the episode has no frames")


def _frozen(path: str, first: int, stop: int) -> Iterator[Finding]:
    if stop - first >= FROZEN_FRAMES:
        yield Finding(path, f"the video is frozen: frames {first} to {stop - 1} are equal", first, warning=True)


def _stream(seen: _Seen) -> Iterator[Frame | Finding]:
    """Frames of a file; a fault ends them."""
    try:
        yield from seen.part.frames()
    except DataError as error:
        number = re.search(r"\bframe (\d+)", str(error))
        frame = int(number[1]) if number else seen.frames or None
        yield Finding(seen.part.path, _without(seen.part.path, error), frame)


def _images(seen: _Seen) -> Iterator[Frame | Finding]:
    """Images one by one, so that a broken one does not hide the next; those of several cameras side by side."""
    views = seen.part.images
    for files in views:
        for gap in find_gaps([file.stem for file in files]):
            yield Finding(str(files[0].parent), gap.problem, gap.frame, warning=not gap.sure)
    if len({len(files) for files in views}) > 1:
        yield Finding(seen.part.path, f"cameras differ in frames: {', '.join(str(len(files)) for files in views)}")
    sizes: list[Counter[tuple[int, int]]] = [Counter() for _ in views]
    for number, files in enumerate(zip(*views, strict=False)):
        pictures = []
        for file, seen_sizes in zip(files, sizes, strict=True):
            try:
                size = image_size(file)
                pictures.append(next(iter(decode_images([file], *size))))
                seen_sizes[size] += 1
                usual = seen_sizes.most_common(1)[0][0]
                if size != usual:
                    problem = f"is {_times(size)} pixels, the images before it are {_times(usual)}"
                    yield Finding(str(file), problem, number)
            except DataError as error:
                yield Finding(str(file), _without(str(file), error), number)
        if len(pictures) == len(files):
            yield tuple(pictures)


def _not_finite(path: str, name: str, array: np.ndarray) -> Iterator[Finding]:
    """Rows with NaN or infinity; the last action of an episode leads nowhere, its first frame had no reward."""
    if array.dtype.kind != "f" or not len(array):
        return
    rows = array.reshape(len(array), -1)
    with np.errstate(over="ignore"):
        taken = rows.astype(np.float32) if name == "action" else rows
    for row in np.flatnonzero(~np.isfinite(taken).all(1)).tolist():
        if (name == "action" and row == len(array) - 1) or (row == 0 and name.removeprefix("state.") in AT_RESET):
            continue
        problem = "too large for float32" if np.isfinite(rows[row]).all() else "not finite"
        values = np.array2string(rows[row][:8], precision=4, separator=", ")
        yield Finding(path, f"'{name}' is {problem}: {values}", row)


def _compare(seen: Sequence[_Seen]) -> Iterator[Finding]:
    """Episodes whose entries or shapes are not those of most."""
    layouts = [(s, _layout(s)) for s in seen if s.whole]
    for name in sorted({n for _, layout in layouts for n in layout}):
        held = [(s, layout.get(name)) for s, layout in layouts if not (s.part.lacks and name in _VIEWS)]
        usual = Counter(value for _, value in held).most_common(1)[0][0] if held else None
        for s, value in held:
            if value != usual:
                got, most = ("is missing" if v is None else f"is {v}" for v in (value, usual))
                problem = f"'{name}' {got} here, but {most} in most episodes"
                yield Finding(s.part.path, problem, warning=name == "frame size")


def _layout(seen: _Seen) -> dict[str, str]:
    found = {name: f"{a.dtype} {['T', *a.shape[1:]]}".replace("'", "") for name, a in seen.timed.items()}
    for name, value in seen.constant.items():
        array = isinstance(value, np.ndarray)
        same = array and value.ndim and len(value) == seen.frames and name not in CONSTANT
        shape = ["T", *value.shape[1:]] if same else list(value.shape) if array else []
        found[name] = f"{value.dtype} {shape}".replace("'", "") if array else "text"
    sizes = " and ".join(dict.fromkeys(map(_times, seen.sizes)))
    return {**found, "cameras": str(len(seen.sizes)), "frame size": sizes}


def _rates(target: str, parts: Sequence[Part]) -> Iterator[Finding]:
    """Films of different or of varying speed: a step of a model would be of no fixed time."""
    known: dict[float, list[str]] = {}
    for part in parts:
        with contextlib.suppress(DataError):  # told where it is read
            rate = part.rate() if part.rate is not None else None
            if rate is not None:
                near = next((other for other in known if abs(rate / other - 1) < RATE_OFF), rate)
                known.setdefault(near, []).append(part.path)
            pauses = part.pauses() if part.pauses is not None else None
            if pauses is not None:
                told = f"{pauses[0]:.3g} s apart as a rule, but up to {pauses[1]:.3g} s"
                yield Finding(part.path, f"its frames are {told}: a step of a model is of no fixed time", warning=True)
    if len(known) > 1:
        held = sorted(known.items(), key=lambda item: -len(item[1]))
        told = ", ".join(f"{rate:.4g} ({len(paths)}, first {Path(paths[0]).name})" for rate, paths in held)
        yield Finding(target, f"the clips differ in frames per second: {told}", warning=True)


def _twins(seen: Sequence[_Seen]) -> Iterator[Finding]:
    """Episodes with the same frames."""
    first: dict[str, _Seen] = {}
    for s in seen:
        if not (s.whole and s.frames):
            continue
        twin = first.setdefault(s.digest, s)
        if twin is not s:
            apart = f" (split '{twin.part.split}')" if twin.part.split != s.part.split else ""
            yield Finding(s.part.path, f"has the same frames as {twin.part.path}{apart}", warning=True)


def _outliers(seen: Sequence[_Seen]) -> Iterator[Finding]:
    """Actions far from all others, and dimensions that never change."""
    rows = [(s, np.asarray(s.timed["action"], np.float64).reshape(len(s.timed["action"]), -1))
            for s in seen if s.whole and "action" in s.timed and s.timed["action"].dtype.kind == "f"]
    for width in sorted({values.shape[1] for _, values in rows}):
        alike = [(s, values) for s, values in rows if values.shape[1] == width]
        every = np.concatenate([values for _, values in alike])
        every = every[np.isfinite(every).all(1)]
        if len(every) < 8:
            continue
        low, middle, high = np.percentile(every, (25, 50, 75), axis=0)
        spread = high - low
        for dimension in np.flatnonzero(every.min(0) == every.max(0)):
            problem = f"dimension {dimension} of 'action' is {every[0, dimension]:g} everywhere"
            yield Finding(alike[0][0].part.path, f"{problem}, in all episodes", warning=True)
        for s, values in alike:
            away = np.abs(values - middle) > OUTLIER_SPREADS * spread
            for row, dimension in np.argwhere(away & (spread > 0) & np.isfinite(values)).tolist():
                value = f"{values[row, dimension]:g} in dimension {dimension}"
                half = f"half of all lie in {low[dimension]:.3g} to {high[dimension]:.3g}"
                yield Finding(s.part.path, f"'action' is {value}, but {half}", row, warning=True)


def _times(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _without(path: str, error: DataError | str) -> str:
    """The message without the path it begins with, and without advice for readers."""
    text = str(error)
    text = text.removeprefix(path).lstrip(" :,/") if text.startswith(path) else text
    return text.split(", or pass on_error=")[0]
