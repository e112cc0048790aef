"""Videos drawn out of nothing, held against true ones: how many things a frame shows, and how an encoder sees it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import Batch, to_float_video
from ..distributions import MEANS
from ..metrics import count_spots, frechet_distance, histogram_distance, pooled_features
from ..model import ComposedWorldModel
from ..perception import encoded
from ..progress import track


@dataclass(frozen=True)
class Frames:
    """What is known of every frame of some videos.

    Attributes:
        counts: Things it shows, int64 ``[n, T]``.
        features: As an encoder sees it, ``[n, T, D]``, on the CPU.
    """

    counts: Tensor
    features: Tensor

    def __getitem__(self, index: slice) -> Frames:
        """Some of the videos."""
        return Frames(self.counts[index], self.features[index])

    def in_units_of(self, other: Frames) -> Frames:
        """The same, every feature divided by its deviation over all frames of other videos.

        Features are of all kinds, and a Frechet distance would see those alone that vary most.
        """
        unit = other.features.flatten(0, 1).std(0)
        return Frames(self.counts, self.features / torch.where(unit > 1e-6, unit, torch.ones_like(unit)))

    def first(self, frames: int) -> Frames:
        """The first frames of all videos."""
        return Frames(self.counts[:, :frames], self.features[:, :frames])


@torch.no_grad()
def look_at(
    model: ComposedWorldModel, videos: Tensor, *, background: Tensor | None = None, batch_size: int = 8
) -> Frames:
    """Look at videos with a model's encoder.

    Features of a frame are means and deviations of every field over the tokens of a group, weighted by their presence,
    so that the order of tokens does not matter; `frechet_distance` of them is the FID on the encoder's features.

    Args:
        model: Its encoder looks; of several models that are compared, take the same for all.
        videos: ``[n, T, C, H, W]`` (``[n, V, T, ...]``; things are counted in the first view), uint8 or float.
        background: What things stand out from, see `worldkit.metrics.count_spots`.
        batch_size: Videos at a time.
    """
    device, counts, features = next(model.parameters()).device, [], []
    for part in track(videos.split(batch_size), "looking at videos"):
        part = to_float_video(part.to(device)).clamp(0, 1)
        z = encoded(model, Batch(part), MEANS).latent
        counts.append(count_spots(part[:, 0] if part.ndim == 6 else part, background).cpu())
        presence, rows = z.presence.flatten(0, 1).split([g.size for g in z.spec.groups], 1), []
        for group, weights in zip(z.spec.groups, presence, strict=True):
            tokens = torch.cat([z.values[group.name, f.name] for f in group.fields], -1).flatten(0, 1)
            rows.append(pooled_features(tokens, weights))
        features.append(torch.cat(rows, 1).unflatten(0, z.shape).cpu())
    return Frames(torch.cat(counts), torch.cat(features))


def gaussian_frames(videos: Tensor, count: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Frames drawn from a Gaussian with the mean and covariance of all pixels of some videos: what a model must beat.

    Args:
        videos: ``[n, T, C, H, W]``, uint8 or float in [0, 1]; all frames count alike.
        count: Frames to draw.
        generator: Source of randomness.
    Returns:
        ``[count, 1, C, H, W]``, float in [0, 1]: what lies beyond is clamped.
    Example:
        >>> gaussian_frames(torch.rand(5, 2, 3, 8, 8), 4).shape
        torch.Size([4, 1, 3, 8, 8])
    """
    frames = to_float_video(videos).flatten(0, 1)
    mean = frames.mean(0)
    # a sum of the frames' offsets, each times a normal number, has their covariance exactly
    weights = torch.randn(count, len(frames), generator=generator) / max(len(frames) - 1, 1) ** 0.5
    return (mean + (weights @ (frames - mean).flatten(1)).unflatten(1, mean.shape)).clamp(0, 1)[:, None]


def compare(true: Frames, drawn: Frames) -> dict[str, float]:
    """How far drawn frames are from true ones, all frames of all videos together.

    Returns:
        ``things``: mean number of them in a drawn frame; ``things, true``; ``histogram``: total variation of the
        numbers of things; ``fid``: Frechet distance of the features.
    """
    return {
        "things": drawn.counts.double().mean().item(), "things, true": true.counts.double().mean().item(),
        "histogram": histogram_distance(true.counts, drawn.counts),
        "fid": frechet_distance(true.features.flatten(0, 1), drawn.features.flatten(0, 1)),
    }
