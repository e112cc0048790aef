"""The learning rate as a function of the step: warm-up, then constant, cosine or steps; another height early on."""

from __future__ import annotations

import math

from .config import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps: int, epoch: int = 1) -> float:
    """Learning rate of a step.

    A function of the step alone, so that nothing has to be saved and a resumed run goes on exactly.

    Args:
        config: ``lr``, ``schedule``, ``warmup_steps``, ``warmup_from_zero``, ``early_steps``, ``early_factor``,
            ``final_lr``, ``decay_every``, ``decay_factor``.
        step: From 0.
        steps: Length of the whole run; the cosine reaches ``final_lr`` at the last of them.
        epoch: Steps of an epoch, which is what ``decay_every = 0`` means.
    Example:
        >>> config = TrainConfig(lr=1.0, schedule="cosine", warmup_steps=2)
        >>> [round(learning_rate(config, step, 6), 3) for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.25, 0.0]
    """
    early = config.early_factor if step < config.early_steps else 1.0
    if step < config.warmup_steps:
        return early * config.lr * (step + (not config.warmup_from_zero)) / config.warmup_steps
    if config.schedule == "cosine":
        done = min(1.0, (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps))
        return early * (config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done)))
    if config.schedule == "step":
        times = (step - config.warmup_steps) // (config.decay_every or epoch)
        return early * config.lr * config.decay_factor**times
    return early * config.lr
