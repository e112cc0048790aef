"""Options of the data that whoever opens it decides: given by hand they are refused, with what to type instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import DataError

CLIPS = ("frame_skip", "stride_between_windows", "goals")
"""Options of `open_dataset` that concern clips, not a format."""
_SIZE = "the model says which size it sees: -o obs.height=... -o obs.width=... of a training (obs__height= in Python)"
FOR_A_MODEL = {
    "height": _SIZE, "width": _SIZE,
    "split": "training takes train and val; for predictions it is --split (split= in Python)",
    "num_frames": "the model says how long clips are: -o timestep_horizon=... of a training (timestep_horizon= in "
                  "Python); for predictions --context and --horizon",
    "mode": "training takes every window, evaluations take windows as their protocol says: --protocol",
    "conditions": "the model says which column feeds a condition: -o conditioners.NAME.from=COLUMN of a training",
    "targets": "the model says which column a head learns: -o heads.NAME.from=COLUMN of a training",
    "source": "it is --data", "target": "it is --data",
}
"""Option -> who decides it where clips are opened for a model."""
FOR_LOOKING = {
    "format": "it is --format", "split": "it is --split, of convert and preview",
    "height": "it is --size, of convert and preview", "width": "it is --size, of convert and preview",
    "target": "it is the path", "source": "it is the path", "peek": "the command decides it",
    "progress": "the command decides it",
}
"""Option -> who decides it in ``worldkit data``."""
FOR_WRITING = {
    "fps": "it is --fps", "overwrite": "it is --overwrite", "format": "it is --to", "path": "it is OUT",
    "source": "it is the path", "progress": "the command decides it",
}
"""Option -> who decides it in ``worldkit data convert -w``."""


def refuse_decided(options: Mapping[str, Any], decided: Mapping[str, str], *, typed: str) -> None:
    """Refuse options that are decided elsewhere.

    Args:
        options: Name -> value, as given.
        decided: Name -> who decides it: `FOR_A_MODEL` and its like.
        typed: How they were given, with the name left open: ``"-o data.{}"``.
    Raises:
        DataError: for the first such option.
    Example:
        >>> refuse_decided({"fps": 10}, FOR_WRITING, typed="-w {}")
        Traceback (most recent call last):
        worldkit.errors.DataError: -w fps=10 is no option of the data: it is --fps
    """
    for name, value in options.items():
        if name in decided:
            shown = value if isinstance(value, str) else json.dumps(value, default=str)  # as it was typed
            raise DataError(f"{typed.format(name)}={shown} is no option of the data: {decided[name]}")
