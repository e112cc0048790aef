"""Predictions of a model against real clips, beside the two baselines every model must beat."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..batch import Batch, to_float_video
from ..data import ClipDataset, collate
from ..distributions import MEANS
from ..errors import ConfigError, DataError
from ..metrics import ImageFeatures, Report, VideoFeatures, copy_last_frame, mean_frame
from ..metrics.tracking import MED_STEPS
from ..model import ComposedWorldModel, Rollout
from ..progress import track
from .controllability import DELTA, Controllability, with_true_actions
from .rows import Rows
from .scores import Scorer, Scores, Truth, flat

if TYPE_CHECKING:
    from .latent_scores import LatentScorer

ENCODED = "true frames, encoded"
"""Row with the tracking scores of the encoder alone, and what drives a reconstruction."""
DRIVERS = {"prior": "deterministic prior", "sampled": "sampled", "inferred": "inferred latent actions",
           "encoded": ENCODED, "best of n": "sampled, best of n"}
"""What may drive a rollout -> how a report calls it."""


def mean_image(dataset: ClipDataset, *, max_clips: int = 200) -> Tensor:
    """Mean frame of a data set, ``[(V,) C, H, W]`` in [0, 1], over evenly spaced clips."""
    indices = dataset.spread(max_clips)
    total = sum(to_float_video(dataset[i]["video"]).double().mean(-4) for i in indices)
    return (total / len(indices)).float()


def predict(
    model: ComposedWorldModel, batch: Batch, *, context_frames: int, driven_by: str, generator: torch.Generator | None,
    window: str = "exact", draw: bool = True,
) -> Rollout:
    """Roll a model out over the clips of a batch.

    Args:
        model: The model.
        batch: Clips ``[B, T, C, H, W]`` (or with views); the first ``context_frames`` are given, the rest predicted.
        driven_by: ``"prior"`` (mean of the policy), ``"sampled"``, ``"inferred"`` (latent actions read off the true
            future) or ``"encoded"`` (the true frames are encoded and decoded, which needs no dynamics): the last two
            are reconstructions, not predictions.
        generator: For ``"sampled"``.
        draw: Latents are drawn, too.
    """
    horizon = batch.video.shape[-4] - context_frames
    if horizon < 1:
        raise DataError(f"clips of {batch.video.shape[-4]} frames leave nothing to predict after {context_frames}")
    if driven_by == "encoded":
        with torch.no_grad():
            z = model.encode(batch)
            given, rest = z[:, :context_frames], z[:, context_frames:]
            if not draw:
                return Rollout(rest, given)
            drawn, again = model.decode(rest, before=given), model.decode(given)
            return Rollout(rest, given, drawn.video, again.video, vectors=drawn.vectors, context_vectors=again.vectors)
    known = conditions_of(model, batch)
    actions = model.infer_latent_actions(batch, **known) if driven_by == "inferred" else None
    return model.rollout(
        batch.context(context_frames), horizon, latent_actions=actions, generator=generator,
        deterministic=driven_by != "sampled", window=window, decode=draw,
        **known,  # type: ignore[arg-type]
    )


def conditions_of(model: ComposedWorldModel, batch: Batch) -> dict[str, dict[str, Any]]:
    """What a model takes of the conditions and masks of a batch."""
    return {"conditions": {k: batch.conditions[k] for k in model.conditioners if k in batch.conditions},
            "masks": {k: batch.masks[k] for k in model.conditioners if k in batch.masks}}


def choose_clips(dataset: ClipDataset, max_clips: int | None, *, starts: bool = False) -> list[int]:
    """Indices of evenly spaced clips; ``starts``: only clips that begin with their episode."""
    found = [i for i in range(len(dataset)) if dataset.window(i)[1] == 0] if starts else range(len(dataset))
    count = len(found) if max_clips is None else min(max_clips, len(found))
    return [found[i] for i in torch.linspace(0, len(found) - 1, count).long().unique().tolist()]


@torch.no_grad()
def evaluate(
    model: ComposedWorldModel,
    dataset: ClipDataset,
    *,
    context_frames: int,
    driven_by: Sequence[str] = ("prior",),
    training_mean: Tensor | None = None,
    perceptual: Any = None,
    max_clips: int | None = 100,
    batch_size: int = 8,
    seed: int = 0,
    device: torch.device | str = "cpu",
    samples: int = 1,
    metrics: Sequence[str] = ("psnr", "ssim"),
    networks: Mapping[str, VideoFeatures | ImageFeatures] | None = None,
    starts: bool = False,
    scorers: Sequence[LatentScorer] = (),
    **facts: Any,
) -> dict[str, Report]:
    """Score predictions per frame: PSNR, SSIM (and LPIPS with weights) as the LPWM paper does, and more if asked for.

    Args:
        model: The model.
        dataset: Clips of ``context_frames + horizon`` frames; evenly spaced ones are taken.
        context_frames: Frames that are given.
        driven_by: Any of ``"prior"``, ``"sampled"``, ``"inferred"``, ``"encoded"``; one report each.
        training_mean: Mean frame of the TRAINING data for the second baseline.
        perceptual: LPIPS network of `worldkit.metrics.load_lpips`.
        max_clips: Clips scored at most; None: all.
        batch_size: Clips at a time.
        seed: Of sampled rollouts.
        device: Where to compute.
        samples: Rollouts per clip of ``"sampled"``. Its report then has the mean over them, and a report
            ``"best of n"`` has, for every clip, the sample with the highest PSNR.
        metrics: More numbers: ``"med10"``, ``"med10_painted"``, ``"pck"`` (positions in the data's state), ``"ari"``,
            ``"fg_ari"``, ``"miou"`` (state "segmentation"), ``"fvd"``, ``"fid"`` (with ``networks``); where inferred
            latent actions drive, ``"delta_psnr"`` (see `worldkit.training.controllability`).
        networks: ``"fvd"`` -> `VideoFeatures`, ``"fid"`` -> `ImageFeatures`.
        starts: Only clips that begin with their episode.
        scorers: Of the metrics of `worldkit.training.latent_scores`, as `latent_scorers` makes them.
        **facts: Stored with the protocol.
    Returns:
        What drives the rollouts -> report with the rows "model", "copy last frame" and "mean training frame"; with
        tracking also "true frames, encoded".
    Raises:
        ConfigError, DataError: the model or the data lack what a metric needs.
    """
    control = Controllability(model, seed=seed) if DELTA in metrics else None
    if control is not None:
        dataset = with_true_actions(dataset)
    indices = choose_clips(dataset, max_clips, starts=starts)
    scorer, draws = Scorer(model, metrics, perceptual, networks or {}), model.decoder is not None or not scorers
    obs, horizon = model.config.obs, dataset.num_frames - context_frames
    if {"med10", "med10_painted"} & {*metrics} and horizon < MED_STEPS:
        raise ConfigError(f"MED10 needs {MED_STEPS} predicted frames, got {horizon}: predict at least {MED_STEPS}")
    protocol = {"context_frames": context_frames, "horizon": horizon, "split": "?",
                "resolution": f"{obs.height}x{obs.width}"}
    reports = {}
    for driver in driven_by:
        count = samples if driver == "sampled" else 1
        generator = torch.Generator(device=device).manual_seed(seed)
        rows = Rows()
        for first in track(range(0, len(indices), batch_size), f"scoring, {DRIVERS[driver]}"):
            items = [dataset[i] for i in indices[first:first + batch_size]]
            batch = collate(items).to(device)
            truth = Truth.of(items, batch, context_frames)
            rows.add_clips([(item["episode"], item["start"]) for item in items], len(truth.video))
            rows.add_truth(scorer.features(truth.context, truth.video), count)
            drawn = []
            for _ in range(count):
                rollout = predict(model, batch, context_frames=context_frames, driven_by=driver, generator=generator,
                                  draw=draws)
                drawn.append(scorer.model_scores(rollout, truth))
                if control is not None and driver == "inferred":
                    drawn[-1] |= control.scores(batch, truth.video, rollout.video, rollout.latent_actions,
                                                context_frames=context_frames, **conditions_of(model, batch))
                for one in scorers:
                    drawn[-1] |= one.scores(batch, rollout, context_frames, encoded=driver == "encoded")
                if scorer.networks:
                    rows.add_features("model", scorer.features(flat(rollout.context_video), flat(rollout.video)))
            rows.add_samples(drawn)
            simple: dict[str, Scores] = {}
            for one in scorers:
                for row, scores in one.baselines(batch, context_frames).items():
                    simple[row] = simple.get(row, {}) | scores
            if draws:
                _add_baselines(rows, scorer, truth, training_mean, simple)
            for row, scores in simple.items():
                rows.add_scores(row, scores)
            if scorer.track:
                rows.add_scores(ENCODED, scorer.encoded_scores(batch, truth))
        stated = protocol | {"decoding": "stochastic" if driver == "sampled" else "deterministic", "seed": seed,
                             "driven_by": DRIVERS[driver]} | facts
        stated |= {"tracking": scorer.followed} if scorer.track else {}
        stated |= {"samples": count} if count > 1 else {}
        for one in scorers:
            stated |= one.facts()
        if control is not None and driver == "inferred" and (found := control.agreement()) is not None:
            stated |= {"codes and true actions": str(found)}
        reports[driver] = rows.report(stated, scorer)
        if count > 1:
            reports["best of n"] = rows.best_report(stated | {"driven_by": DRIVERS["best of n"]}, scorer)
    return reports


def _add_baselines(rows: Rows, scorer: Scorer, truth: Truth, training_mean: Tensor | None,
                   simple: dict[str, Scores]) -> None:
    frames = truth.video.shape[1]
    rows.add_scores("copy last frame", scorer.still_scores(truth) | simple.pop("copy last frame", {}))
    predictions = {"copy last frame": copy_last_frame(truth.context, frames)}
    if training_mean is not None and truth.video.numel():
        mean = _mean_prediction(training_mean.to(truth.video.device), truth.video)
        rows.add_scores("mean training frame", scorer.image_scores(mean, truth))
        predictions["mean training frame"] = mean
    if scorer.networks:
        for name, video in predictions.items():
            rows.add_features(name, scorer.features(truth.context, video))


def _mean_prediction(mean: Tensor, truth: Tensor) -> Tensor:
    clips, horizon = truth.shape[:2]
    if mean.ndim == 3:
        return mean_frame(mean, clips, horizon)
    per_view = torch.stack([mean_frame(view, clips // len(mean), horizon) for view in mean], 1)
    return per_view.flatten(0, 1)


@torch.no_grad()
def validation_loss(model: ComposedWorldModel, dataset: ClipDataset, *, max_clips: int, batch_size: int, step: int,
                    device: torch.device | str = "cpu") -> float:
    """Training loss on held-out clips with the means of all latents.

    In batches of like size, for some objectives compare the clips of a batch, and one left over could not be compared.
    """
    indices = torch.tensor(dataset.spread(max_clips))
    was_training, total = model.training, 0.0
    model.eval()
    for part in indices.tensor_split(math.ceil(len(indices) / batch_size)):
        batch = collate([dataset[i] for i in part.tolist()]).to(device)
        total += model.loss(batch, step, sampler=MEANS).total.item() * len(part)
    model.train(was_training)
    return total / len(indices)
