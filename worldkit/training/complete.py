"""`complete_config`: what the training data tell of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..config import WorldModelConfig
from ..data.base import EpisodeSource
from ..data.decided import CLIPS
from ..data.registry import open_source
from ..data.statistics import read_column
from ..data.targets import Targets
from ..errors import DataError


def complete_config(config: WorldModelConfig, data: str, options: Mapping[str, Any]) -> WorldModelConfig:
    """A configuration with what conditioners and heads left open and the training data tell, such as the width of
    actions.

    Raises:
        DataError: they lack a column that a conditioner is fed from, or a head learns.
    """
    obs = config.obs
    opened: list[EpisodeSource] = []

    def source() -> EpisodeSource:
        """Opened when the first part asks."""
        if not opened:
            formats = {name: value for name, value in options.items() if name not in CLIPS}
            opened.append(open_source(data, height=obs.height, width=obs.width, peek=True, **formats))
        return opened[0]

    def episodes(column: str) -> Iterator[np.ndarray]:
        for episode in range(source().num_episodes):
            yield read_column(source(), episode, column)

    def targets(name: str) -> Iterator[np.ndarray]:
        first = source().read(0, 0, 1).get("state", {})
        found = Targets(source().summary.get("name", "data"), first, {name: config.targets[name]}).columns[name]
        yield from episodes(str(found.column))

    for name, c in config.conditioners.items():
        column = config.columns[name]
        try:
            completed = c.complete(episodes(column))
        except DataError as error:
            raise DataError(f"conditioners.{name}.from={column}: {error}") from error
        if completed is not c:
            config = config.replace(f"conditioners.{name}", completed.to_dict())
    for name, h in config.heads.items():
        completed = h.complete(targets(name))
        if completed is not h:
            config = config.replace(f"heads.{name}", completed.to_dict())
    return config
