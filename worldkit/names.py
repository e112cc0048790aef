"""Names that users and plugins give: to fields, groups of tokens, conditions and terms of a loss.

Standard library only; imports nothing of worldkit but its errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .errors import ConfigError

NOT_CONDITIONS = ("video", "state", "masks", "done_mask", "targets", "vectors", "episode", "start")
"""Entries of a clip that are no conditions, so that no condition can have their names."""

TARGET_COLUMNS = {
    "reward": ("reward", "rewards", "next.reward"),
    "terminated": ("terminated", "terminations"),
    "truncated": ("truncated", "truncations"),
}
"""Target -> columns under which data hold it, of Gymnasium and its recorders, Minari, LeRobot."""


class TargetColumn(NamedTuple):
    """Where a target lies in the data.

    Attributes:
        column: Column of the state; None: one of `TARGET_COLUMNS`, or the one of the target's own name.
        reached: Its row t tells of frame t, which the transition reached (Dreamer's replays, stable-worldmodel; any
            state of things), not of the transition that leaves frame t. None: so if the first row of an episode is NaN.
    """

    column: str | None = None
    reached: bool | None = None


class VectorColumn(NamedTuple):
    """Where a vector beside the video lies in the data, and what it has to be.

    Attributes:
        column: An entry with a time axis, or a column of the state.
        width: Numbers in it; None: as many as there are.
        classes: It is one whole number, a class of so many; None: it is a vector of numbers.
    """

    column: str
    width: int | None = None
    classes: int | None = None


def check_name(name: Any, what: str) -> None:
    """Refuse a name that cannot be told from others where names are joined with dots.

    Args:
        name: Any value.
        what: What is named, for the message: ``"a field"``.
    Raises:
        ConfigError: it is no text, empty, holds a dot or something that cannot be printed, or begins or ends in blanks.
    Example:
        >>> check_name("pose.x", "a field")
        Traceback (most recent call last):
        worldkit.errors.ConfigError: 'pose.x' cannot name a field: dots separate names; write 'pose_x'
    """
    if not isinstance(name, str):
        raise ConfigError(f"{what} is named by a text, not by {type(name).__name__} {name!r}")
    if not name or name != name.strip() or not name.isprintable():
        raise ConfigError(f"{name!r} cannot name {what}: give it at least one letter, and no blanks around it")
    if "." in name:
        other = name.strip(".").replace(".", "_")
        raise ConfigError(f"'{name}' cannot name {what}: dots separate names; write '{other}'")


def check_distinct(names: Sequence[str], what: str) -> None:
    """Refuse two things of one name.

    Raises:
        ConfigError: naming what is there twice.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{what} must have different names; there are several called {', '.join(map(repr, twice))}")
