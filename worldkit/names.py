"""Names that users and plugins give: to fields, groups of tokens, conditions and terms of a loss.

Standard library only; imports nothing of worldkit but its errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import ConfigError

NOT_CONDITIONS = ("video", "state", "masks", "done_mask", "episode", "start")
"""Entries of a clip that are no conditions, so that no condition can have their names."""


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
