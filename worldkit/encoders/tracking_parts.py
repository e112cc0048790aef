"""Parts of the tracking encoder: what it finds on the way, the first frame's anchors, and the sizes that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..config import ObsSpec
from ..distributions import Beta, Normal, Sampler
from ..errors import ConfigError
from ..nn.conv_relu import DownStack
from ..nn.glimpse import crop, glimpse_side
from ..nn.glimpse_encoder import ProposalMixer
from ..nn.keypoints import PatchKeypoints
from ..nn.stages import Stage

Select = Literal["variance", "distance", "random", "mixer"]
PATCH_CHANNELS = 1


@dataclass(frozen=True)
class TrackingAux:
    """By-products of encoding; ``R = B * V`` clips of ``T`` frames, ``K`` particles, ``L`` proposals.

    Attributes:
        base: Where particles are before the offset, ``[R, T, K, 2]``: the refined anchor of a first frame, later the
            position of the frame before.
        anchors: The same with the gradient that `base` does not have in the warm-up.
        offset: Offset parameters ``[mean, logvar]``, ``[R, T, K, 4]``.
        proposals: Keypoint proposals that were kept, best first, ``[R, F, L, 2]``: of every frame of single images,
            else of the first ``proposal_frames``.
        proposal_variance: Their (var y, var x, cov) in patch units, ``[R, F, L, 3]``.
        glimpses: Crops that the features were read from, ``[R, T, K, C, P, P]``.
        background_mask: What the background encoder saw, ``[R * T, 1, H, W]``.
        stage: The stage it was encoded in.
    """

    base: Tensor
    anchors: Tensor
    offset: Tensor
    proposals: Tensor
    proposal_variance: Tensor
    glimpses: Tensor
    background_mask: Tensor
    stage: Stage


@dataclass(frozen=True)
class Attributes:
    """Parameters read from one glimpse per particle, ``[..., K, .]``: [mean, logvar], and [a, b] of a Beta."""

    offset: Tensor
    scale: Tensor
    depth: Tensor
    transparency: Tensor

    WIDTH = 12

    @classmethod
    def read(cls, raw: Tensor, beta: Beta) -> Attributes:
        """Network output ``[..., K, 12]`` -> parameters; offsets stay in (-1, 1), ``a`` and ``b`` above the floor."""
        mean, logvar, scale, depth, counts = raw.split([2, 2, 4, 2, 2], -1)
        return cls(Normal.pack(torch.tanh(mean), logvar), scale, depth, beta.from_raw(counts).clamp(min=beta.floor))


class Anchors(nn.Module):
    """Images -> keypoint proposals and, chosen among them or mixed of them, the places where particles start.

    Args:
        obs: The images.
        patch_size: Side of the patches that propose, pixels.
        select: See `ParticleTrackingEncoderConfig`.
        num_proposals: How many are kept; all, for the mixer.
        num_particles: How many anchors come out.
        channels: Widths of the stacks' levels.
        glimpse: Side of the mixer's glimpses in pixels.
        width: Of the mixer.
        lost_layers: See `worldkit.nn.conv_relu`.
    """

    def __init__(self, *, obs: ObsSpec, patch_size: int, select: Select, num_proposals: int, num_particles: int,
                 channels: Sequence[int], glimpse: int, width: int, lost_layers: bool):
        super().__init__()
        size = (obs.height, obs.width)
        cnn = DownStack(obs.channels, channels, PATCH_CHANNELS, lost_layers=lost_layers)
        self.keypoints = PatchKeypoints(cnn, size=size, patch_size=patch_size, per_patch=PATCH_CHANNELS)
        self.select, self.num_particles, self.glimpse = select, num_particles, glimpse
        count = self.keypoints.num_proposals
        self.num_proposals = count if select == "mixer" else min(count, num_proposals)
        self.mixer = None
        if select == "mixer":
            self.mixer = ProposalMixer(inputs=obs.channels, side=glimpse, channels=channels, lost_layers=lost_layers,
                                       proposals=count, particles=num_particles, width=width)

    def propose(self, image: Tensor, sampler: Sampler) -> tuple[Tensor, Tensor]:
        """Kept proposals ``[M, L, 2]``, best first, and their variances ``[M, L, 3]`` of images ``[M, C, H, W]``."""
        places, variance = self.keypoints(image)
        if self.select == "mixer":
            return places, variance
        index = self._badness(places, variance, sampler).argsort(dim=1, stable=True)[:, : self.num_proposals, None]
        return tuple(x.gather(1, index.expand(-1, -1, x.shape[-1])) for x in (places, variance))  # type: ignore

    def _badness(self, places: Tensor, variance: Tensor, sampler: Sampler) -> Tensor:
        """What proposals ``[M, N]`` are sorted by."""
        if self.select == "variance":
            return variance.sum(-1)
        if self.select == "random":
            return sampler.uniform("proposals", variance[..., 0])
        return -(places - self.middles).square().sum(-1)

    @property
    def middles(self) -> Tensor:
        """Middles of the patches, ``[N, 2]`` (y, x) in [-1, 1]."""
        return self.keypoints.in_image(self.keypoints.corners + (self.keypoints.patch_size - 1) / 2)

    def start(self, image: Tensor, proposals: Tensor) -> Tensor:
        """Anchors ``[M, K, 2]`` among an image's proposals."""
        if self.mixer is None:
            return proposals[:, : self.num_particles]
        ratio = proposals.new_tensor([self.glimpse / side for side in image.shape[-2:]])
        glimpses = crop(image, proposals.detach(), ratio, self.glimpse, corners=True)
        return self.mixer(glimpses, proposals)

    def example(self, count: int) -> Tensor:
        """Anchors ``[count, K, 2]`` as good as any other: middles of randomly chosen patches."""
        rows = [torch.randperm(len(self.middles))[: self.num_particles] for _ in range(count)]
        return self.middles[torch.stack(rows)]


