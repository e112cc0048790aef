"""Points followed through true and predicted video: the share that stays near (PCK@k, in pixels), and what can be seen.

A tracker takes video and first places, and gives their places in every frame. CoTracker is what semantic-wm uses; its
weights do not come with worldkit, and anything that is called alike will do. `MatchTracker` needs no weights: it looks
for what a point looked like nearby, frame by frame.

Also its picture scores, which are others than `worldkit.metrics.image`'s: pictures are cut down to 256 levels, and SSIM
has a flat window.

Source: semantic-wm (arXiv:2605.06388), written from a description of the facts; the tracker is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..batch import check_shape
from ..errors import ShapeError

PointTracker = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(video ``[B, T, C, H, W]`` in [0, 1], places (x, y) in frame 0 in pixels ``[B, M, 2]``) -> places ``[B, T, M, 2]``,
and whether points can be seen, bool ``[B, T, M]``."""
MARGIN, PIXELS = 0.02, (5, 10, 20, 40)
"""Share of the longer side that query points stay away from the border; thresholds, for pictures of 256 pixels."""


def query_grid(height: int, width: int, rows: int = 16) -> Tensor:
    """Places (x, y) of ``rows`` x ``rows`` points, row by row, ``[rows^2, 2]`` in pixels.

    Example:
        >>> query_grid(50, 100, 2).tolist()
        [[2.0, 2.0], [98.0, 2.0], [2.0, 48.0], [98.0, 48.0]]
    """
    edge = MARGIN * max(height, width)
    y, x = (torch.linspace(edge, side - edge, rows) for side in (height, width))
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).flatten(0, 1)


def point_pck(truth: Tensor, found: Tensor, seen: Tensor, threshold: float) -> Tensor:
    """Share of the points that can be seen which are nearer than ``threshold`` pixels: ``[B, T]``, NaN without one.

    Args:
        truth, found: Places ``[B, T, M, 2]``.
        seen: Points that can be seen in both videos, bool ``[B, T, M]``.
        threshold: Pixels.
    Example:
        >>> a, seen = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, dtype=torch.bool)
        >>> point_pck(a, a + torch.tensor([[3.0, 0.0], [6.0, 0.0]]), seen, 5.0).item()
        0.5
    """
    sizes = check_shape(truth, "b t m xy", name="truth", xy=2)
    check_shape(found, "b t m xy", name="found", **sizes)
    near = (truth - found).double().square().sum(-1).sqrt() < threshold
    return (near & seen).sum(-1) / seen.sum(-1).double()


def coverage(seen: Tensor) -> Tensor:
    """Share of the points that can be seen in both videos, bool ``[B, T, M]`` -> ``[B, T]``; as upstream NaN, and not
    0, where there is none.

    Example:
        >>> coverage(torch.tensor([[[True, False], [False, False]]])).tolist()
        [[0.5, nan]]
    """
    share = seen.double().mean(-1)
    return torch.where(share > 0, share, torch.nan)


