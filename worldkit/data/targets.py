"""Columns of the state as targets: what is known about transitions, aligned as actions are.

Index t concerns the transition from frame t to frame t + 1. Most data lie like that on disk (Gymnasium's step, Minari,
LeRobot, ``worldkit collect``). Others store a reward with the frame that was reached; these columns are shifted here,
once: see `TargetColumn.reached`. The last index of a clip leads nowhere; what stands there means nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..names import TARGET_COLUMNS, TargetColumn

_SUMS = "reward"
_FLAGS = ("terminated", "truncated")


class Targets:
    """Targets of the clips of a source.

    Args:
        where: Name of the data, for messages.
        state: The state at the first frame of an episode, ``[1, ...]`` each.
        wanted: Target -> where it lies; None: those of `TARGET_COLUMNS` that are there.
    Raises:
        DataError: if a column is missing, naming those that are there.
    Example:
        >>> rewards = {"rewards": torch.tensor([1.0, 2.0, 3.0])}
        >>> Targets("a.npz", rewards, None).read(rewards, 1)["reward"].tolist()
        [1.0, 2.0, 3.0]
        >>> Targets("a.npz", rewards, {"reward": TargetColumn(reached=True)}).read(rewards, 1)["reward"].tolist()
        [2.0, 3.0, 3.0]
    """

    def __init__(self, where: str, state: Mapping[str, Any], wanted: Mapping[str, TargetColumn] | None):
        self._where, self._asked = where, wanted is not None
        chosen = {name: TargetColumn() for name in TARGET_COLUMNS} if wanted is None else wanted
        found = {name: find_column(name, column, state) for name, column in chosen.items()}
        lacks = [name for name, column in found.items() if column is None]
        if wanted is not None and lacks:
            asked = wanted[lacks[0]].column or " or ".join(TARGET_COLUMNS.get(lacks[0], (lacks[0],)))
            raise DataError(
                f"{where}: no column '{asked}' for the target '{lacks[0]}'; it has: {', '.join(state) or 'none'}. Feed "
                f"it from one of them: heads.{lacks[0]}.from=COLUMN"
            )
        self.columns = {name: TargetColumn(column, _reached(chosen[name], state[column]))
                        for name, column in found.items() if column is not None}

    def read(self, state: Mapping[str, Any], frame_skip: int) -> dict[str, Tensor]:
        """Targets of a clip.

        Args:
            state: Of all frames of its window, ``[S, ...]`` with S = (T - 1) * frame_skip + 1.
            frame_skip: Every n-th frame is in the clip; what belongs to the frames between is joined: rewards are
                summed, flags are True if one is, of other numbers the newest counts.
        Returns:
            Target -> ``[T]`` or ``[T, ...]``; flags bool, numbers float32.
        Raises:
            DataError: if a value before the last index of what was asked for is not finite.
        """
        return {name: self._one(name, column, torch.as_tensor(state[str(column.column)]), frame_skip)
                for name, column in self.columns.items()}

    def _one(self, name: str, column: TargetColumn, rows: Tensor, skip: int) -> Tensor:
        rows = rows[:, 0] if rows.ndim == 2 and rows.shape[1] == 1 else rows
        if column.reached:
            rows = torch.cat([rows[1:], rows[-1:]])
        flag = rows.dtype == torch.bool or name in _FLAGS
        finite = torch.isfinite(rows.float()).reshape(len(rows), -1).all(1)[:-1]
        if self._asked and not flag and not finite.all():
            raise DataError(
                f"{self._where}: column '{column.column}', which is the target '{name}', is not finite at frame "
                f"{int((~finite).nonzero()[0])} of a clip; `worldkit data validate` tells where. If its row t tells of "
                f"the frame that was reached: heads.{name}.reached=true"
            )
        if flag:
            rows = (rows == rows) & (rows != 0)
        else:
            rows = torch.cat([rows[:-1].float(), rows[-1:].float().nan_to_num(0, 0, 0)])
        if skip == 1:
            return rows
        steps, last = rows[:-1].reshape((len(rows) - 1) // skip, skip, *rows.shape[1:]), rows[-1:]
        joined = steps.any(1) if flag else steps.sum(1) if name == _SUMS else steps[:, -1]
        return torch.cat([joined, last])


def find_column(name: str, column: TargetColumn, state: Collection[str]) -> str | None:
    """The column of a target among those of a state, None if there is none."""
    short = None if column.column is None else column.column.removeprefix("state.")
    names = TARGET_COLUMNS.get(name, (name,)) if short is None else (short,)
    return next((known for known in names if known in state), None)


def _reached(column: TargetColumn, first: Any) -> bool:
    values = torch.as_tensor(first)
    return bool(values.is_floating_point() and values.isnan().any()) if column.reached is None else column.reached
