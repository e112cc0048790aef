"""The numbers of one batch of rollouts: image, object and tracking metrics beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import one_hot

from ..batch import Batch, to_float_video
from ..errors import ConfigError, DataError
from ..latents import Latent
from ..metrics import (
    ImageFeatures,
    VideoFeatures,
    adjusted_rand_index,
    labels_from_masks,
    mean_iou,
    painted,
    plain_ground,
    score_predictions,
    to_unit_xy,
    track_things,
    track_tokens,
    tracked_pck,
)
from ..model import ComposedWorldModel
from ..nn.two_hot import symlog

TRACKING, OBJECTS = ("med10", "med10_painted", "pck"), ("ari", "fg_ari", "fg_ari_video", "miou")
SETS = ("fvd", "fid")
VECTOR_ERROR = "vector_error"
TOKENS, PAINTED = "tokens (G-SWM)", "what tokens paint"
"""What stands for an object in tracking: one token, or the things that anchored tokens paint."""
Scores = dict[str, Tensor]
"""Metric -> ``[B, H]``."""


@dataclass(frozen=True)
class Truth:
    """What really happened, views as further clips.

    Attributes:
        context: Given frames, ``[B, T0, C, H, W]`` in [0, 1].
        video: True frames behind the predicted ones, ``[B, H, C, H, W]``.
        position: ``[B, T0 + H, M, 2]`` in (x, y), [0, 1], if known.
        visible: bool ``[B, T0 + H, M]``, likewise.
        segmentation: Labels ``[B, T0 + H, H, W]``, 0 = background, likewise.
        vectors: Observed beside the video, by name, ``[B, T0 + H, S]``, of classes ``[B, T0 + H]``; of one view alone.
    """

    context: Tensor
    video: Tensor
    position: Tensor | None = None
    visible: Tensor | None = None
    segmentation: Tensor | None = None
    vectors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def target(self) -> tuple[Tensor, Tensor | None]:
        """Positions behind the predicted frames, and which of them can be seen."""
        first = self.context.shape[1]
        assert self.position is not None
        return self.position[:, first:], None if self.visible is None else self.visible[:, first:]

    @property
    def still(self) -> Tensor:
        """Positions in the last given frame, ``[B, M, 2]``."""
        assert self.position is not None
        return self.position[:, self.context.shape[1] - 1]

    @classmethod
    def of(cls, items: Sequence[Mapping[str, Any]], batch: Batch, context_frames: int) -> Truth:
        """The truth of the items of a batch."""

        def known(name: str) -> Tensor | None:
            values = [item.get("state", {}).get(name) for item in items]
            return None if any(v is None for v in values) else torch.stack(values)

        video, position, visible = flat(to_float_video(batch.video)), known("position"), known("in_camera")
        return cls(
            video[:, :context_frames], video[:, context_frames:],
            None if position is None else to_unit_xy(position.double()),
            None if visible is None else visible.bool(), known("segmentation"),
            batch.vectors if batch.video.ndim == 5 else {},
        )


class Scorer:
    """Scores rollouts of a model.

    Args:
        model: The model.
        metrics: Names of `worldkit.metrics.protocols.METRICS`. PSNR and SSIM always come along.
        perceptual: LPIPS network; LPIPS is scored if there is one.
        networks: ``"fvd"`` and ``"fid"`` -> features.
    Attributes:
        followed: What stands for an object in tracking: `TOKENS`, if tokens have positions that the encoder does not
            anchor to places; else what they paint, `PAINTED`.
    Raises:
        ConfigError: a metric needs one camera, or a network that is missing.
    """

    def __init__(
        self, model: ComposedWorldModel, metrics: Sequence[str], perceptual: Any,
        networks: Mapping[str, VideoFeatures | ImageFeatures],
    ):
        self.model, self.perceptual = model, perceptual
        self.track = any(name in TRACKING for name in metrics)
        self.segment = any(name in OBJECTS for name in metrics)
        self.networks = {name: networks[name] for name in SETS if name in networks}
        self.metrics = tuple(metrics)
        placed, anchored = model.spec.find("position") is not None, "position" in model.encoder.anchors()
        self.followed = TOKENS if placed and not anchored else PAINTED
        for name in SETS:
            if name in metrics and name not in networks:
                raise ConfigError(f"{name.upper()} needs networks={{'{name}': ...}}; see worldkit.metrics.video")
        if (self.track or self.segment) and model.config.obs.views > 1:
            raise ConfigError("tracking and object metrics are for one camera view; leave them out")

    def model_scores(self, rollout: Any, truth: Truth) -> Scores:
        """Scores of a rollout of the model."""
        scores: Scores = {}
        if rollout.video is not None:
            scores |= self.image_scores(flat(rollout.video).clamp(0, 1), truth)  # decoders may leave the range
        scores |= _vector_scores(rollout.vectors, truth)
        drawn = self._drawn(rollout.latents)
        if self.track:
            scores |= self._tracking(rollout.latents, drawn, truth)
        if self.segment:
            scores |= self._objects(drawn, truth)
        return scores

    def still_scores(self, truth: Truth) -> Scores:
        """Scores of predicting that nothing moves; its objects stay where they truly were in the last given frame."""
        frames = truth.video.shape[1]
        scores = self.image_scores(repeat(truth.context[:, -1], "b c h w -> b t c h w", t=frames), truth)
        newest, widths = truth.context.shape[1] - 1, self.model.config.obs.widths
        still = {name: _as_predicted(truth.vectors[name][:, newest], widths[name])
                 for name in getattr(self.model.decoder, "predicts", ()) if name in truth.vectors}
        scores |= _vector_scores({name: repeat(x, "b s -> b t s", t=frames) for name, x in still.items()}, truth)
        if self.track and truth.position is not None:
            still = repeat(truth.still, "b m xy -> b t m xy", t=frames)
            scores |= _token_scores(still, torch.ones_like(still[..., 0]), truth, self.metrics)
        if self.segment and truth.segmentation is not None:
            last = truth.segmentation[:, truth.context.shape[1] - 1]
            scores |= _object_scores(repeat(last, "b h w -> b t h w", t=frames), truth, self.metrics)
        return scores

    def encoded_scores(self, batch: Batch, truth: Truth) -> Scores:
        """Tracking scores of the model's own perception of the true frames: what a perfect prediction would score."""
        z = self.model.encode(batch)[:, truth.context.shape[1]:]
        return self._tracking(z, self._drawn(z), truth)

    def image_scores(self, video: Tensor, truth: Truth) -> Scores:
        """PSNR, SSIM and (with a network) LPIPS; nothing where there are no pictures."""
        if not video.numel():
            return {}
        return score_predictions(video, truth.video, perceptual=self.perceptual)

    def features(self, context: Tensor, video: Tensor) -> dict[str, Tensor]:
        """Features for FVD (of whole clips, given frames included) and FID (of predicted frames)."""
        found, video = {}, video.clamp(0, 1)
        if "fvd" in self.networks:
            found["fvd"] = self.networks["fvd"](torch.cat([context.clamp(0, 1), video], 1))
        if "fid" in self.networks:
            found["fid"] = self.networks["fid"](rearrange(video, "b t c h w -> (b t) c h w"))
        return found

    def _drawn(self, z: Latent) -> Any:
        """`worldkit.Decoded`, with masks, for the metrics that look at it; else None."""
        wanted = self.segment or (self.track and self.followed == PAINTED) or "med10_painted" in self.metrics
        return self.model.decode(z, masks=True) if wanted else None

    def _masks(self, drawn: Any, what: str) -> Tensor:
        """``[B, T, K, H, W]``."""
        if drawn.masks is None:
            raise ConfigError(
                f"{what} need masks, and decoder '{self.model.config.decoder.name}' draws none: leave them out"
            )
        return drawn.masks[..., 0, :, :]

    def _tracking(self, z: Latent, drawn: Any, truth: Truth) -> Scores:
        if truth.position is None:
            raise DataError("MED10 and PCK need true positions, and this data has no state 'position': leave them out")
        if self.followed == TOKENS:
            scores = _token_scores(*_tokens(z), truth, self.metrics)
            if "med10_painted" in self.metrics:
                scores |= {"painted_error": self._things(drawn, truth)[0].nanmean(-1)}
            return scores
        return _tracking_scores(*self._things(drawn, truth), truth, self.metrics)

    def _things(self, drawn: Any, truth: Truth) -> tuple[Tensor, Tensor, Tensor]:
        """Distance to what tokens paint, paired, and kept, as `track_things` gives them."""
        masks = self._masks(drawn, "MED10 and PCK of what tokens paint")
        ground = plain_ground(drawn.video) if drawn.background is None else drawn.background
        target, visible = truth.target
        return track_things(target, truth.still, painted(masks, drawn.video, ground), drawn.video, visible=visible)

    def _objects(self, drawn: Any, truth: Truth) -> Scores:
        masks = self._masks(drawn, "ARI and mIoU")
        if drawn.background_mask is None:
            labels = labels_from_masks(masks)
        else:  # it competes with the objects
            labels = labels_from_masks(torch.cat([drawn.background_mask, masks], 2), background_below=None)
        return _object_scores(labels.cpu(), truth, self.metrics)


