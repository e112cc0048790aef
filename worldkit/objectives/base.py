"""The objective contract: a model and a batch -> a loss with named terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..batch import Batch
from ..component import Component
from ..config import ComponentConfig
from ..distributions import Sampler
from ..errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from ..model import ComposedWorldModel

RESERVED_TERMS = ("loss", "step", "epoch", "seconds", "lr", "grad_norm", "valid_loss", "warning")
"""What logs say beside the terms of a loss."""


@dataclass(frozen=True)
class Loss:
    """The loss of a training step.

    Attributes:
        total: What to minimise, a scalar.
        terms: Unweighted, detached scalars for logs.
        partial: This step trains some parts alone, and its total cannot be compared with that of other steps: logs go
            on showing the last whole one.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    partial: bool = False

    def __post_init__(self) -> None:
        for name, value in (("total", self.total), *self.terms.items()):
            if not torch.is_tensor(value) or value.ndim:
                given = f"shape {list(value.shape)}" if torch.is_tensor(value) else f"a {type(value).__name__}"
                raise ShapeError(f"'{name}' of a loss must be a tensor without axes, one number; got {given}")
        taken = [name for name in RESERVED_TERMS if name in self.terms]
        if taken:
            raise ConfigError(f"a term of a loss cannot be called '{taken[0]}': logs say something else there")


class Objective(Component, ABC):
    """Says which terms are summed. A module, because teachers and discriminators live here and are saved.

    Attributes:
        requires: ``"decoder"``, ``"dynamics"``, ``"no-dynamics"``; a dynamics that filters, ``"filtering"``, or one
            that does not, ``"no-filtering"``; ``"prior"``, ``"heads"`` or ``"latent-action"``, of objectives that train
            these alone.
        frozen: Parts of the model that this objective reads and does not train; they must come trained. They get no
            gradients and stay in evaluation mode.
        idle: Parts that it does not even use: they get no gradients either, and need not come trained.
        action_losses: What latent actions learn by on their own (`LatentAction.losses`) is part of this loss.
        steps_per_epoch: Set by the trainer before the first step; schedules counted in epochs need it.
    """

    RETURNS = Loss
    WORDS = {
        "requires": frozenset({"decoder", "dynamics", "no-dynamics", "filtering", "no-filtering", "prior", "heads",
                               "latent-action"}),
        "frozen": frozenset({"encoder", "decoder", "dynamics", "latent_action", "conditioners", "heads"}),
        "idle": frozenset({"encoder", "decoder", "dynamics", "latent_action", "conditioners", "heads"}),
    }
    Config: ClassVar[type[ComponentConfig]]
    requires: ClassVar[frozenset[str]] = frozenset()
    frozen: ClassVar[frozenset[str]] = frozenset()
    idle: ClassVar[frozenset[str]] = frozenset()
    action_losses: ClassVar[bool] = False
    steps_per_epoch: int = 0
    config: ComponentConfig

    def __init__(self, config: ComponentConfig):
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        """The loss of a batch at a training step."""

    def prepare(self, model: ComposedWorldModel) -> None:
        """Make what this objective needs of the model's own: teachers, predictors. Modules, so that they are saved.

        Called when a model has been put together, and again whenever it got other weights from elsewhere without those
        of its objective (a shared model leaves them out): teachers then begin anew, what learns stays as it is.
        """

    def after_step(self, model: ComposedWorldModel, step: int) -> None:
        """Let what follows the weights follow them, behind the optimiser's update number ``step`` (the first is 0)."""

    def study(self, model: ComposedWorldModel, batches: Iterable[Batch]) -> None:
        """Look at all training clips before a run begins or goes on, for what the loss needs to know about them.

        Args:
            model: The model, with the weights it begins or goes on with.
            batches: All training clips once; nothing is read before it is asked for.
        """

    def notes(self, model: ComposedWorldModel) -> list[str]:
        """What a user should know about how these parts are trained together; shown when training starts."""
        return []
