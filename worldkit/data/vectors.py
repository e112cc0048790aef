"""Columns of the data as vectors that are observed beside the video: proprioception, classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..names import VectorColumn


def as_vector(values: Any, name: str, column: VectorColumn, where: str) -> Tensor:
    """A column as a vector of a batch has it.

    Args:
        values: Some rows of it, ``[T, ...]``.
        name: Of the vector.
        column: Where it came from, and what it has to be.
        where: Name of the data, for messages.
    Returns:
        float32 ``[T, S]``; int64 ``[T]`` if it is a class.
    Raises:
        DataError: it has another width, is no class, or is not finite (-inf says that a value is missing).
    Example:
        >>> as_vector([[1, 2], [3, 4]], "arm", VectorColumn("arm", 2), "a.npz").dtype
        torch.float32
        >>> as_vector([[0], [2]], "door", VectorColumn("door", classes=3), "a.npz")
        tensor([0, 2])
    """
    told = f"column '{column.column}', which is the vector '{name}'"
    try:
        rows = torch.as_tensor(values)
        rows = rows.reshape(len(rows), -1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{where}: {told}, must be numbers [T, ...], got {type(values).__name__}") from error
    if column.classes is not None:
        whole = rows.shape[1] == 1 and bool((rows == rows.round()).all()) if rows.is_floating_point() else (
            rows.shape[1] == 1)
        if not whole or (len(rows) and (rows.min() < -1 or rows.max() >= column.classes)):
            raise DataError(f"{where}: {told}, must be one class from 0 to {column.classes - 1} per frame (-1: missing)"
                            f", got {list(rows.shape[1:])} numbers from {rows.min():g} to {rows.max():g}; a vector of "
                            f"numbers is named by obs.vectors.{name}={rows.shape[1]}")
        return rows[:, 0].long()
    if column.width not in (None, rows.shape[1]):
        raise DataError(f"{where}: {told}, has {rows.shape[1]} numbers, and the model reads {column.width}: "
                        f"-o obs.vectors.{name}={rows.shape[1]}, or another column, -o obs.columns.{name}=COLUMN")
    rows = rows.float()
    bad = ~(rows < torch.inf).all(1)  # NaN compares with nothing
    if bad.any():
        raise DataError(f"{where}: {told}, is not finite at frame {int(bad.nonzero()[0])} of a clip; `worldkit data "
                        "validate` tells where. A value that is missing is -inf")
    return rows


def batched(rows: Tensor, column: VectorColumn) -> Tensor:
    """A column ``[B, T, ...]`` of data that were checked, as a vector of a batch: float32, or int64 of a class.

    Example:
        >>> batched(torch.zeros(2, 5, 3, 2), VectorColumn("arm")).shape
        torch.Size([2, 5, 6])
    """
    rows = rows.reshape(*rows.shape[:2], -1)
    return rows[..., 0].long() if column.classes is not None else rows.float()
