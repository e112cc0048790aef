"""What a ``config.json`` from elsewhere may ask for: checked before it takes memory or time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError
from .folders import CONFIG_FILE

MAX_NUMBER, MAX_COUNT = 2**20, 1000
"""Largest whole number, and largest number of layers or list entries, that a stored config may hold."""


def check_numbers(value: Any, path: str, folder: Path) -> None:
    """Check the numbers and lengths in a part of a ``config.json``.

    Args:
        value: The part, as JSON gives it.
        path: Its name, for messages.
        folder: Where the file lies.
    Raises:
        CheckpointError: for one that would exhaust memory or time before anything else is noticed.
    """
    if absurd := next(_absurd(value, path), None):
        raise CheckpointError(f"{folder / CONFIG_FILE}: {absurd}; no model is that large, so the file is not trusted")


def _absurd(value: Any, path: str) -> Iterator[str]:
    count = path.endswith(("layers", "blocks", "iterations"))
    if isinstance(value, int) and abs(value) > (MAX_COUNT if count else MAX_NUMBER):
        yield f"{path} is {value:.3g}"
    if isinstance(value, list) and len(value) > MAX_COUNT:
        yield f"{path} has {len(value)} entries"
    elif isinstance(value, (Mapping, list)):
        for key, entry in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _absurd(entry, f"{path}.{key}")


def check_built(make: Callable[[], nn.Module], check: Callable[[dict[str, list[int]]], None], weights: Path) -> None:
    """Build what a configuration asks for without taking memory, and compare it with its weights file.

    Args:
        make: Builds it.
        check: Told name -> shape of its tensors; raises CheckpointError if the file holds others.
        weights: The file, in the folder of the ``config.json``.
    Raises:
        CheckpointError: if it cannot be built, is refused by ``check``, or is far larger than the file.
    """
    try:
        with torch.device("meta"):
            empty = make()
    except RuntimeError as error:  # sizes that overflow
        if "meta" in str(error):  # a component of a plugin reads values while it is built; nothing can be said before
            return
        raise CheckpointError(f"the model of {weights.parent / CONFIG_FILE} cannot be built: {error}") from error
    check({name: list(x.shape) for name, x in empty.state_dict().items()})
    size, stored = sum(x.numel() * x.element_size() for x in (*empty.parameters(), *empty.buffers())), weights.stat()
    if size > 4 * stored.st_size + 2**30:
        raise CheckpointError(f"the model of {weights.parent} would take {size / 2**30:,.0f} GB, its weights file has "
                              f"{stored.st_size / 2**30:,.1f} GB; {CONFIG_FILE} is not trusted")