@dataclass(frozen=True)
class MatchTracker:
    """Follows points by how their surroundings looked in frame 0, in the place nearby where they look most alike.

    Attributes:
        side: Of the surroundings, odd, pixels.
        reach: Pixels that a point may move between two frames, along each axis.
        limit: Mean squared difference of colours in [0, 1] above which a point cannot be seen.
    Example:
        >>> video = torch.zeros(1, 2, 3, 12, 12)
        >>> video[0, 0, :, 4:6, 4:6], video[0, 1, :, 5:7, 6:8] = 1.0, 1.0
        >>> tracks, seen = MatchTracker(side=5, reach=3)(video, torch.tensor([[[4.0, 4.0]]]))
        >>> tracks[0, :, 0].tolist()
        [[4.0, 4.0], [6.0, 5.0]]
    """

    side: int = 7
    reach: int = 4
    limit: float = 0.03

    def __call__(self, video: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        sizes = check_shape(video, "b t c h w", name="video")
        check_shape(queries, "b m xy", name="queries", b=sizes["b"], xy=2)
        at = queries.round()
        looks = self._around(video[:, 0], at, 0)[:, :, 0]
        tracks, seen = [at], [torch.ones(at.shape[:2], dtype=torch.bool, device=video.device)]
        span = torch.arange(-self.reach, self.reach + 1, device=video.device)
        moves = torch.stack(torch.meshgrid(span, span, indexing="ij")[::-1], -1).flatten(0, 1).to(video)
        order = moves.square().sum(-1).argsort(stable=True)  # of equals the nearest wins
        moves = moves[order]
        for frame in video.unbind(1)[1:]:
            off = (self._around(frame, at, self.reach)[:, :, order] - looks[:, :, None]).square().mean(-1)
            best, which = off.min(2)
            at = at + moves[which]
            inside = (at >= 0).all(-1) & (at[..., 0] < sizes["w"]) & (at[..., 1] < sizes["h"])
            tracks.append(at)
            seen.append((best < self.limit) & inside)
        return torch.stack(tracks, 1), torch.stack(seen, 1)

    def _around(self, frame: Tensor, at: Tensor, reach: int) -> Tensor:
        """What points ``[B, M, 2]`` look like at every move up to ``reach``: ``[B, M, moves, side^2 C]``."""
        half = self.side // 2
        edge = half + reach + 1
        padded = F.pad(frame, (edge,) * 4, mode="replicate")
        size = torch.tensor([frame.shape[-1], frame.shape[-2]], device=frame.device)
        corner = torch.minimum(at.clamp(min=0).long(), size - 1) + 1  # of the whole window, in padded pixels
        wide = 2 * (half + reach) + 1
        steps = torch.arange(wide, device=frame.device)
        rows, columns = corner[..., 1, None] + steps, corner[..., 0, None] + steps
        clips = torch.arange(len(frame), device=frame.device)[:, None, None, None]
        window = padded.movedim(1, -1)[clips, rows[..., :, None], columns[..., None, :]]  # [B, M, wide, wide, C]
        window = rearrange(window, "b m h w c -> (b m) c h w")
        parts = F.unfold(window, self.side)
        return rearrange(parts, "(b m) k n -> b m n k", b=len(frame))


def level_psnr(x: Tensor, y: Tensor) -> Tensor:
    """PSNR in dB of pictures ``[..., C, H, W]`` in [0, 1] that are cut down to 256 levels; 100 where they are equal.

    Example:
        >>> round(level_psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.1)).item(), 3)
        20.172
    """
    squared = (_levels(x) - _levels(y)).square().mean((-1, -2, -3)) / 255**2
    return torch.where(squared == 0, 100.0, -10 * torch.log10(squared))


def flat_ssim(x: Tensor, y: Tensor, *, grey: bool = False, window: int = 7) -> Tensor:
    """SSIM of pictures ``[..., C, H, W]`` in [0, 1] that are cut down to 256 levels, in flat windows: ``[...]``.

    Args:
        x, y: Pictures.
        grey: Of the mean over channels; else the mean of all channels' SSIM.
        window: Its side.
    Raises:
        ShapeError: pictures are smaller than the window.
    Example:
        >>> x = torch.rand(2, 3, 8, 8)
        >>> flat_ssim(x, x).tolist()
        [1.0, 1.0]
    """
    if min(x.shape[-2:]) < window:
        raise ShapeError(f"SSIM in windows of {window} pixels needs pictures of as many, got {list(x.shape[-2:])}")
    x, y = (_levels(z).mean(-3, keepdim=True) if grey else _levels(z) for z in (x, y))
    shape, sample = x.shape, window**2 / (window**2 - 1)

    def mean(z: Tensor) -> Tensor:
        return F.avg_pool2d(z.reshape(-1, 1, *shape[-2:]), window, stride=1)

    mx, my = mean(x), mean(y)
    vx, vy, both = (sample * (mean(a * b) - ma * mb)
                    for a, b, ma, mb in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my)))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = (2 * mx * my + c1) * (2 * both + c2) / ((mx.square() + my.square() + c1) * (vx + vy + c2))
    return found.mean((-1, -2)).view(*shape[:-3], -1).mean(-1)


def _levels(x: Tensor) -> Tensor:
    return (255 * x.clamp(0, 1)).to(torch.uint8).to(torch.promote_types(x.dtype, torch.float32))
