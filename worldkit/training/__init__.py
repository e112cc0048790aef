"""Training, evaluation and their pictures."""

from .compare import Comparison, compare
from .config import TrainConfig
from .evaluate import evaluate, mean_image, predict, validation_loss
from .figures import animation, panel
from .protocols import find_protocol, list_protocols
from .trainer import Trainer, TrainResult

__all__ = [
    "Comparison", "TrainConfig", "TrainResult", "Trainer", "animation", "compare", "evaluate", "find_protocol",
    "list_protocols", "mean_image", "panel", "predict", "validation_loss",
]
