"""Predictions of a model against real clips, beside the two baselines every model must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch, to_float_video
from ..data import ClipDataset, collate
from ..distributions import MEANS
from ..errors import DataError
from ..metrics import Report, copy_last_frame, mean_frame, score_predictions
from ..model import ComposedWorldModel, Rollout

DRIVERS = {"prior": "deterministic prior", "sampled": "sampled", "inferred": "inferred latent actions"}
"""What may drive a rollout -> how a report calls it."""


def mean_image(dataset: ClipDataset, *, max_clips: int = 200) -> Tensor:
    """Mean frame of a data set, ``[(V,) C, H, W]`` in [0, 1], over evenly spaced clips."""
    indices = torch.linspace(0, len(dataset) - 1, min(max_clips, len(dataset))).long().unique().tolist()
    total = sum(to_float_video(dataset[i]["video"]).double().mean(-4) for i in indices)
    return (total / len(indices)).float()


def predict(
    model: ComposedWorldModel, batch: Batch, *, context_frames: int, driven_by: str, generator: torch.Generator | None,
    window: str = "exact",
) -> Rollout:
    """Roll a model out over the clips of a batch.

    Args:
        model: The model.
        batch: Clips ``[B, T, C, H, W]`` (or with views); the first ``context_frames`` are given, the rest predicted.
        driven_by: ``"prior"`` (mean of the policy), ``"sampled"``, or ``"inferred"`` (latent actions read off the true
            future: a reconstruction, not a prediction).
        generator: For ``"sampled"``.
    """
    horizon = batch.video.shape[-4] - context_frames
    if horizon < 1:
        raise DataError(f"clips of {batch.video.shape[-4]} frames leave nothing to predict after {context_frames}")
    known = {"conditions": {k: batch.conditions[k] for k in model.conditioners if k in batch.conditions},
             "masks": {k: batch.masks[k] for k in model.conditioners if k in batch.masks}}
    actions = model.infer_latent_actions(batch.video, **known) if driven_by == "inferred" else None
    return model.rollout(
        batch.video[..., :context_frames, :, :, :], horizon, latent_actions=actions, generator=generator,
        deterministic=driven_by != "sampled", window=window, **known,  # type: ignore[arg-type]
    )


@torch.no_grad()
def evaluate(
    model: ComposedWorldModel,
    dataset: ClipDataset,
    *,
    context_frames: int,
    driven_by: Sequence[str] = ("prior",),
    training_mean: Tensor | None = None,
    perceptual: Any = None,
    max_clips: int = 100,
    batch_size: int = 8,
    seed: int = 0,
    device: torch.device | str = "cpu",
    **facts: Any,
) -> dict[str, Report]:
    """Score predictions per frame: PSNR, SSIM (and LPIPS with weights), as the LPWM paper does.

    Args:
        model: The model.
        dataset: Clips of ``context_frames + horizon`` frames; evenly spaced ones are taken.
        context_frames: Frames that are given.
        driven_by: Any of ``"prior"``, ``"sampled"``, ``"inferred"``; one report each.
        training_mean: Mean frame of the TRAINING data for the second baseline.
        perceptual: LPIPS network of `worldkit.metrics.load_lpips`.
        max_clips: Clips scored at most.
        batch_size: Clips at a time.
        seed: Of sampled rollouts.
        device: Where to compute.
        **facts: Stored with the protocol.
    Returns:
        ``driven_by`` -> report with the rows "model", "copy last frame" and "mean training frame".
    """
    indices = torch.linspace(0, len(dataset) - 1, min(max_clips, len(dataset))).long().unique().tolist()
    reports = {}
    for driver in driven_by:
        generator = torch.Generator(device=device).manual_seed(seed)
        scores: dict[str, list[dict[str, Tensor]]] = {}
        for first in range(0, len(indices), batch_size):
            batch = collate([dataset[i] for i in indices[first:first + batch_size]]).to(device)
            rollout = predict(model, batch, context_frames=context_frames, driven_by=driver, generator=generator)
            context, truth = (_flat(part) for part in _split(batch.video, context_frames))
            predictions = {"model": _flat(rollout.video), "copy last frame": copy_last_frame(context, truth.shape[1])}
            if training_mean is not None:
                predictions["mean training frame"] = _mean_prediction(training_mean.to(device), truth)
            for name, video in predictions.items():
                scores.setdefault(name, []).append(score_predictions(video, truth, perceptual=perceptual))
        joined = {name: {m: torch.cat([p[m] for p in parts]) for m in parts[0]} for name, parts in scores.items()}
        obs, horizon = model.config.obs, dataset.num_frames - context_frames
        protocol = {
            "context_frames": context_frames, "horizon": horizon, "split": "?",
            "resolution": f"{obs.height}x{obs.width}",
            "decoding": "stochastic" if driver == "sampled" else "deterministic", "seed": seed,
            "driven_by": DRIVERS[driver],
        }
        reports[driver] = Report(joined, protocol | facts)
    return reports


def _split(video: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    return video[..., :frames, :, :, :], video[..., frames:, :, :, :]


def _flat(video: Tensor) -> Tensor:
    """Views as further clips: ``[(B V), T, C, H, W]``."""
    return video if video.ndim == 5 else video.flatten(0, 1)


def _mean_prediction(mean: Tensor, truth: Tensor) -> Tensor:
    clips, horizon = truth.shape[:2]
    if mean.ndim == 3:
        return mean_frame(mean, clips, horizon)
    per_view = torch.stack([mean_frame(view, clips // len(mean), horizon) for view in mean], 1)
    return per_view.flatten(0, 1)


@torch.no_grad()
def validation_loss(model: ComposedWorldModel, dataset: ClipDataset, *, max_clips: int, batch_size: int, step: int,
                    device: torch.device | str = "cpu") -> float:
    """Training loss on held-out clips with the means of all latents."""
    indices = torch.linspace(0, len(dataset) - 1, min(max_clips, len(dataset))).long().unique().tolist()
    was_training, total = model.training, 0.0
    model.eval()
    for first in range(0, len(indices), batch_size):
        part = indices[first:first + batch_size]
        batch = collate([dataset[i] for i in part]).to(device)
        total += model.loss(batch, step, sampler=MEANS).total.item() * len(part)
    model.train(was_training)
    return total / len(indices)
