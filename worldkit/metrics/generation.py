"""Numbers for videos that were drawn out of nothing: there is no truth for a frame, only for all frames together.

What a frame shows is put into numbers (how many things, pooled features of an encoder), and the numbers of drawn frames
are held against those of true ones. A distance between two halves of the true frames says how near is near.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import check_shape
from ..errors import ShapeError

LEAST_AREA = 0.01
"""Smaller spots, as a share of the picture, are no things."""


def count_spots(
    video: Tensor, background: Tensor | None = None, *, threshold: float = 0.5, least_area: float = LEAST_AREA
) -> Tensor:
    """How many things every picture shows: connected spots of one colour that stand out from the background.

    Colours are told apart by which channels are bright. Things of one colour that touch are one thing.

    Args:
        video: ``[..., C, H, W]``, float in about [0, 1]; C at most 8.
        background: ``[C, H, W]``; None: black.
        threshold: A pixel belongs to a thing if a channel differs by more than this from the background; a channel is
            bright above it.
        least_area: Smaller spots, as a share of the picture, are left out.
    Returns:
        int64 ``[...]``.
    Raises:
        ShapeError: whole numbers, other shapes, or too many channels.
    Example:
        >>> picture = torch.zeros(3, 16, 16)
        >>> picture[0, 2:6, 2:6] = picture[0, 9:14, 9:14] = picture[2, 2:6, 6:10] = 1  # two red ones, a blue one
        >>> count_spots(picture).item()
        3
    """
    if not video.is_floating_point() or video.ndim < 3 or video.shape[-3] > 8:
        raise ShapeError(f"video must be float [..., C, H, W] with C at most 8, got {video.dtype} {list(video.shape)}")
    channels, height, width = video.shape[-3:]
    if background is not None:
        check_shape(background, "c h w", name="background", c=channels, h=height, w=width)
    pictures = video.reshape(-1, channels, height, width)
    apart = (pictures - (0 if background is None else background)).abs().amax(1, keepdim=True) > threshold
    code = ((pictures > threshold).long() * 2 ** torch.arange(channels, device=video.device)[:, None, None]).sum(1)
    counts = [_spots(foreground[0], colour, least_area) for foreground, colour in zip(apart, code, strict=True)]
    return torch.tensor(counts, device=video.device).reshape(video.shape[:-3])


def _spots(foreground: Tensor, colour: Tensor, least_area: float) -> int:
    """Connected spots of one picture; every pixel takes the highest number of its spot, step by step."""
    colours = colour[foreground].unique()
    if not len(colours):
        return 0
    masks = (foreground & (colour == colours[:, None, None])).float()[:, None]  # [K, 1, H, W]
    labels = torch.arange(1, foreground.numel() + 1, dtype=torch.float32, device=masks.device)
    labels = labels.reshape(foreground.shape) * masks
    while True:
        spread = F.max_pool2d(labels, 3, 1, 1) * masks
        if torch.equal(spread, labels):
            break
        labels = spread
    return sum(int((row[row > 0].unique(return_counts=True)[1] >= least_area * foreground.numel()).sum())
               for row in labels.flatten(1))


def pooled_features(tokens: Tensor, weights: Tensor) -> Tensor:
    """One vector per frame from a set of tokens, whatever their order: weighted means and deviations.

    Args:
        tokens: ``[n, N, D]``.
        weights: How much every token is present, ``[n, N]``, at least 0.
    Returns:
        ``[n, 2 D + 1]``: means, deviations, and the sum of the weights.
    Example:
        >>> pooled_features(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1.0, 1.0, 0.0]])).tolist()
        [[2.0, 1.0, 2.0]]
    """
    sizes = check_shape(tokens, "n k d", name="tokens")
    check_shape(weights, "n k", name="weights", n=sizes["n"], k=sizes["k"])
    total = weights.sum(1, keepdim=True)
    share = (weights / total.clamp(min=1e-6))[..., None]
    mean = (share * tokens).sum(1)
    spread = (share * (tokens - mean[:, None]).square()).sum(1).sqrt()
    return torch.cat([mean, spread, total], 1)


def histogram_distance(first: Tensor, second: Tensor) -> float:
    """Total variation of two sets of whole numbers: 0 if every number is as frequent in both, 1 if none is in both.

    Args:
        first, second: int64, any shape, at least 0.
    Example:
        >>> histogram_distance(torch.tensor([3, 3, 3, 2]), torch.tensor([3, 3]))
        0.25
    """
    if not first.numel() or not second.numel():
        raise ShapeError("a distance of histograms needs at least one number on either side")
    most = int(max(first.max(), second.max())) + 1
    shares = [torch.bincount(x.flatten(), minlength=most).double() / x.numel() for x in (first, second)]
    return 0.5 * (shares[0] - shares[1]).abs().sum().item()
