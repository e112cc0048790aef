"""Clips on disk: video files, and folders of images, found with their cameras and in order of time."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError
from ...registry import suggestion
from ..entries import IMAGES_SIDECAR
from .image_series import ALL, Series, find_series, natural_key, time_order

VIDEO_SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".webm",
    ".mkv",
    ".avi",
    ".gif",
    ".mpg",
    ".mpeg",
    ".ts",
    ".wmv",
    ".flv",
    ".ogv",
)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_COLOURS = {"rgb", "rgba", "color", "colour", "image", "images", "img", "frame", "frames"}
"""Words that name a series of pictures, and those for what is measured beside them."""
_MEASURED = {"depth", "depths", "disparity", "normal", "normals", "segmentation", "seg", "semantic", "semantics",
             "instance", "instances", "mask", "masks", "flow"}


_RUN = "run.json"
_FILES = {
    ".npz": "Of .npz episodes, give the folder that they lie in, or one of train, val and test.",
    ".h5": "Of HDF5 files, give one.",
    ".hdf5": "Of HDF5 files, give one.",
}  # what to type for files that are data of another format


@dataclass(frozen=True)
class Clip:
    """One clip that is not decoded yet: a name inside its data set, and one video file or its image files.

    Attributes:
        name: Path inside the data set.
        files: The video file, or the images in order of time.
        more: The images of further cameras.
    """

    name: str
    files: tuple[Path, ...]
    more: tuple[tuple[Path, ...], ...] = ()

    @property
    def views(self) -> tuple[tuple[Path, ...], ...]:
        """The files of each camera."""
        return (self.files, *self.more)

    @property
    def is_video(self) -> bool:
        return self.files[0].suffix.lower() not in IMAGE_SUFFIXES

    @property
    def sidecar(self) -> Path:
        """The file with actions and the like, if there is one."""
        return self.files[0].with_suffix(".npz") if self.is_video else self.files[0].parent / IMAGES_SIDECAR


def find_clips(folder: Path, series: str | Sequence[str] | None = None) -> list[Clip]:
    """Every clip below a folder, in natural order. Hidden files and folders, and runs of
    worldkit, are passed over.

    Args:
        folder: Searched with its sub-folders.
        series: Which of several series of images that lie in one folder; several are cameras of one clip. ``"all"``:
            all images as one series.
    Raises:
        DataError: if there is none, one folder holds both videos and images, or several series and none is chosen.
    """
    clips: list[Clip] = []
    for root, folders, names in os.walk(folder, followlinks=True):
        visible = (name for name in folders if not name.startswith(".") and not _no_data(Path(root, name)))
        folders[:] = sorted(visible, key=natural_key)
        beside = [] if series == ALL else _beside(Path(root), folders)
        if beside:
            folders[:] = [name for name in folders if name not in {s.template for s in beside}]
            views = _chosen(Path(root), beside, series)
            clips.append(Clip(Path(root).relative_to(folder).as_posix(), views[0], views[1:]))
        files = [Path(root) / n for n in sorted(names, key=natural_key) if not n.startswith(".")]
        videos = [f for f in files if f.suffix.lower() in VIDEO_SUFFIXES]
        images = [f.name for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
        if videos and images:
            raise DataError(
                f"{root} holds {len(videos)} video(s) and {len(images)} image(s), so it is unclear which are the data: "
                "move one kind elsewhere"
            )
        clips += [Clip(video.relative_to(folder).as_posix(), (video,)) for video in videos]
        if images:
            views = _views(Path(root), images, series)
            clips.append(Clip(Path(root).relative_to(folder).as_posix(), views[0], views[1:]))
    if not clips:
        held = Counter(file.suffix.lower() for file in folder.rglob("[!.]*") if file.is_file())
        found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in held.most_common(4))
        data = next((suffix for suffix in _FILES if suffix in held), None)
        advice = f" {_FILES[data]}" if data else ""
        raise DataError(
            f"{folder} holds no video ({', '.join(VIDEO_SUFFIXES[:6])}, ...) and no image "
            f"({', '.join(IMAGE_SUFFIXES[:4])}, ...): give a folder of videos, of images or of image folders. It has "
            f"{found or 'no file'}.{advice}"
        )
    return sorted(clips, key=lambda clip: natural_key(clip.name))


def _no_data(folder: Path) -> bool:
    """Whether this is a link to a folder it lies in, or a run of worldkit, which holds films of predictions."""
    return (folder / _RUN).is_file() or folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _views(folder: Path, names: Sequence[str], chosen: str | Sequence[str] | None) -> tuple[tuple[Path, ...], ...]:
    """The images of each camera, in order of time."""
    if chosen == ALL:
        return (tuple(folder / name for name in time_order(names)),)
    found = find_series(names)
    alone = len(found) == 1 and chosen is not None and folder.name.lower() == chosen
    return _chosen(folder, found, None if alone else chosen)


def _beside(folder: Path, names: Sequence[str]) -> list[Series]:
    """Sub-folders that are series of one scene: pictures in one, what was measured with them in another."""
    found = []
    for name in names:
        if _words(name) & (_COLOURS | _MEASURED):
            files = [f"{name}/{f.name}" for f in (folder / name).iterdir() if not f.name.startswith(".")]
            images = [file for file in files if Path(file).suffix.lower() in IMAGE_SUFFIXES]
            found += [Series(name.lower(), name, tuple(time_order(images)))] if images else []
    words = [_words(series.template) for series in found]
    measured = [found for found in words if found & _MEASURED]
    return found if measured and len(measured) < len(words) else []


def _words(name: str) -> set[str]:
    """The words of a name: ``CameraRGB0``, ``image_2``.

    Example:
        >>> sorted(_words("CameraDepth0"))
        ['camera', 'depth']
    """
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def _chosen(folder: Path, found: Sequence[Series], chosen: str | Sequence[str] | None) -> tuple[tuple[Path, ...], ...]:
    """The images of each camera.

    Raises:
        DataError: if there are several series and none is chosen, an unknown one is, or the chosen ones do not fit.
    """
    if chosen is None and len(found) > 1:
        held = ", ".join(f"{series.label} ({len(series.names)})" for series in found)
        labels = sorted((series.label for series in found), key=lambda label: not _words(label) & {*_COLOURS, "left"})
        raise DataError(
            f"{folder} holds several series of images: {held}. Choose one with series={labels[0]} (worldkit data: -o "
            f"series=..., in training: -o data.series=...); series={','.join(labels[:2])} makes them cameras of one "
            f"clip, series={ALL} takes all images one behind the other"
        )
    wanted = [None] if chosen is None else chosen.split(",") if isinstance(chosen, str) else list(chosen)
    cameras = [_pick(folder, found, label) for label in wanted]
    for camera in cameras[1:]:
        _check_alike(folder, cameras[0], camera)
    return tuple(tuple(folder / name for name in camera.names) for camera in cameras)


def _pick(folder: Path, found: Sequence[Series], label: str | None) -> Series:
    """The series of a label, a template, or a word that no other has."""
    if label is None:
        return found[0]
    name = label.strip().lower()
    exact = [s for s in found if name in (s.label, s.template) or _plain(name) == _plain(s.label)]
    fitting = exact or [series for series in found if name in re.findall(r"[^\W_]+", series.template)]
    if len(fitting) == 1:
        return fitting[0]
    labels = [series.label for series in found]
    raise DataError(
        f"{folder} has no series '{label}'.{suggestion(name, labels)} It has {', '.join(labels)}; series={ALL} takes "
        "all images"
    )


def _plain(label: str) -> str:
    """A label whatever separates its words."""
    return re.sub(r"[\W_]+", "-", label)


def _check_alike(folder: Path, one: Series, other: Series) -> None:
    """Whether two cameras can have taken their frames together: as many, and of the same numbers if they count."""
    first, second = (
        {int(found[-1]): name for name in series.names if (found := re.findall(r"\d+", Path(name).stem))}
        for series in (one, other)
    )
    lone = sorted(first.keys() ^ second.keys())
    if lone and 2 * len(first.keys() & second.keys()) >= min(len(first), len(second)):  # one counter, not two clocks
        name = first.get(lone[0]) or second[lone[0]]
        missing = other.label if lone[0] in first else one.label
        raise DataError(f"{folder}: {name} has no counterpart in the series {missing}: they are no cameras of one clip")
    if len(one.names) != len(other.names):
        counts = " and ".join(f"{series.label} {len(series.names)}" for series in (one, other))
        raise DataError(f"{folder}: series that are cameras of one clip must have equally many images, got {counts}")
