"""Scores of predicted frames against the true ones, and the two predictions every model must beat."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor

from ..batch import check_shape, to_float_video
from ..errors import ShapeError
from . import image
from .perceptual import VGGPerceptual


def score_predictions(
    prediction: Tensor, target: Tensor, *, perceptual: VGGPerceptual | None = None
) -> dict[str, Tensor]:
    """Image metrics of every predicted frame.

    Float predictions are clamped to [0, 1] first, as the LPWM paper does. Pass predicted frames only: reconstructed
    context frames would raise the score.

    Args:
        prediction: Predicted frames, ``[B, H, C, h, w]`` (H = horizon), uint8 or float in about [0, 1].
        target: True frames of the same shape, uint8 or float in [0, 1].
        perceptual: LPIPS network of `load_lpips`, on the same device; without it there is no ``"lpips"``.
    Returns:
        ``"psnr"`` in dB, ``"ssim"``, and ``"lpips"`` if asked for: ``[B, H]`` each, float32, without gradient.
        Average PSNR over frames (the paper's reduction); do not compute it from an averaged error.
    Raises:
        ShapeError: if the shapes differ, or a range is wrong (a prediction that leaves [-0.5, 1.5], or NaN, counts as a
            wrong unit, not as something to clamp).
    Example:
        >>> clip = torch.rand(2, 5, 3, 16, 16)
        >>> {name: tuple(value.shape) for name, value in score_predictions(clip, clip).items()}
        {'psnr': (2, 5), 'ssim': (2, 5)}
    """
    sizes = check_shape(prediction, "b t c h w", name="prediction")
    check_shape(target, "b t c h w", name="target", **sizes)
    if 0 in sizes.values():
        raise ShapeError(f"prediction is empty: {list(prediction.shape)}; score at least one clip and one frame")
    x = rearrange(to_float_video(target, name="target"), "b t c h w -> (b t) c h w")
    y = rearrange(_clamped(prediction), "b t c h w -> (b t) c h w")
    with torch.no_grad():
        scores = {"psnr": image.psnr(y, x), "ssim": image.ssim(y, x)}
        if perceptual is not None:
            scores["lpips"] = image.lpips(y, x, weights=perceptual)
    return {name: rearrange(score, "(b t) -> b t", b=sizes["b"]) for name, score in scores.items()}


def copy_last_frame(context: Tensor, horizon: int) -> Tensor:
    """Baseline: nothing moves any more. The last context frame, ``horizon`` times.

    Args:
        context: Context frames, ``[B, T, C, H, W]``, any dtype.
        horizon: Number of predicted frames.
    Returns:
        ``[B, horizon, C, H, W]``, a view that must not be written to.
    Raises:
        ShapeError: if the context has no frame.
    Example:
        >>> copy_last_frame(torch.zeros(2, 4, 3, 8, 8), 10).shape
        torch.Size([2, 10, 3, 8, 8])
    """
    if check_shape(context, "b t c h w", name="context")["t"] < 1:
        raise ShapeError("context must have at least one frame to copy")
    return repeat(context[:, -1], "b c h w -> b t c h w", t=horizon)


def mean_frame(mean_image: Tensor, batch_size: int, horizon: int) -> Tensor:
    """Baseline: the mean frame of the training set, whatever the context shows.

    Args:
        mean_image: Mean over the frames of the TRAINING set, ``[C, H, W]``.
        batch_size: Number of clips.
        horizon: Number of predicted frames.
    Returns:
        ``[batch_size, horizon, C, H, W]``, a view that must not be written to.
    Example:
        >>> mean_frame(torch.zeros(3, 8, 8), batch_size=2, horizon=10).shape
        torch.Size([2, 10, 3, 8, 8])
    """
    check_shape(mean_image, "c h w", name="mean_image")
    return repeat(mean_image, "c h w -> b t c h w", b=batch_size, t=horizon)


def _clamped(prediction: Tensor) -> Tensor:
    if prediction.is_floating_point():
        low, high = torch.aminmax(prediction.detach())
        if not (low >= -0.5 and high <= 1.5):  # written so that NaN fails, too
            raise ShapeError(
                f"prediction must be in [0, 1] (or uint8), got values from {low:.4g} to {high:.4g}; "
                "bring it to [0, 1] yourself if that is intended"
            )
        return prediction.float().clamp(0, 1)
    return to_float_video(prediction, name="prediction")
