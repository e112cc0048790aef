"""How far predicted objects are from the true ones: MED10 on Balls, and the share of correct keypoints (PCK).

Positions are (x, y) in [0, 1] of the image here, as in the papers; `to_unit_xy` brings the library's own (y, x) in
[-1, 1] there. Distances are Euclidean in these units: 0.1 is a tenth of the side of a square image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch import check_shape
from ..errors import DataError, ShapeError

MED_STEPS = 10
"""Predicted frames that MED10 adds up."""


def to_unit_xy(position: Tensor) -> Tensor:
    """(y, x) in [-1, 1] to (x, y) in [0, 1], any shape ``[..., 2]``.

    Example:
        >>> to_unit_xy(torch.tensor([-1.0, 0.0])).tolist()
        [0.5, 0.0]
    """
    return (position.flip(-1) + 1) / 2


def match_objects(truth: Tensor, prediction: Tensor, *, valid: Tensor, present: Tensor) -> Tensor:
    """Pair objects with predictions in one frame so that the sum of squared distances is smallest.

    Args:
        truth: True positions, ``[M, 2]`` in (x, y), [0, 1].
        prediction: Predicted positions, ``[K, 2]``, the same units.
        valid: Objects that count, bool ``[M]``.
        present: Predictions that count, bool ``[K]``.
    Returns:
        Index of the prediction for every object, int64 ``[M]``; -1 for none: the object does not count, there are too
        few predictions, or the nearest free one is farther than 1.
    Example:
        >>> truth, ones = torch.tensor([[0.1, 0.1], [0.9, 0.9]]), torch.ones(2, dtype=torch.bool)
        >>> match_objects(truth, truth.flip(0), valid=ones, present=ones).tolist()
        [1, 0]
    """
    from scipy.optimize import linear_sum_assignment

    squared = (truth[:, None] - prediction[None]).square().sum(-1)
    allowed = valid[:, None] & present[None] & (squared <= 1)
    cost = squared.where(allowed, 1e6)  # far above any sum of allowed pairs
    chosen = torch.full((len(truth),), -1, dtype=torch.int64)
    for i, k in zip(*linear_sum_assignment(cost.cpu().numpy()), strict=True):
        if allowed[i, k]:
            chosen[i] = int(k)
    return chosen


def track(
    truth: Tensor, prediction: Tensor, *, visible: Tensor | None = None, presence: Tensor | None = None,
    threshold: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Distance of every object to the prediction it was paired with in the first frame.

    The pairing (`match_objects`) is made in the first frame and then frozen: a prediction that runs away costs, even
    if another one takes its place. So token k must be the same thing in all frames.

    Args:
        truth: True positions in the predicted frames, ``[B, T, M, 2]`` in (x, y), [0, 1].
        prediction: Predicted positions, ``[B, T, K, 2]``, the same units; index 0 is the first predicted frame.
        visible: Objects that can be seen, bool ``[B, T, M]``; default: all. Hidden ones are not paired, and have no
            distance while they are hidden.
        presence: How much a prediction is there, ``[B, T, K]`` in [0, 1] (LPWM: transparency); default: 1.
        threshold: A prediction counts where its presence is above this.
    Returns:
        (distances ``[B, T, M]``, NaN where there is none; paired, bool ``[B, M]``). The distance is also NaN where a
        paired prediction is not present.
    Raises:
        ShapeError: if shapes do not fit.
        DataError: if a position is NaN or infinite.
    """
    distance, paired, there = _follow(truth, prediction, visible, presence, threshold)
    return distance.where(there, torch.nan), paired


