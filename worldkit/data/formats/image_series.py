"""Image files of one folder: which of them belong together, and in which order they were taken.

Recorders write several series into one folder: ``rgba_00000.png`` beside ``depth_00000.png``, ``left_1.png`` beside
``right_1.png``, ``000000-color.jpg`` beside ``000000-depth.png``. A series is what has one name but for its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from pathlib import PurePath
from typing import Any

ALL = "all"  # every image of a folder, one behind the other
_COVERED = 0.8  # so large a part of the files must be in series of two files or more; else names mean nothing
_NUMBER = re.compile(r"(?:(?<![^\W_])-)?\d+(?:\.\d+)*")
_CAMERA = re.compile(r"((?:camera|cam|view|sensor|eye)[-_]?\d{1,2}(?!\d))|" + _NUMBER.pattern, re.IGNORECASE)
_SECONDS = re.compile(r"((?:.*[^\d.])?)(\d+)(?:\.(\d+))?([^\d.]*)", re.DOTALL)


@dataclass(frozen=True)
class Series:
    """Images that belong together.

    Attributes:
        label: What its names have that those of the others lack, ``"plain"`` if nothing.
        template: Its names, with ``#`` for numbers.
        names: Its files, in order of time.
    """

    label: str
    template: str
    names: tuple[str, ...]


def natural_key(name: str) -> list[Any]:
    """Sort key that orders numbers by value.

    Example:
        >>> sorted(["f10.png", "f2.png"], key=natural_key)
        ['f2.png', 'f10.png']
    """
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name)]


def time_order(names: Iterable[str]) -> list[str]:
    """Names of images in the order they were taken: by their numbers, or by seconds with a fraction.

    Example:
        >>> time_order(["t_9.5.png", "t_9.25.png"]), time_order(["v1.10.png", "v1.9.png"])
        (['t_9.25.png', 't_9.5.png'], ['v1.9.png', 'v1.10.png'])
    """
    names = sorted(names, key=natural_key)
    times = seconds([PurePath(name).stem for name in names])
    return names if times is None else [name for _, name in sorted(zip(times, names, strict=True))]


def seconds(stems: Sequence[str]) -> list[Decimal] | None:
    """The times in names, if they are decimal fractions; ``None`` if they are not, or are two counters.

    Recorders drop trailing zeros, so that fractions differ in width (``84.38285``); a counter behind a point
    (``shot1.10``) keeps them, or begins anew.

    Example:
        >>> seconds(["84.38285", "84.4156127"])
        [Decimal('84.38285'), Decimal('84.4156127')]
    """
    found = [_SECONDS.fullmatch(stem) for stem in stems]
    parts = [match for match in found if match is not None]
    around = {(match[1], match[4]) for match in parts}
    if len(parts) != len(stems) or len(around) != 1 or not any(match[3] for match in parts):
        return None
    times = [Decimal(f"{match[2]}.{match[3] or 0}") for match in parts]
    fractions = [match[3] or "0" for match in parts]
    varied = len({len(fraction) for fraction in fractions}) > 1
    kept_zeros = varied and any(fraction.endswith("0") and len(fraction) > 1 for fraction in fractions)
    return None if kept_zeros or len(set(times)) < len(times) or _counts(parts) else times


def _counts(parts: Sequence[re.Match[str]]) -> bool:
    """Whether the numbers behind the point count from 0 or 1 for every number before it."""
    numbers = sorted((int(match[2]), int(match[3] or 0)) for match in parts)
    for _, group in groupby(numbers, key=lambda pair: pair[0]):
        counted = [number for _, number in group]
        if counted[0] > 1 or counted != list(range(counted[0], counted[0] + len(counted))):
            return False
    return True


def find_series(names: Sequence[str]) -> list[Series]:
    """The series among the images of a folder; one, if the names are not those of series.

    Args:
        names: File names.
    Example:
        >>> [(s.label, len(s.names)) for s in find_series(["rgb_1.png", "rgb_2.png", "depth_1.png", "depth_2.png"])]
        [('depth', 2), ('rgb', 2)]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_template(PurePath(name).stem), []).append(name)
    groups = {key: group for template, group in groups.items() for key, group in _kinds(template, group)}
    in_series = sum(len(group) for group in groups.values() if len(group) > 1)
    if len(groups) > 1 and in_series < _COVERED * len(names):
        return [Series(ALL, "", tuple(time_order(names)))]
    labels = _labels(list(groups))
    found = [Series(labels[key], key, tuple(time_order(group))) for key, group in groups.items()]
    return sorted(found, key=lambda series: natural_key(series.label))


def _template(stem: str) -> str:
    """A name with ``#`` for its numbers; the number of a camera stays, if there is another one."""
    with_camera = _CAMERA.sub(lambda match: match[1] or "#", stem.lower())
    return with_camera if "#" in with_camera else _NUMBER.sub("#", stem.lower())


def _kinds(template: str, names: Sequence[str]) -> Iterable[tuple[str, list[str]]]:
    """One series, or, if files differ in nothing but their suffix (``0.jpg``, ``0.png``), one per suffix."""
    if len({PurePath(name).stem for name in names}) == len(names):
        return [(template, list(names))]
    suffixes = sorted({PurePath(name).suffix.lower() for name in names})
    return [(template + suffix, [n for n in names if PurePath(n).suffix.lower() == suffix]) for suffix in suffixes]


def _labels(templates: Sequence[str]) -> dict[str, str]:
    """A short name for each: its words that not all of them have."""
    words = {template: re.findall(r"[^\W_]+", template.replace("#", " ")) for template in templates}
    common = set.intersection(*map(set, words.values())) if len(words) > 1 else set()
    labels = {t: "-".join(w for w in found if w not in common) or "-".join(found) for t, found in words.items()}
    labels = {template: label or "plain" for template, label in labels.items()}
    return labels if len(set(labels.values())) == len(labels) else dict(zip(templates, templates, strict=True))
