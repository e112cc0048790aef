"""Frames that are missing between numbered images, told from their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from .formats.image_series import seconds

_FAR = 1000  # so many missing numbers at once are no gap: the next file does not belong here
_STEADY, _CLOSE, _LONG = 0.9, 0.25, 1.75  # a clock is steady if 90 % of its steps lie within 25 % of the usual one
_FEWEST = 8  # steps to tell a steady clock by


class Gap(NamedTuple):
    """A place where frames are missing, or seem to be.

    Attributes:
        frame: Place in the series of the first missing one.
        problem: What is wrong.
        sure: Whether the numbers count regularly, so that one is missing for certain.
    """

    frame: int
    problem: str
    sure: bool


def find_gaps(stems: Sequence[str]) -> Iterator[Gap]:
    """Missing frames of a series of images.

    Numbers that count in equal steps have a gap where a step is a multiple of the usual one. Times (nanoseconds,
    milliseconds, seconds) differ from step to step: there only a step far longer than all others is told, once.

    Args:
        stems: Names of the images without suffix, in order.
    Example:
        >>> [gap.problem for gap in find_gaps(["f1", "f2", "f4"])]
        ['missing in the numbering of the images: 3']
    """
    numbers = _numbers(stems)
    if numbers is None or len(numbers) < 2:
        return
    steps = [after - before for before, after in zip(numbers, numbers[1:], strict=False)]
    if min(steps) <= 0:
        return  # other numbers in the names
    usual, times = max(Counter(steps).items(), key=lambda item: (item[1], -item[0]))  # the smaller of two as frequent
    if 2 * times >= len(steps) and not any(step % usual for step in steps):
        for place, (before, step) in enumerate(zip(numbers, steps, strict=False), start=1):
            if step != usual:
                yield Gap(place, _missing(before, step, usual), True)
    else:
        yield from _long_step(numbers, steps)


def _numbers(stems: Sequence[str]) -> Sequence[int | Decimal] | None:
    """The number of each image: its time in seconds, or the last number of its name."""
    times = seconds(stems)
    if times is not None:
        return times
    found = [re.findall(r"\d+", stem) for stem in stems]
    return [int(numbers[-1]) for numbers in found] if all(found) else None


def _missing(before: int | Decimal, step: int | Decimal, usual: int | Decimal) -> str:
    """What is missing between two numbers, without counting it through."""
    if step // usual > _FAR:
        return f"the numbering of the images jumps from {before} to {before + step}: do all belong to one series?"
    first, last = before + usual, before + step - usual
    which = str(first) if first == last else f"{first} to {last}"
    return f"missing in the numbering of the images: {which}"


def _long_step(numbers: Sequence[int | Decimal], steps: Sequence[int | Decimal]) -> Iterator[Gap]:
    """Where a steady clock pauses."""
    usual = sorted(steps)[len(steps) // 2]
    near = sum(abs(step - usual) <= usual * Decimal(_CLOSE) for step in steps)
    long = [place for place, step in enumerate(steps) if step >= usual * Decimal(_LONG)]
    if len(steps) >= _FEWEST and near >= _STEADY * len(steps) and long:
        place = max(long, key=lambda i: steps[i])
        more = f", and {len(long) - 1} more such steps" if len(long) > 1 else ""
        problem = f"frames seem to be missing between {numbers[place]} and {numbers[place + 1]}, a step of"
        yield Gap(place + 1, f"{problem} {float(steps[place] / usual):.3g} times the usual one{more}", False)
