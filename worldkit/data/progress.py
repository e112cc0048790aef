"""One progress bar for the slow parts of this package; silent where standard error is not a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """The items, with a bar that disappears at the end.

    Args:
        items: What is worked through.
        description: In front of the bar.
        total: Number of items, if they have no length.
    Example:
        >>> list(track("ab", "Reading"))
        ['a', 'b']
    """
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    return progress.track(
        items, description, total=total, console=console, transient=True, disable=not console.is_terminal
    )
