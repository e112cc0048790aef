"""Training, evaluation and their pictures."""

from ..lazy import lazy_exports

_EXPORTS = {
    "comparison": ("Comparison", "compare"),
    "config": ("TrainConfig",),
    "evaluation": ("evaluate", "mean_image", "predict", "validation_loss"),
    "figures": ("animation", "film", "panel"),
    "protocols": ("find_protocol", "list_protocols"),
    "trainer": ("Trainer", "TrainResult"),
}
__getattr__ = lazy_exports(__name__, _EXPORTS)
__all__ = sorted(name for names in _EXPORTS.values() for name in names)
