"""Which training steps learn the decomposition alone, and which the dynamics alone, by two options of an objective."""

from __future__ import annotations

from typing import Any


class Turns:
    """Mixed into objectives whose config has ``frames_first`` and ``dynamics_turns``.

    An objective may override `counts_steps` and `turns_from`.
    """

    config: Any
    steps_per_epoch: int
    training: bool

    def counts_steps(self) -> bool:
        """Whether steps are those of a training; outside a trainer, none is."""
        return self.steps_per_epoch > 0

    def turns_from(self) -> int:
        """The step after which the dynamics takes turns alone."""
        return self.config.frames_first

    def in_frames_first(self, step: int) -> bool:
        """Whether a training step learns the decomposition alone; outside a trainer, none does."""
        return self.counts_steps() and step < self.config.frames_first

    def is_dynamics_turn(self, step: int) -> bool:
        """Whether a training step trains the dynamics alone; outside a trainer, and in evaluation mode, none does."""
        after = step - self.turns_from()
        return self.training and self.counts_steps() and after >= 0 and after % (1 + self.config.dynamics_turns) > 0
