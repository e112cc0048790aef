"""From a preset and a data source to a trained run: what ``worldkit train`` and ``worldkit demo`` do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..data import ClipDataset, open_dataset
from ..errors import ConfigError, DataError
from ..factory import create_model, get_model_spec
from ..metrics import load_lpips
from ..model import ComposedWorldModel
from .config import TrainConfig
from .trainer import Trainer, TrainResult


def open_clips(model: ComposedWorldModel, data: str, *, split: str, num_frames: int, mode: str = "tile",
               **options: Any) -> ClipDataset:
    """A data set at the model's image size."""
    obs = model.config.obs
    return open_dataset(data, split=split, num_frames=num_frames, height=obs.height, width=obs.width, mode=mode,
                        **options)


def train_config(preset: str, overrides: Mapping[str, Any]) -> TrainConfig:
    """The preset's training defaults with overrides.

    Raises:
        ConfigError: an unknown or ill-typed option.
    """
    return TrainConfig.parse({**get_model_spec(preset).train, **overrides})


def protocol(preset: str, model: ComposedWorldModel, overrides: Mapping[str, Any] | None = None) -> tuple[int, int]:
    """(frames given, frames predicted) of the preset's evaluation, with overrides."""
    defaults = dict(get_model_spec(preset).eval) | {k: v for k, v in (overrides or {}).items() if v is not None}
    context = int(defaults.get("context_frames", 1))
    return context, int(defaults.get("horizon", model.config.timestep_horizon))


def train(
    preset: str,
    data: str,
    *,
    run: str | Path,
    overrides: Mapping[str, Any] | None = None,
    train_overrides: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    show_progress: bool = True,
) -> tuple[ComposedWorldModel, TrainResult]:
    """Train a preset on a data source, or go on with an interrupted run.

    Args:
        preset: Name of a model.
        data: What `worldkit.data.open_dataset` recognises.
        run: Run folder.
        overrides: Model overrides, as for `create_model`.
        train_overrides: Options of `TrainConfig`.
        data_options: Options of the data format.
        show_progress: Show a progress bar.
    Returns:
        The trained model and where the run ended.
    """
    config = train_config(preset, train_overrides or {})
    options = dict(data_options or {})
    torch.manual_seed(config.seed)
    model = create_model(preset, **(overrides or {}))
    if not isinstance(model, ComposedWorldModel):
        raise ConfigError(f"'{preset}' is a model family with a training of its own")
    if config.vgg_backbone or config.lpips_heads:
        model.use_perceptual(load_lpips(config.vgg_backbone, config.lpips_heads))
    clips = {
        "train": open_clips(model, data, split="train", num_frames=model.clip_length, mode="slide", **options),
        "val": open_clips(model, data, split="val", num_frames=model.clip_length, mode="slide", **options),
    }
    trainer = Trainer(
        model, clips["train"], clips["val"], config, run=run, rollouts=_rollout_clips(preset, model, data, options),
        facts={"preset": preset, "data": data, "synthetic data": clips["train"].summary.get("synthetic", False)},
        show_progress=show_progress,
    )
    result = trainer.fit()
    return model.eval(), result


def _rollout_clips(
    preset: str, model: ComposedWorldModel, data: str, options: Mapping[str, Any]
) -> tuple[ClipDataset, int] | None:
    """Validation clips long enough for the preset's protocol, or as long as the data allow; None for image models."""
    if model.dynamics is None:
        return None
    context, horizon = protocol(preset, model)
    for frames in (context + horizon, model.clip_length):
        try:
            clips = open_clips(model, data, split="val", num_frames=frames, **options)
        except DataError:
            continue
        return clips, min(context, frames - 1)
    return None