def _as_predicted(value: Tensor, width: int) -> Tensor:
    """What was observed, ``[B, S]`` or classes ``[B]``, as a decoder would tell it."""
    return value if value.is_floating_point() else one_hot(value.clamp(min=0), width).float()


def _vector_scores(predicted: Mapping[str, Tensor], truth: Truth) -> Scores:
    """How wrong predicted vectors are: all together in symlogs, and each in its own units (of classes: the share that
    is wrong). Missing values do not count."""
    first, scores, parts = truth.context.shape[1], {}, []
    for name, value in predicted.items():
        if name not in truth.vectors:
            continue
        target = truth.vectors[name][:, first:]
        if target.is_floating_point():
            known = torch.isfinite(target)
            target = torch.where(known, target, 0)
            count = known.sum(-1).clamp(min=1)
            parts.append((_squares(symlog(value) - symlog(target), known), known.sum(-1)))
            scores[f"mse_{name}"] = _squares(value - target, known) / count
        else:
            wrong = ((value.argmax(-1) != target) & (target >= 0)).float()
            parts.append((wrong, torch.ones_like(wrong)))
            scores[f"wrong_{name}"] = wrong
    if not parts:
        return {}
    total, count = (torch.stack(x).sum(0) for x in zip(*parts, strict=True))
    return {VECTOR_ERROR: total / count.clamp(min=1), **scores}


