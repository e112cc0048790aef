"""The contract of learning while acting: `Learner`, and the one that trains the world model alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..batch import Batch
from ..distributions import Sampler
from ..errors import TrainingError
from ..latents import Latent
from ..model import ComposedWorldModel
from ..training.config import TrainConfig
from ..training.optimizers import make_optimizer


class Learner(ABC):
    """Trains an agent, and the world model that it acts through, a batch at a time.

    Attributes:
        draws: It draws what it learns from by itself: `learn` is called with all that was seen, not `update` with a
            batch.
        latent: Of the last `update`: states of the frames that were trained, ``[B, T']``, without a graph; None for
            learners that have none to give.
    """

    draws: ClassVar[bool] = False
    latent: Latent | None = None

    def learn(self, replay: Any, random: np.random.Generator, sampler: Sampler) -> dict[str, Tensor]:
        """One step of everything that learns, on what is drawn here; where `draws`.

        Args:
            replay: What was seen, a `worldkit.online.replay.Replay`.
            random: Which of it.
            sampler: Other randomness.
        Returns:
            As of `update`; nothing if nothing was due.
        """
        raise NotImplementedError(f"{type(self).__name__} is given batches: update(batch, sampler)")

    @abstractmethod
    def update(self, batch: Batch, sampler: Sampler, *, carry: Latent | None = None) -> dict[str, Tensor]:
        """One step of everything that learns.

        Args:
            batch: Clips with conditions, targets ``"reward"``, ``"terminated"``, ``"truncated"``, and ``first``.
            sampler: Where randomness comes from.
            carry: State of frame 0, ``[B, 1]``, which then is context only; None: frame 0 begins.
        Returns:
            What is worth a line of a log, numbers without a graph.
        Raises:
            TrainingError: a loss or a gradient is not finite.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What decides the next step besides the weights of agent and model: tensors and plain values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class ModelLearner(Learner):
    """Trains the world model of an agent that has nothing else to learn (a planner), on its own objective.

    Args:
        model: The world model.
        config: Learning rate and the like.
    """

    def __init__(self, model: ComposedWorldModel, config: TrainConfig):
        self.model, self.config, self.steps = model, config, 0
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(config.optimizer, self._trained, lr=config.lr, betas=config.betas,
                                        eps=config.eps, weight_decay=config.weight_decay, agc=config.agc)

    def update(self, batch: Batch, sampler: Sampler, *, carry: Latent | None = None) -> dict[str, Tensor]:
        self.model.train()
        loss = self.model.loss(batch, self.steps, sampler=sampler)
        if not torch.isfinite(loss.total):
            bad = [name for name, value in loss.terms.items() if not torch.isfinite(value)]
            raise TrainingError(f"the loss became {loss.total.item()} in update {self.steps + 1}; terms that are not "
                                f"finite: {', '.join(bad)}. A lower lr is the usual cure: -o train.lr=...")
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        limit = self.config.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self._trained, limit if limit is not None else torch.inf)
        self.optimizer.step()
        self.model.objective.after_step(self.model, self.steps)
        self.model.eval()
        self.steps += 1
        return {"loss": loss.total.detach(), **loss.terms, "grad_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
