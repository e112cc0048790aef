"""Formats of data, and `open_dataset`, which finds the right one for a name or a path.

To add a format, write a function that opens it and register both::

    from worldkit.data import register_format

    def open_robot_log(target, *, split, height=None, width=None, camera="front"):
        return RobotLogSource(...)              # your subclass of worldkit.data.EpisodeSource

    register_format("robot-log", matches=lambda target: target.endswith(".rlog"), opener=open_robot_log,
                    description="a robot log (*.rlog)")

``open_dataset("run.rlog", num_frames=8, camera="wrist")`` then works. Everything after ``width`` in the opener's
signature is an option of the format; an option the opener does not have is an error that lists those it has. Formats
registered last are asked first, so a special folder can be recognised before the general ones. A plugin package calls
``register_format`` when it is loaded (entry-point group ``worldkit.plugins``).
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, DuplicateComponentError
from ..names import TargetColumn, VectorColumn
from ..registry import load_plugins, suggestion
from .base import EpisodeSource
from .joined import JoinedSource
from .splits import ALL, SPLITS, AlreadySplitError, MissingSplitError, check_split
from .unseen import without_pictures

if TYPE_CHECKING:
    from .clips import ClipDataset


@dataclass(frozen=True)
class Format:
    """A registered format: name, recogniser, opener, a line for messages, and what else it knows."""

    name: str
    matches: Callable[[str], bool]
    opener: Callable[..., EpisodeSource]
    description: str
    peek: Callable[..., EpisodeSource] | None = None
    parts: Callable[..., Iterable[Any]] | None = None
    whole: bool = False

    def options(self) -> list[str]:
        """Names of the options of the opener."""
        parameters = list(inspect.signature(self.opener).parameters)
        return [name for name in parameters[1:] if name not in ("split", "height", "width")]

    def check_options(self, target: str, options: Mapping[str, Any]) -> None:
        """Raise DataError for an option the opener does not have, or a number or switch that is none."""
        for name in options:
            if name not in self.options():
                raise DataError(
                    f"format '{self.name}' ({target}) has no option '{name}'.{suggestion(name, self.options())} "
                    f"It has: {', '.join(self.options()) or 'none'}"
                )
        check_kinds(self.opener, options, f"format '{self.name}'")


_KINDS = {"int": (int, "a whole number"), "float": ((int, float), "a number"), "bool": (bool, "true or false")}


def check_kinds(function: Callable[..., Any], options: Mapping[str, Any], where: str) -> None:
    """Raise DataError for an option that a signature annotates as a number or a switch, and that is none."""
    signature = inspect.signature(function).parameters
    for name, value in options.items():
        annotation = signature[name].annotation if name in signature else ""
        text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
        kind, *rest = [part.strip() for part in text.split("|")]
        if kind not in _KINDS or rest not in ([], ["None"]) or (value is None and rest):
            continue
        types, words = _KINDS[kind]
        if not isinstance(value, types) or isinstance(value, bool) != (kind == "bool"):
            raise DataError(f"option {name} of {where} must be {words}, got {value!r}")


_formats: dict[str, Format] = {}


def register_format(
    name: str,
    *,
    matches: Callable[[str], bool],
    opener: Callable[..., EpisodeSource],
    description: str,
    peek: Callable[..., EpisodeSource] | None = None,
    parts: Callable[..., Iterable[Any]] | None = None,
    whole: bool = False,
) -> None:
    """Teach `open_dataset` a format.

    Args:
        name: Name for messages and for ``open_dataset(..., format=name)``.
        matches: Called with the name or path; True if this format is meant. It must be quick and must not raise.
        opener: ``opener(target, *, split, height, width, **options)`` -> `EpisodeSource`.
        description: What is recognised, in a few words.
        peek: As ``opener``, but lengths and single frames are quick, and nothing is written: for ``data inspect`` and
            ``preview``. Default: ``opener``, for formats that decode nothing when they are opened.
        parts: Called as ``parts(path, **options)``; yields a `worldkit.data.parts.Part` per episode and a ``Problem``
            for what is wrong with the whole, for ``data validate``. Default: what ``opener`` gives is read.
        whole: The opener (and ``peek``) takes ``split="all"``, too: every episode in one piece. Default: its splits are
            opened one by one and joined.
    Raises:
        DuplicateComponentError: if the name is taken.
        DataError: if ``opener`` does not take what it will be given.
    """
    try:
        inspect.signature(opener).bind("target", split="train", height=None, width=None)
    except TypeError as error:
        raise DataError(
            f"data format '{name}': its opener must take (target, *, split, height=None, width=None), but {error}"
        ) from None
    if name in _formats:
        raise DuplicateComponentError(f"data format '{name}' is registered twice: pick another name")
    _formats[name] = Format(name, matches, opener, description, peek, parts, whole)


def list_formats() -> dict[str, str]:
    """Name -> what is recognised, of every registered format."""
    load_plugins()
    return {name: f.description for name, f in _formats.items()}


def open_dataset(
    source: str | os.PathLike[str],
    *,
    split: str | None = "train",
    num_frames: int,
    height: int | None = None,
    width: int | None = None,
    mode: str = "slide",
    stride_between_windows: int = 1,
    frame_skip: int = 1,
    format: str | None = None,
    conditions: Mapping[str, str] | None = None,
    targets: Mapping[str, TargetColumn] | None = None,
    vectors: Mapping[str, VectorColumn | str] | None = None,
    goals: int | None = None,
    **options: Any,
) -> ClipDataset:
    """Open a data set by name or path.

    Args:
        source: ``"balls"``, ``"push-32"``, ``"shapes"``, a video file, a folder of videos, of images or of image
            folders, an HDF5 file, a folder with ``train.hdf5`` and so on, ``.npz`` episodes, a LeRobot data set, or
            what a plugin recognises.
        split: ``"train"``, ``"val"`` or ``"test"``; see `worldkit.data.splits` for data that is not split yet.
            ``"all"`` or None: everything, undivided; ``dataset.source.episode_name(i)`` says what is what.
        num_frames: Frames per clip; 1 gives still images.
        height: Frame height in pixels. Default: what the name says, the HDF5 file's own, or 64. 0: no pictures, for
            models that see vectors alone; video is then ``[T, 3, 0, 0]``, and nothing is decoded.
        width: Frame width; default: the height.
        mode: ``"slide"``: every window (training). ``"tile"``: windows that do not overlap (evaluation).
        stride_between_windows: Distance between the starts of sliding windows.
        frame_skip: Take every n-th frame.
        format: Name of the format, if the source should not be recognised by its looks.
        conditions: Condition -> entry or column of the data, see `ClipDataset`; for a model: ``model.config.columns``.
        targets: Target -> where it lies, see `ClipDataset`; for a model: ``model.config.targets``.
        vectors: Vector beside the video -> column, see `ClipDataset`; for a model: ``model.config.vectors``.
        goals: Give every clip a ``"goal_image"``: a frame at most so many behind its last one, see
            `worldkit.data.goals`.
        **options: Options of the format: ``num_episodes=`` for balls and push, ``on_error="skip"`` for videos,
            ``resize="crop"`` for all that have pictures on disk (see `worldkit.data.fit`).
    Returns:
        Data set of clips, uint8 ``[T, 3, H, W]``.
    Raises:
        DataError: for a source that is missing, empty, damaged or not recognised, a split that has no clips, clips that
            are too short, or an option the format does not have.
    Example:
        >>> open_dataset("balls-32", split="val", num_frames=6, num_episodes=1, episode_length=8)[0]["video"].shape
        torch.Size([6, 3, 32, 32])
    """
    from .clips import ClipDataset

    for name, value in (("height", height), ("width", width)):
        if value is not None and (not isinstance(value, int) or value < 0):
            raise DataError(f"{name} must be a whole number of pixels, got {value!r}")
    if (height == 0) != (width == 0) and None not in (height, width):
        raise DataError(f"height {height} and width {width} must both be pixels, or both 0 (no pictures)")
    episodes = open_source(source, split=split, height=height, width=width, format=format, **options)
    if goals is not None:
        from .goals import GoalSource

        episodes = GoalSource(episodes, goals)
    return ClipDataset(episodes, num_frames, stride_between_windows, frame_skip, mode, conditions, targets, vectors)


def open_source(
    source: str | os.PathLike[str],
    *,
    split: str | None = "train",
    height: int | None = None,
    width: int | None = None,
    format: str | None = None,
    peek: bool = False,
    **options: Any,
) -> EpisodeSource:
    """The episodes of a data set, not cut into clips; arguments as of `open_dataset`.

    Args:
        peek: Only a few frames will be read: nothing is decoded into the cache.
    Raises:
        DataError: see `open_dataset`.
    Example:
        >>> source = open_source("balls-32", split="all", num_episodes=2, episode_length=4)
        >>> [source.episode_name(i) for i in range(source.num_episodes)]
        ['train/0', 'train/1', 'val/0', 'val/1', 'test/0', 'test/1']
    """
    target = os.fspath(source)
    split = ALL if split is None else split
    if split != ALL:
        check_split(split)
    found = find_format(target, format)
    found.check_options(target, options)
    unseen = height == 0
    opener = (found.peek or found.opener) if peek or unseen else found.opener
    if unseen:
        opener = without_pictures(opener)
    options |= {"height": None if unseen else height, "width": None if unseen else width or height}
    if split != ALL:
        return _checked(found, opener(target, split=split, **options))
    if found.whole:
        with contextlib.suppress(AlreadySplitError):
            return _checked(found, opener(target, split=ALL, **options))
    parts: dict[str, EpisodeSource] = {}
    missing: list[DataError] = []
    for name in SPLITS:
        try:
            parts[name] = _checked(found, opener(target, split=name, **options))
        except MissingSplitError as error:
            missing.append(error)
    if not parts:
        raise missing[0]
    return JoinedSource(parts)


def _recognises(candidate: Format, target: str) -> bool:
    try:
        return bool(candidate.matches(target))
    except Exception as error:  # a stranger's code: reported, and kept from what others recognise
        problem = f"could not look at {target}: {type(error).__name__}: {error}"
        warnings.warn(f"data format '{candidate.name}' {problem}", RuntimeWarning, stacklevel=4)
        return False


def _checked(found: Format, source: Any) -> EpisodeSource:
    """What an opener gave, if it is what openers give."""
    if not isinstance(source, EpisodeSource):
        raise DataError(f"the opener of format '{found.name}' must give an EpisodeSource, got {type(source).__name__}")
    return source


def find_format(target: str, name: str | None = None) -> Format:
    """The format of a data set: the one named, or the one that recognises it.

    Raises:
        DataError: for a name that is not registered, or a target nobody recognises.
    """
    load_plugins()
    if any(re.fullmatch(r"\..+\.partial-(old-)?\d+", part) for part in Path(target).parts):
        raise DataError(f"{target} is what an interrupted conversion left: delete it, and convert again")
    if name is not None:
        name = str(name)
        if name not in _formats:
            raise DataError(
                f"unknown data format '{name}'.{suggestion(name, list(_formats))} Known: {', '.join(_formats)}"
            )
        return _formats[name]
    for candidate in reversed(_formats.values()):
        if _recognises(candidate, target):
            return candidate
    known = "".join(f"\n  {f.name}: {f.description}" for f in _formats.values())
    if os.path.exists(target):
        problem = f"{target} is not recognised as data"
    else:
        problem = f"'{target}' is neither a file or folder nor a known data set.{suggestion(target, list(_formats))}"
    raise DataError(f"{problem}\nRecognised are:{known}")
