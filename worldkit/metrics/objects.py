"""How well predicted segments are the true objects: adjusted Rand index and mean IoU, per frame or per video.

Ground truth is a label map: 0 is the background, every other number an object, the same number in all frames of a
video. Predictions are label maps of any numbers; `labels_from_masks` makes them from soft masks.

Rules for what is missing, so that a number means the same everywhere:

- Numbers that occur nowhere count nothing, whatever their size: no class is dropped or added by the largest number.
- The Rand index without pairs to tell apart (no foreground at all, one object matched by one segment) is 1, as in SAVi.
- Mean IoU without a true object is NaN: leave such frames out of a mean.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from ..batch import check_shape
from ..errors import ShapeError

Level = Literal["image", "video"]
"""``"image"``: every frame alone. ``"video"``: all frames of a clip as one picture, so identities must last."""


def labels_from_masks(masks: Tensor, *, background_below: float | None = 0.5) -> Tensor:
    """Soft masks of segments to a label map.

    A pixel goes to the segment with the largest mask, except (SlotFormer's rule) where no mask reaches
    ``background_below``: there it goes to the background, which is the segment whose mask peaks lowest in that frame.

    Args:
        masks: Share of each of N segments in every pixel, ``[B, T, N, H, W]``.
        background_below: The threshold; None takes the largest mask everywhere.
    Returns:
        Index of the segment, int64 ``[B, T, H, W]``.
    Source:
        SlotFormer (Wu et al. 2023), the evaluation of its video prediction; threshold 0.5.
    Example:
        >>> masks = torch.tensor([[0.9, 0.4], [0.1, 0.45], [0.0, 0.15]])  # three segments, two pixels
        >>> labels_from_masks(masks.reshape(1, 1, 3, 1, 2)).flatten().tolist()
        [0, 2]
        >>> labels_from_masks(masks.reshape(1, 1, 3, 1, 2), background_below=None).flatten().tolist()
        [0, 1]
    """
    if check_shape(masks, "b t n h w", name="masks")["n"] == 0:
        raise ShapeError("masks must hold at least one segment")
    best, labels = masks.max(2)
    if background_below is None:
        return labels
    background = masks.amax((-2, -1)).argmin(2)  # [B, T]
    return torch.where(best < background_below, rearrange(background, "b t -> b t 1 1"), labels)


def labels_from_objects(masks: Tensor) -> Tensor:
    """True object masks to a label map: 0 where there is no object, k + 1 where object k is.

    Args:
        masks: bool or 0/1, ``[B, T, N, H, W]``; objects must not overlap. An object that a frame does not show has an
            empty mask there.
    Returns:
        int64 ``[B, T, H, W]``.
    Raises:
        ShapeError: if masks overlap.
    """
    check_shape(masks, "b t n h w", name="masks")
    present = masks > 0.5
    if (present.sum(2) > 1).any():
        raise ShapeError("true object masks overlap; give the visible part of each object only")
    numbers = rearrange(torch.arange(1, masks.shape[2] + 1, device=masks.device), "n -> n 1 1")
    return (present * numbers).sum(2)


def adjusted_rand_index(
    truth: Tensor, prediction: Tensor, *, foreground: bool = False, level: Level = "image"
) -> Tensor:
    r"""Adjusted Rand index (ARI) of two segmentations: 1 for the same segments, about 0 for chance.

    .. math:: \frac{\sum_{ij} \binom{n_{ij}}{2} - E}{\frac12 [\sum_i \binom{a_i}{2} + \sum_j \binom{b_j}{2}] - E},
        \quad E = \frac{\sum_i \binom{a_i}{2} \sum_j \binom{b_j}{2}}{\binom{n}{2}}

    with n_ij pixels in true segment i and predicted segment j, and row and column sums a and b.

    Args:
        truth: True labels, whole numbers ``[B, T, H, W]``, 0 = background.
        prediction: Predicted labels, whole numbers of the same shape; the numbers themselves mean nothing.
        foreground: FG-ARI: count only pixels of true objects. It does not notice a segment that spills into the
            background: report mean IoU beside it.
        level: ``"image"`` or ``"video"``; their numbers cannot be compared.
    Returns:
        float64, ``[B, T]`` for images, ``[B]`` for videos. 1 where the denominator is 0.
    Raises:
        ShapeError: if the shapes differ or labels are not whole numbers.
    Source:
        Hubert and Arabie 1985; SAVi (Kipf et al. 2022) for the foreground variant and the rule for 0 / 0.
    Example:
        >>> truth = torch.tensor([[[[0, 0, 1, 1]]]])
        >>> adjusted_rand_index(truth, 7 - truth).item()
        1.0
    """
    table, _ = _contingency(truth, prediction, level, foreground=foreground)
    rows, columns, total = table.sum(2), table.sum(1), table.sum((1, 2))
    pairs = _pairs(table).sum((1, 2))
    true_pairs, predicted_pairs = _pairs(rows).sum(1), _pairs(columns).sum(1)
    expected = true_pairs * predicted_pairs / _pairs(total).clamp(min=1)
    denominator = (true_pairs + predicted_pairs) / 2 - expected
    score = torch.where(denominator == 0, 1.0, (pairs - expected) / denominator.where(denominator != 0, 1.0))
    return score if level == "video" else rearrange(score, "(b t) -> b t", b=truth.shape[0])


def mean_iou(truth: Tensor, prediction: Tensor, *, level: Level = "image") -> Tensor:
    """Mean intersection over union of the true objects, each with the predicted segment it is matched with.

    The matching (Hungarian) makes the sum of the IoUs as large as possible; every segment serves one object at most. An
    object that gets none counts 0. The background is no object, but a predicted background may be matched.

    Args:
        truth: True labels, whole numbers ``[B, T, H, W]``, 0 = background.
        prediction: Predicted labels, whole numbers of the same shape.
        level: ``"image"`` or ``"video"``.
    Returns:
        float64 in [0, 1], ``[B, T]`` for images, ``[B]`` for videos; NaN where there is no true object.
    Raises:
        ShapeError: if the shapes differ or labels are not whole numbers.
    Source:
        SlotFormer's FG-mIoU as corrected in September 2023 (the union there lacked "minus intersection" before, so the
        paper's 29.81 became 49.42).
    Example:
        >>> truth = torch.tensor([[[[0, 0, 1, 1]]]])
        >>> mean_iou(truth, torch.tensor([[[[5, 3, 3, 3]]]])).item()  # 2 of 3 pixels
        0.6666666666666666
    """
    from scipy.optimize import linear_sum_assignment

    table, ids = _contingency(truth, prediction, level)
    union = table.sum(2, keepdim=True) + table.sum(1, keepdim=True) - table
    iou = torch.where(union > 0, table / union.clamp(min=1), 0.0)
    is_object = (table.sum(2) > 0) & (ids != 0)
    scores = []
    for values, rows in zip(iou.cpu(), is_object.cpu(), strict=True):
        own = values[rows].numpy()
        matched = own[linear_sum_assignment(own, maximize=True)].sum() if len(own) else 0.0
        scores.append(matched / len(own) if len(own) else float("nan"))
    score = torch.tensor(scores, dtype=torch.float64)
    return score if level == "video" else rearrange(score, "(b t) -> b t", b=truth.shape[0])


def _contingency(
    truth: Tensor, prediction: Tensor, level: Level, *, foreground: bool = False
) -> tuple[Tensor, Tensor]:
    """Pixels per true and predicted segment, float64 ``[S, I, J]``, and the true numbers behind the rows, ``[I]``."""
    sizes = check_shape(truth, "b t h w", name="truth")
    check_shape(prediction, "b t h w", name="prediction", **sizes)
    for labels, name in ((truth, "truth"), (prediction, "prediction")):
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise ShapeError(f"{name} must hold labels as whole numbers, got {labels.dtype}; see labels_from_masks")
    if level not in ("image", "video"):
        raise ShapeError(f"level must be 'image' or 'video', got {level!r}")
    pattern = "b t h w -> (b t) (h w)" if level == "image" else "b t h w -> b (t h w)"
    truth, prediction = rearrange(truth, pattern), rearrange(prediction, pattern)
    ids, row = truth.unique(return_inverse=True)
    others, column = prediction.unique(return_inverse=True)
    samples, shape = len(truth), (len(truth), len(ids), len(others))
    sample = rearrange(torch.arange(samples, device=truth.device), "s -> s 1")
    index = (sample * shape[1] + row) * shape[2] + column
    counted = index[truth != 0] if foreground else index.flatten()
    return counted.bincount(minlength=samples * shape[1] * shape[2]).double().unflatten(0, shape), ids


def _pairs(count: Tensor) -> Tensor:
    return count * (count - 1) / 2
