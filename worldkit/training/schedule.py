"""The learning rate as a function of the step: warm-up, then constant, cosine or steps; another height early on."""

from __future__ import annotations

import math

from .config import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps: int, epoch: int = 1) -> float:
    """Learning rate of a step.

    A function of the step alone, so that nothing has to be saved and a resumed run goes on exactly.

    Args:
        config: ``lr``, ``schedule``, ``warmup_steps``, ``warmup_from_zero``, ``early_steps``, ``early_factor``,
            ``final_lr``, ``decay_every``, ``decay_factor``, ``warmup_from``, ``fall_steps``, ``stretch``.
        step: From 0.
        steps: Length of the whole run; the cosine reaches ``final_lr`` at the last of them.
        epoch: Steps of an epoch, which is what ``decay_every = 0`` means.
    Example:
        >>> config = TrainConfig(lr=1.0, schedule="cosine", warmup_steps=2)
        >>> [round(learning_rate(config, step, 6), 3) for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.25, 0.0]
    """
    early = config.early_factor if step < config.early_steps else 1.0
    if config.schedule in ("warmup-cosine", "warmup-hold-fall"):
        return early * _jepa_rate(config, step + 1, int(config.stretch * steps))
    if step < config.warmup_steps:
        return early * config.lr * (step + (not config.warmup_from_zero)) / config.warmup_steps
    if config.schedule == "cosine":
        done = min(1.0, (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps))
        return early * (config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done)))
    if config.schedule == "step":
        times = (step - config.warmup_steps) // (config.decay_every or epoch)
        return early * config.lr * config.decay_factor**times
    return early * config.lr


def _jepa_rate(config: TrainConfig, t: int, total: int) -> float:
    """I-JEPA's and V-JEPA 2-AC's rates at update ``t``, from 1: a linear rise from ``warmup_from``, then a cosine that
    begins AT the end of the rise, or a plateau and a linear fall."""
    warm, peak = config.warmup_steps, config.lr
    if t < warm:
        return config.warmup_from + (peak - config.warmup_from) * t / warm
    if config.schedule == "warmup-hold-fall":
        done = (t - (total - config.fall_steps)) / config.fall_steps if config.fall_steps else 0.0
        return peak + (config.final_lr - peak) * min(1.0, max(0.0, done))
    return _cosine(peak, config.final_lr, (t - warm) / max(1, total - warm))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def weight_decay(config: TrainConfig, step: int, steps: int) -> float:
    """Weight decay of a step, from 0: along a cosine from ``weight_decay`` to ``final_weight_decay``, if that is set.

    Example:
        >>> config = TrainConfig(weight_decay=0.04, final_weight_decay=0.4)
        >>> [round(weight_decay(config, step, 10), 2) for step in (0, 4, 9)]
        [0.05, 0.22, 0.4]
    """
    if config.final_weight_decay is None:
        return config.weight_decay
    return _cosine(config.weight_decay, config.final_weight_decay, (step + 1) / max(1, int(config.stretch * steps)))
