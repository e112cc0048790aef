"""Whether a model can be trained, told before anything is written."""

from __future__ import annotations

from torch import nn

from ..errors import TrainingError
from ..storage.weights import check_storable


def check_trainable(model: nn.Module) -> None:
    """Refuse what this trainer cannot train.

    Raises:
        TrainingError: the model has no objective, or nothing that learns.
        CheckpointError: no weights file could hold its weights.
    """
    if not hasattr(model, "objective"):
        raise TrainingError(f"{type(model).__name__} has no objective, so this trainer cannot train it: make a loop of "
                            "your own with model.loss(batch, step)")
    check_storable(model.state_dict())
    if not any(p.requires_grad for p in model.parameters()):
        frozen = f", and objective '{model.objective.config.name}' freezes {', '.join(sorted(model.objective.frozen))}"
        raise TrainingError(f"nothing in this model learns{frozen if model.objective.frozen else ''}")
