"""worldkit: learned simulators of video that discover objects, predict, can be steered, taken apart and recombined.

Importing this package is cheap: names load on first use, and PyTorch only with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import Any

from .lazy import lazy_exports

__version__ = "0.1.0"

_EXPORTS = {
    "factory": ("create_model", "create_config", "list_models", "get_model_spec", "model_info"),
    "registry": (
        "list_encoders", "list_decoders", "list_dynamics", "list_conditioners", "list_latent_actions", "list_priors",
        "list_objectives", "register_encoder", "register_decoder", "register_dynamics", "register_conditioner",
        "register_latent_action", "register_prior", "register_objective", "register_model", "plugin_errors",
    ),
    "presets": ("register_preset_file",),
    "config": ("WorldModelConfig",),
    "batch": ("Batch",),
    "latents": ("Latent", "Particles"),
    "model": ("WorldModel", "Rollout"),
    "counterfactual": ("what_if",),
    "exporting": ("export",),
    "operators": ("get_operator",),
    "objectives": ("Loss",),
    "decoders": ("Decoded",),
    "envs": ("make_env", "list_envs", "list_env_backends"),
    "errors": (
        "WorldkitError", "UnknownComponentError", "DuplicateComponentError", "ConfigError",
        "IncompatibleComponentsError", "ShapeError", "ConditionError", "MissingExtraError", "NoDecoderError",
        "NoPretrainedWeightsError", "CheckpointError", "DataError", "TrainingError",
    ),
}
_find = lazy_exports(__name__, _EXPORTS)
_SUBMODULES = ("ablation", "bench", "convert", "data", "envs", "metrics", "testing", "training", "viz")

__all__ = [*(name for names in _EXPORTS.values() for name in names), *_SUBMODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f".{name}", __name__)
    return _find(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
