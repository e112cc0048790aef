"""Where the numbers of a run go besides ``log.jsonl``: TensorBoard, Weights & Biases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import require_extra


class Logger(Protocol):
    """Takes numbers by name at a step."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoardLogger:
    """Event files in ``RUN/tensorboard``: ``tensorboard --logdir RUN``."""

    def __init__(self, run: Path, facts: Mapping[str, Any], step: int):
        require_extra("tensorboard", "logging", "TensorBoard logs")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(run / "tensorboard", purge_step=step + 1)  # of a killed run

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandbLogger:
    """A run of Weights & Biases in ``RUN/wandb``; ``WANDB_MODE=offline`` needs no network."""

    def __init__(self, run: Path, facts: Mapping[str, Any], step: int):
        wandb = require_extra("wandb", "logging", "Weights & Biases logs")
        self.run = wandb.init(project="worldkit", dir=str(run), name=run.name, id=_identifier(run), resume="allow",
                              config=dict(facts))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


def _identifier(run: Path) -> str:
    """The same for the same run folder, so that a resumed run goes on in the same place."""
    import hashlib

    name = re.sub(r"[:;,#?/'\s]", "-", run.name)  # which W&B refuses, and blanks
    return f"{name}-{hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:8]}"


LOGGERS = {"tensorboard": TensorBoardLogger, "wandb": WandbLogger}


def open_loggers(names: Sequence[str], run: Path, facts: Mapping[str, Any], step: int) -> list[Logger]:
    """The loggers of a run.

    Raises:
        MissingExtraError: if a package is missing.
    """
    return [LOGGERS[name](run, facts, step) for name in names]
