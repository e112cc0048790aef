"""Training, evaluation and their pictures."""

from .config import TrainConfig
from .evaluate import evaluate, mean_image, predict, validation_loss
from .figures import animation, panel
from .trainer import Trainer, TrainResult

__all__ = [
    "TrainConfig", "TrainResult", "Trainer", "animation", "evaluate", "mean_image", "panel", "predict",
    "validation_loss",
]