def check_sizes(obs: ObsSpec, *, patch_size: int, glimpse_ratio: float, levels: int, background_levels: int,
                select: str, num_proposals: int, num_particles: int) -> None:
    """Refuse images, patches and glimpses that do not fit one another.

    Raises:
        ConfigError: saying what would.
    """
    height, width, short = obs.height, obs.width, min(obs.height, obs.width)
    if height % patch_size or width % patch_size:
        divisors = [p for p in range(4, short + 1) if height % p == 0 and width % p == 0]
        raise ConfigError(
            f"image size {height} x {width} does not divide by encoder.patch_size {patch_size}; patch sizes that do: "
            f"{', '.join(map(str, divisors)) or 'none of 4 pixels or more'}"
        )
    if DownStack.side(patch_size, levels) < 2:
        raise ConfigError(
            f"encoder.glimpse_channels {'halve' if levels > 2 else 'halves'} a patch of {patch_size} pixels "
            f"{levels - 1} times to a single one, where no keypoint can be: give fewer channels or a larger patch_size"
        )
    glimpse = glimpse_side(glimpse_ratio, obs)
    if not 2 ** (levels - 1) <= glimpse < short:
        raise ConfigError(
            f"a glimpse of {glimpse} x {glimpse} pixels (encoder.glimpse_ratio {glimpse_ratio} of the longer side) "
            f"must be a part of an image of {height} x {width}, and at least {2 ** (levels - 1)} pixels to be halved "
            f"{levels - 1} times: choose another glimpse_ratio"
        )
    factor = 2 ** (background_levels - 1)
    if height % factor or width % factor:
        raise ConfigError(
            f"encoder.background_channels halve the sides {background_levels - 1} times, which {height} x {width} "
            f"pixels do not allow; give fewer of them, or sides that divide by {factor}"
        )
    patches = (height // patch_size) * (width // patch_size)
    kept = patches if select == "mixer" else min(patches, num_proposals)
    if select != "mixer" and kept < num_particles:
        raise ConfigError(
            f"encoder.num_particles {num_particles} start from as many proposals, but there are {kept} "
            f"({patches} patches, encoder.num_proposals {num_proposals}): set num_particles to {kept} or less, more "
            "num_proposals, a smaller patch_size, or select='mixer'"
        )