def _squares(difference: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, difference.square(), 0).sum(-1)


def _token_scores(position: Tensor, presence: Tensor, truth: Truth, metrics: Sequence[str]) -> Scores:
    """Of tokens that stand for one object each."""
    target, visible = truth.target
    found = track_tokens(target, truth.still, position, visible=visible, presence=presence)
    return _tracking_scores(*found, truth, metrics)


def _tracking_scores(
    distance: Tensor, paired: Tensor, kept: Tensor, truth: Truth, metrics: Sequence[str]
) -> Scores:
    """Of every object: distance, kept ``[B, T, M]``, paired ``[B, M]``."""
    target, visible = truth.target
    seen = torch.ones_like(kept) if visible is None else visible
    first = seen[:, 0]
    share = (paired & first).sum(-1) / first.sum(-1).clamp(min=1)
    scores = {"tracking_error": distance.nanmean(-1)}
    if "med10_painted" in metrics:  # unless it is measured apart
        scores["painted_error"] = scores["tracking_error"]
    if "pck" in metrics:
        scores["pck"] = tracked_pck(distance, visible=visible)
    return scores | {"paired": _over_time(share, target.shape[1]),
                     "kept": (kept & seen).sum(-1).double() / seen.sum(-1)}  # NaN where nothing can be seen


def _object_scores(labels: Tensor, truth: Truth, metrics: Sequence[str]) -> Scores:
    if truth.segmentation is None:
        raise DataError("ARI and mIoU need true segments, and this data has no state 'segmentation': leave "
                        "them out, or, for Balls, add -o data.segments=true")
    target = truth.segmentation[:, truth.context.shape[1]:]
    functions = {
        "ari": lambda: adjusted_rand_index(target, labels),
        "fg_ari": lambda: adjusted_rand_index(target, labels, foreground=True),
        "miou": lambda: mean_iou(target, labels),
        "fg_ari_video": lambda: _over_time(
            adjusted_rand_index(target, labels, foreground=True, level="video"), labels.shape[1]),
    }
    return {name: function() for name, function in functions.items() if name in metrics}


def _tokens(z: Latent) -> tuple[Tensor, Tensor]:
    """Positions in (x, y), [0, 1], and presence of the tokens that have a position."""
    position, transparency = z.positions, z.get("transparency")
    assert position is not None
    presence = torch.ones_like(position[..., 0]) if transparency is None else transparency[..., 0]
    return to_unit_xy(position.cpu().double()), presence


def _over_time(value: Tensor, frames: int) -> Tensor:
    return repeat(value.double(), "b -> b t", t=frames)


def flat(video: Tensor) -> Tensor:
    """Views as further clips: ``[(B V), T, C, H, W]``."""
    return video if video.ndim == 5 else video.flatten(0, 1)
