"""Options that were given in the wrong place: where they belong, and how they are typed there."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from ..config import WorldModelConfig, nest, option_paths
from ..data.registry import find_format
from ..errors import ConfigError, WorldkitError
from ..factory import get_model_spec, override
from ..registry import suggestion
from .config import TrainConfig

_OTHER_WORDS = {"learning_rate": "lr", "epochs": "num_epochs", "batch": "batch_size", "workers": "num_workers",
                "max_steps": "steps", "grad_clip": "max_grad_norm", "accumulate": "gradient_accumulation",
                "bs": "batch_size", "num_steps": "steps"}
_SHOWN = 4


def places(
    name: str, config: WorldModelConfig | None = None, data: str | None = None, *, close: bool = True
) -> list[str]:
    """Full paths of the options that a name without its place may mean.

    Args:
        name: ``"lr"``, ``"batch-size"``, ``"num_layers"``.
        config: The model, whose parts are searched, too.
        data: What the model is trained on; its format's options are searched, too.
        close: Take a name that is close if there is none that is the same.
    Returns:
        Options of that very name; if there are none, of a name that is close; or nothing.
    Example:
        >>> places("batch-size"), places("learning_rate")
        (['train.batch_size'], ['train.lr'])
    """
    name = name.replace("-", "_")
    known: dict[str, list[str]] = {}
    training = [f"train.{option}" for option in TrainConfig.model_fields]
    for path in [*training, *_data_options(data), *([] if config is None else option_paths(config))]:
        known.setdefault(path.rpartition(".")[2], []).append(path)
    if name in known:
        return known[name]
    if name in _OTHER_WORDS:
        return [f"train.{_OTHER_WORDS[name]}"]
    if not close or suggestion(name, [*WorldModelConfig.model_fields, "train", "data"]):
        return []
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return known[nearest[0]] if nearest else []


def _data_options(data: str | None) -> list[str]:
    try:
        return [] if data is None else [f"data.{option}" for option in find_format(data).options()]
    except WorldkitError:  # no data there: an error of its own
        return []


def refuse_misplaced(
    options: Mapping[str, Any], preset: str, *, base: Mapping[str, Any] | None = None, data: str | None = None,
    option: str = "-o",
) -> None:
    """Refuse an option that belongs to a part, to the training or to the data, and was given without saying so.

    Args:
        options: Dotted or nested, as they are given beside each other: ``{"lr": 1e-3, "train": {"num_layers": 2}}``.
        preset: Whose parts are searched.
        base: Configuration that the model starts from, if not the preset's.
        data: What is trained on.
        option: What such options are typed after.
    Raises:
        ConfigError: naming the places where an option of that name is.
    """
    nested = nest(options)
    top = {key: value for key, value in nested.items()
           if key not in WorldModelConfig.model_fields and key not in ("train", "data")}
    training = nested.get("train") if isinstance(nested.get("train"), Mapping) else {}
    inner = {key: value for key, value in training.items() if key not in TrainConfig.model_fields}
    if not top and not inner:
        return
    spec = get_model_spec(preset)
    base = spec.config if base is None else base
    try:
        config = override(base, {k: v for k, v in nested.items() if k in WorldModelConfig.model_fields},
                          spec.alternatives)
    except WorldkitError:  # an error of its own
        config = WorldModelConfig.parse(base)
    for key, value in top.items():
        if found := places(key, config, data):
            raise ConfigError(f"'{key}' is no option of the model as a whole: {_typed(found, value, option)}")
    for key, value in inner.items():
        if found := [path for path in option_paths(config) if path.rpartition(".")[2] == key]:
            raise ConfigError(f"'{key}' is no option of training: {_typed(found, value, option)}")


def _typed(paths: list[str], value: Any, option: str) -> str:
    """What to type instead, on the command line and in Python."""
    shown = value if isinstance(value, str) else json.dumps(value, default=str)
    if isinstance(value, Mapping):
        shown = "..."
    first, rest = paths[:_SHOWN], len(paths) - _SHOWN
    lines = " or ".join(f"{option} {path}={shown}" for path in first)
    return f"write {lines}{f' or {rest} more' if rest > 0 else ''} ('{paths[0]}' in a dict of Python)"
