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
from ..errors import DataError


def complete_config(config: WorldModelConfig, data: str, options: Mapping[str, Any]) -> WorldModelConfig:
    """A configuration with what conditioners left open and the training data tell, such as the width of actions.

    Raises:
        DataError: they lack a column that a conditioner is fed from.
    """
    obs = config.obs
    source: list[EpisodeSource] = []  # opened when the first conditioner asks

    def episodes(column: str) -> Iterator[np.ndarray]:
        if not source:
            formats = {name: value for name, value in options.items() if name not in CLIPS}
            source.append(open_source(data, height=obs.height, width=obs.width, peek=True, **formats))
        for episode in range(source[0].num_episodes):
            yield read_column(source[0], episode, column)

    for name, c in config.conditioners.items():
        column = config.columns[name]
        try:
            completed = c.complete(episodes(column))
        except DataError as error:
            raise DataError(f"conditioners.{name}.from={column}: {error}") from error
        if completed is not c:
            config = config.replace(f"conditioners.{name}", completed.to_dict())
    return config
