"""From a preset and a data source to a trained run: what ``worldkit train`` and ``worldkit demo`` do."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .. import registry as registries
from ..data import ClipDataset, action_statistics, open_dataset
from ..data.decided import FOR_A_MODEL, refuse_decided
from ..data.trained import as_trained
from ..errors import ConfigError, DataError, TrainingError
from ..factory import create_model, get_model_spec, list_models, override
from ..metrics import load_lpips
from ..model import ComposedWorldModel
from ..operators.specification import OperatorSpec
from ..presets import resolve_preset
from ..storage.folders import NOT_RECORDED, TRAINED_ON, read_facts
from ..storage.hub import components, load_parts
from .checkpoint import latest_checkpoint
from .complete import complete_config
from .config import TrainConfig
from .misplaced import refuse_misplaced
from .processes import main_process_first
from .record import RESIZE
from .settings import Settings
from .trainer import Trainer, TrainResult
from .weightless import weightless

MODES = {"all": "slide", "tile": "tile", "first": "first"}
"""Training option ``clips`` -> mode of the data set."""
WEIGHTS_FROM = "weights from"
"""Entry of a run's facts: whose weights it began with, and of which parts."""


def open_clips(model: ComposedWorldModel, data: str, *, split: str, num_frames: int, mode: str = "tile",
               **options: Any) -> ClipDataset:
    """A data set as the model saw its own in training, with the conditions that it takes and the vectors it observes.
    """
    obs, options = model.config.obs, as_trained(model.operator, data, options)
    options = {"conditions": model.config.columns, "targets": {}, "vectors": model.config.vectors, **options}
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
        The trained model (with averaged weights, if ``train.ema`` is set) and where the run ended.
    """
    trainer = make_trainer(preset, data, run=run, overrides=overrides, train_overrides=train_overrides,
                           data_options=data_options, show_progress=show_progress)
    result = trainer.fit()
    if trainer.ema is not None:
        trainer.ema.apply(trainer.model)
    return trainer.model.eval(), result


def make_trainer(
    preset: str,
    data: str,
    *,
    run: str | Path,
    overrides: Mapping[str, Any] | None = None,
    train_overrides: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    show_progress: bool = True,
    dry_run: bool = False,
    settings: Settings | None = None,
) -> Trainer:
    """What `train` trains with; arguments as there. Nothing is written before ``fit()``.

    ``dry_run``: the model has no weights and takes no memory; `worldkit.training.plan.plan` says what a run would do.
    ``settings``: Where to start from instead of the preset's defaults.
    """
    start = settings or Settings.of_preset(preset)
    options = {**start.data_options, **(data_options or {})}
    refuse_decided(options, FOR_A_MODEL, typed="-o data.{}")
    refuse_misplaced({**(overrides or {}), "train": {**(train_overrides or {})}}, preset, base=start.model, data=data)
    config = TrainConfig.parse({**start.train, **(train_overrides or {})})
    asked = override(start.model, overrides or {}, get_model_spec(preset).alternatives)
    make = partial(create_model, config=complete_config(asked, data, options))
    torch.manual_seed(config.seed)
    model = weightless(make) if dry_run else make()
    if not isinstance(model, ComposedWorldModel):
        raise ConfigError(f"'{preset}' is a model family with a training of its own")
    facts = {"preset": preset, "data": data} | {f"data.{name}": value for name, value in options.items()}
    facts |= _initialise(model, preset, data, config, Path(run))
    if config.vgg_backbone or config.lpips_heads:
        model.use_perceptual(load_lpips(config.vgg_backbone, config.lpips_heads))
    with main_process_first(config.device):  # it makes or decodes what the others then find in the cache
        clips = {
            split: open_clips(model, data, split=split, num_frames=model.clip_length, mode=MODES[config.clips],
                              targets=model.config.targets, **options)
            for split in ("train", "val")
        }
        rollouts = _rollout_clips(preset, model, data, options)
        facts |= {"synthetic data": clips["train"].summary.get("synthetic", False)}
        statistics = _action_facts(model, clips["train"])
        facts |= _pixel_facts(clips["train"]) | {f"statistics of {name}": x for name, x in statistics.items()}
        model.operator = _operator(model, data, clips["train"], statistics)
    return Trainer(
        model, clips["train"], clips["val"], config, run=run, rollouts=rollouts, facts=facts,
        show_progress=show_progress,
    )


def _pixel_facts(clips: ClipDataset) -> dict[str, str]:
    """How pictures became frames, and which way it was where another one would have given other frames."""
    fitting = clips.source.fitting
    if fitting is None:
        return {}
    return {"pixels": str(fitting)} | ({RESIZE: fitting.resize} if fitting.matters else {})


def resize_note(name: str, facts: Mapping[str, Any], clips: ClipDataset) -> str | None:
    """What to say where a model gets frames of another kind than it was trained on, None where it does not.

    Args:
        name: The model's, for the text.
        facts: Of the model, as `worldkit.storage.folders.provenance` tells them.
        clips: What it gets.
    """
    fitting, then = clips.source.fitting, facts.get(TRAINED_ON)
    if then == NOT_RECORDED:  # layouts of papers do as they did, all others cropped and pad now
        then = "crop" if fitting is not None and fitting.resize == "pad" else None
    if then is None or fitting is None or not fitting.matters or fitting.resize == then:
        return None
    return f"{name} was trained with {RESIZE}={then}, here frames are {fitting}. As in training: -o {RESIZE}={then}"


def _action_facts(model: ComposedWorldModel, clips: ClipDataset) -> dict[str, Any]:
    """Statistics of the actions a model was trained on; they are saved with it, so that users know its units."""
    columns = {name: model.config.columns[name] for name, c in model.config.conditioners.items()
               if getattr(c, "dim", None) and hasattr(c, "num_actions")}
    return {name: action_statistics(clips.source, c).to_dict() for name, c in columns.items()}


def _operator(model: ComposedWorldModel, data: str, clips: ClipDataset, statistics: Mapping[str, Any]) -> OperatorSpec:
    """What was done to raw frames and actions; it is saved with the model.

    Frames that ``worldkit collect`` stored had their shape already: what the environment did is the rule then.
    """
    from ..collecting.folder import resize_of

    told, fitting = clips.source.summary, clips.source.fitting
    made = None if fitting is None or fitting.matters else resize_of(data)
    cameras = tuple(told.get("cameras") or ())
    return OperatorSpec.of_config(
        model.config, statistics=dict(statistics), resize=made or ("pad" if fitting is None else fitting.resize),
        cameras=cameras if len(cameras) == model.config.obs.views else (),
        frame_rate=float(told["fps"]) / clips.frame_skip if told.get("fps") else None, frame_skip=clips.frame_skip,
        recorded=True)


def _initialise(model: ComposedWorldModel, preset: str, data: str, config: TrainConfig, run: Path) -> dict[str, str]:
    """Give a new run the weights of ``init_from``; returns what the run should say about it.

    Raises:
        TrainingError: the objective needs trained parts, and nothing gives them.
    """
    newest = latest_checkpoint(run)
    if newest is not None:  # which holds all weights
        began = read_facts(newest).get(WEIGHTS_FROM)
        return {WEIGHTS_FROM: began} if began else {}
    source = config.init_from
    if source is None and config.init_parts is not None:
        raise ConfigError("train.init_parts says what to take from train.init_from, which was not given")
    taken = []
    if source is not None:
        published = source in list_models(pretrained=True) and not Path(source).exists()
        trained = create_model(source, pretrained=True) if published else source
        taken = load_parts(model, trained, config.init_parts)
    untrained = [part for part, _ in _frozen_parts(model)
                 if part not in taken and not (part == "encoder" and model.encoder.comes_trained)]
    if untrained:
        raise TrainingError(_first_stage_missing(model, preset, data, untrained))
    return {WEIGHTS_FROM: f"{source} ({', '.join(taken)})"} if taken else {}


def _frozen_parts(model: ComposedWorldModel) -> list[tuple[str, str]]:
    """(part, registered name) of everything in a model that its objective does not train, and that has weights."""
    frozen = {name for name in model.objective.frozen
              if (part := getattr(model, name)) is not None and next(part.parameters(), None) is not None}
    found = [(path, name) for path, _, name in components(model.config.to_dict())]
    return sorted((path, name) for path, name in found if path.partition(".")[0] in frozen)


def _first_stage_missing(model: ComposedWorldModel, preset: str, data: str, frozen: list[str]) -> str:
    """The error's text: two commands that train first the frozen parts, then the rest."""
    first: str | None = resolve_preset(preset)
    while first and registries.objectives.get(get_model_spec(first).config["objective"]["name"]).frozen:
        first = get_model_spec(first).extends
    objective = model.config.objective.name
    again = f" --run runs/{preset}-{objective} -o objective={objective}" if first == resolve_preset(preset) else ""
    if again and model.config.prior is not None:
        again += f" -o prior={model.config.prior.name}"
    first = first or "FIRST_STAGE"
    return (
        f"objective '{objective}' trains nothing in {' and '.join(frozen)}, which must come trained. Train them first, "
        f"with the same options for both:\n  worldkit train {first} --data {data}\n"
        f"  worldkit train {preset} --data {data}{again} -o train.init_from=runs/{first}"
    )


def _rollout_clips(
    preset: str, model: ComposedWorldModel, data: str, options: Mapping[str, Any]
) -> tuple[ClipDataset, int] | None:
    """Validation clips long enough for the preset's protocol, or as long as the data allow; None where the training
    has no influence on predictions."""
    if model.dynamics is None or model.decoder is None or "dynamics" in model.objective.frozen | model.objective.idle:
        return None
    context, horizon = protocol(preset, model)
    for frames in (context + horizon, model.clip_length):
        try:
            clips = open_clips(model, data, split="val", num_frames=frames, **options)
        except DataError:
            continue
        return clips, min(context, frames - 1)
    return None