def track_tokens(
    truth: Tensor, still: Tensor, prediction: Tensor, *, visible: Tensor | None = None,
    presence: Tensor | None = None, threshold: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `track`, without a way to gain by hiding: an object without a token is as far off as one that stands still.

    Presence counts where pairs are made; a token that fades later is where it says it is (G-SWM holds presence at 1).

    Args:
        truth, prediction, visible, presence, threshold: As for `track`.
        still: Where the objects truly were in the last given frame, ``[B, M, 2]``.
    Returns:
        As `worldkit.metrics.track_things`: (distances ``[B, T, M]``, NaN of hidden objects; paired, bool ``[B, M]``;
        kept, bool ``[B, T, M]``: paired, and the token present in this frame).
    Example:
        >>> truth, gone = torch.full((1, 10, 1, 2), 0.5), torch.zeros(1, 10, 2)
        >>> track_tokens(truth, truth[:, 0] - 0.1, truth.repeat(1, 1, 2, 1), presence=gone)[0].mean().item() > 0.1
        True
    """
    sizes = check_shape(truth, "b t m xy", name="truth", xy=2)
    check_shape(still, "b m xy", name="still", b=sizes["b"], m=sizes["m"], xy=2)
    distance, paired, there = _follow(truth, prediction, visible, presence, threshold)
    nothing = (still[:, None] - truth).double().cpu().norm(dim=-1)
    seen = torch.ones_like(there) if visible is None else visible.cpu().bool()
    return distance.where(paired[:, None], nothing).where(seen, torch.nan), paired, there


def _follow(
    truth: Tensor, prediction: Tensor, visible: Tensor | None, presence: Tensor | None, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of every object: distance to the prediction it is paired with; paired at all; both there, ``[B, T, M]``."""
    sizes = check_shape(truth, "b t m xy", name="truth", xy=2)
    b, t, m = sizes["b"], sizes["t"], sizes["m"]
    k = check_shape(prediction, "b t k xy", name="prediction", b=b, t=t, xy=2)["k"]
    if 0 in (b, t):
        raise ShapeError(f"truth is empty: {list(truth.shape)}; give at least one clip and one frame")
    for value, name in ((truth, "true"), (prediction, "predicted")):
        if not value.isfinite().all():
            raise DataError(f"a {name} position is NaN or infinite")
    truth, prediction = truth.double().cpu(), prediction.double().cpu()
    visible = torch.ones(b, t, m, dtype=torch.bool) if visible is None else visible.cpu().bool()
    presence = torch.ones(b, t, k) if presence is None else presence.cpu()
    check_shape(visible, "b t m", name="visible", b=b, t=t, m=m)
    check_shape(presence, "b t k", name="presence", b=b, t=t, k=k)
    present = presence > threshold
    chosen = torch.stack([
        match_objects(truth[i, 0], prediction[i, 0], valid=visible[i, 0], present=present[i, 0]) for i in range(b)
    ])
    paired, index = chosen >= 0, chosen.clamp(min=0)
    clip = torch.arange(b)[:, None]
    own = prediction.transpose(1, 2)[clip, index].transpose(1, 2)  # [B, T, M, 2]
    there = present.transpose(1, 2)[clip, index].transpose(1, 2)
    distance = (own - truth).square().sum(-1).sqrt()
    return distance, paired, paired[:, None] & visible & there


def tracking_error(
    truth: Tensor, prediction: Tensor, *, visible: Tensor | None = None, presence: Tensor | None = None,
    threshold: float = 0.5,
) -> Tensor:
    """Mean distance of the paired objects per frame; arguments as for `track`.

    Returns:
        ``[B, T]``. NaN in a frame in which a paired prediction is not present, no paired object can be seen, or nothing
        was paired in the first frame (G-SWM's rule).
    Example:
        >>> truth = torch.rand(2, 10, 3, 2)
        >>> tracking_error(truth, truth[:, :, [2, 0, 1]]).max().item()
        0.0
    """
    distance, paired = track(
        truth, prediction, visible=visible, presence=presence, threshold=threshold
    )
    seen = torch.ones_like(distance, dtype=torch.bool) if visible is None else visible.cpu().bool()
    lost = (paired[:, None] & seen & distance.isnan()).any(-1)
    return distance.nanmean(-1).masked_fill(lost, torch.nan)


def med10(errors: Tensor) -> float:
    """MED10: mean tracking error over clips in every predicted frame, summed over the first ten; lower is better.

    Args:
        errors: `tracking_error` of every clip, ``[n, T]`` with T >= 10; NaN entries are left out of their frame's mean.
    Returns:
        The sum, in sides of the image; NaN if a frame has no number at all.
    Raises:
        ShapeError: if there are fewer than ten predicted frames.
    Source:
        G-SWM (Lin et al. 2020): ten frames given, positions in [0, 1], pairing by squared distance at the first
        predicted frame, presence above 0.5. The DDLP paper reports G-SWM 0.256 and DDLP 0.149 on Balls-Interaction;
        DDLP's own threshold is not published.
    Example:
        >>> round(med10(torch.full((4, 12), 0.02)), 6)
        0.2
    """
    steps = check_shape(errors, "n t", name="errors")["t"]
    if steps < MED_STEPS:
        raise ShapeError(f"MED10 needs {MED_STEPS} predicted frames, got {steps}: predict at least {MED_STEPS}")
    return errors[:, :MED_STEPS].double().nanmean(0).sum().item()


def pck(
    truth: Tensor, prediction: Tensor, *, alpha: float = 0.1, visible: Tensor | None = None
) -> Tensor:
    """Share of correct keypoints: those within ``alpha`` image sides of the truth; higher is better.

    Args:
        truth: True positions, ``[B, T, M, 2]`` in (x, y), [0, 1].
        prediction: Predicted positions of the same points, ``[B, T, M, 2]``; NaN for a point that was not found, which
            is not correct.
        alpha: Largest distance that is correct, in image sides.
        visible: Points that count, bool ``[B, T, M]``; default: all.
    Returns:
        ``[B, T]`` in [0, 1]; NaN in a frame without a visible point.
    Raises:
        ShapeError: if the shapes differ or alpha is not positive.
    Source:
        Yang and Ramanan 2013, with the image side as the reference length.
    Example:
        >>> pck(torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.05, 0.0], [0.5, 0.5]]]])).item()
        0.5
    """
    sizes = check_shape(truth, "b t m xy", name="truth", xy=2)
    check_shape(prediction, "b t m xy", name="prediction", **sizes)
    if alpha <= 0:
        raise ShapeError(f"alpha must be positive, got {alpha}")
    distance = (truth - prediction).double().square().sum(-1).sqrt()
    counted = torch.ones_like(distance) if visible is None else visible.double()
    return ((distance <= alpha) * counted).sum(-1) / counted.sum(-1)  # NaN compares as not correct


def tracked_pck(distance: Tensor, *, alpha: float = 0.1, visible: Tensor | None = None) -> Tensor:
    """`pck` of the distances of `track`: an object that was never paired, or whose prediction is gone, is not correct.

    Args:
        distance: ``[B, T, M]``, NaN where there is none.
        alpha: Largest distance that is correct, in image sides.
        visible: Objects that count, bool ``[B, T, M]``; default: all.
    """
    offset = torch.stack([distance, torch.zeros_like(distance)], -1)
    return pck(torch.zeros_like(offset), offset, alpha=alpha, visible=visible)
