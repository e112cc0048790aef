"""Recordings as a model saw them in training: what its operator says of them, as options of `open_dataset`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .registry import find_format


def as_trained(operator: Any, data: str | os.PathLike[str], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `worldkit.data.open_dataset` by which a model gets frames as in training.

    Args:
        operator: The model's `worldkit.operators.OperatorSpec`; None, or one that training did not note: it gets what
            the data set does by itself.
        data: Name or path.
        asked: Options that the user gave, which stay as they are.
    Returns:
        ``asked``, and ``resize`` (of formats that have it) and ``frame_skip`` where it does not say them.
    Raises:
        DataError: the data are not recognised.
    Example:
        >>> from worldkit.operators import OperatorSpec
        >>> spec = OperatorSpec(height=32, width=32, resize="crop", frame_skip=2, recorded=True)
        >>> as_trained(spec, "push-32", {"num_episodes": 3})  # which is drawn at any size
        {'frame_skip': 2, 'num_episodes': 3}
    """
    if operator is None or not operator.recorded:
        return dict(asked)
    told: dict[str, Any] = {"frame_skip": operator.frame_skip}
    if operator.height and "resize" in find_format(os.fspath(data), asked.get("format")).options():
        told["resize"] = operator.resize
    return {**told, **asked}
