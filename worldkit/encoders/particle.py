"""The particle encoder of DLPv3 / LPWM: an image as a set of latent particles and a background.

Every patch proposes one keypoint (spatial softmax); a glimpse around it gives offset, scale and transparency; a second
glimpse at the corrected place gives the look; a transformer over all particles of a frame adds depth and corrects the
look. Video models keep every proposal, so that particle n belongs to patch n in every frame, but look closely at (and
later draw) only the most certain ones; image models keep only those.

Unusual: parts of the posterior depend on samples of other parts (the second glimpse is cropped at a sampled place), so
the encoder samples while encoding and returns the sample with the posterior.

Source: LPWM (arXiv:2603.04553); upstream modules/modules.py and models.py @ 4cf53c4, written from their description.
Reproduced quirks: the uncertainty score adds variances to log-variances; the background mask uses boxes of fixed size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from ..config import ComponentConfig, ObsSpec
from ..distributions import Beta, Normal, Sampler, full_precision
from ..errors import ConfigError
from ..latents import Latent, LatentDist, particle_spec
from ..nn.conv import ConvConfig, ConvEncoder, MapToLatent, Padding, init_convs, mlp, zero_linear_biases
from ..nn.glimpse import box_mask, crop, glimpse_side
from ..nn.keypoints import PatchKeypoints
from ..nn.spec import PRESENCE_GATE
from .base import Encoder, Encoding
from .particle_interaction import InteractionEncoder


class ParticleEncoderConfig(ComponentConfig):
    """Options of the particle encoder.

    Attributes:
        patch_size: Side of the patches that propose keypoints, pixels; divides height and width.
        proposals_per_patch: Keypoints per patch.
        num_particles: Particles drawn; image models keep only this many, video models keep all proposals.
        select: ``"draw"``: keep all proposals, draw ``num_particles`` (video). ``"keep"``: keep the ``num_particles``
            most certain proposals (single images).
        glimpse_ratio: Side of a glimpse, which is square, over the image's longer side; also the scale prior's anchor.
        feature_dim: Width of a particle's features.
        background_dim: Width of the background's features.
        hidden_dim: Width of the MLPs and of the interaction transformer.
        num_layers, num_heads: Size of the interaction transformer.
        offset_std: Standard deviation of the offset's static prior, image units.
        scale_std: Standard deviation of the scale logit's static prior.
        transparency_prior: Concentrations (a, b) of the transparency's static Beta prior.
        proposal_cnn, glimpse_cnn, background_cnn: Convolution stacks.
        padding: Padding of the glimpse and background stacks (the proposal stack always replicates).
    """

    name: str = "particle"
    patch_size: int = Field(default=16, gt=0)
    proposals_per_patch: int = Field(default=1, gt=0)
    num_particles: int = Field(default=30, gt=0)
    select: Literal["draw", "keep"] = "draw"
    glimpse_ratio: float = Field(default=0.25, gt=0, lt=1)
    feature_dim: int = Field(default=4, gt=0)
    background_dim: int = Field(default=4, gt=0)
    hidden_dim: int = Field(default=256, gt=0)
    num_layers: int = Field(default=1, gt=0)
    num_heads: int = Field(default=1, gt=0)
    offset_std: float = Field(default=0.2, gt=0)
    scale_std: float = Field(default=0.3, gt=0)
    transparency_prior: tuple[float, float] = (0.01, 0.01)
    proposal_cnn: ConvConfig = ConvConfig()
    glimpse_cnn: ConvConfig = ConvConfig()
    background_cnn: ConvConfig = ConvConfig(channel_multipliers=(1, 1, 1, 2, 4))
    padding: Padding = "zeros"


@dataclass(frozen=True)
class ParticleAux:
    """By-products of encoding; ``M = B * V * T`` frames, ``N`` particles per view.

    Attributes:
        base: Keypoints before the offset, ``[M, N, 2]``.
        offset: Offset parameters ``[mean, logvar]``, ``[M, N, 4]``.
        proposals: All keypoint proposals, ``[M, patches, 2]``.
        proposal_variance: (var y, var x, cov) in patch units, ``[M, patches, 3]``.
        uncertainty: The five numbers whose sum is the score, ``[M, N, 5]``.
        appearance: Features before the interaction transformer, ``[M, N, feature_dim]``.
        background_mask: What the background encoder saw, ``[M, 1, H, W]``.
        glimpses: Crops the appearance encoder saw, most certain first, ``[M, K, C, P, P]``.
    """

    base: Tensor
    offset: Tensor
    proposals: Tensor
    proposal_variance: Tensor
    uncertainty: Tensor
    appearance: Tensor
    background_mask: Tensor
    glimpses: Tensor


class AttributeHeads(nn.Module):
    """Glimpse features -> offset, scale logit and transparency parameters."""

    def __init__(self, dim: int, hidden: int, scale_anchor: tuple[float, float]):
        super().__init__()
        self.offset, self.scale = mlp(dim, hidden, 4), mlp(dim, hidden, 4)
        self.transparency = mlp(dim, hidden, 1, bias=False)
        self.scale_anchor = scale_anchor

    def reset(self) -> None:
        for head, logvar in ((self.offset[-1], 1e-4), (self.scale[-1], 0.01)):
            nn.init.zeros_(head.weight)
            head.bias.data = torch.tensor([0.0, 0.0, math.log(logvar), math.log(logvar)])
        nn.init.zeros_(self.transparency[-1].weight)

    def forward(self, x: Tensor, beta: Beta) -> tuple[Tensor, Tensor, Tensor]:
        """``[M, N, D]`` -> offset params ``[M, N, 4]``, scale params ``[M, N, 4]``, Beta params ``[M, N, 2]``."""
        mean, logvar = full_precision(self.offset(x)).chunk(2, -1)
        scale_mean, scale_logvar = full_precision(self.scale(x)).chunk(2, -1)
        return (
            Normal.pack(torch.tanh(mean), logvar),
            Normal.pack(scale_mean + scale_mean.new_tensor(self.scale_anchor), scale_logvar),
            beta.from_raw(full_precision(self.transparency(x))),
        )


def _logit(p: float) -> float:
    return math.log(p / (1 - p + 1e-5))


def _gather(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


class ParticleEncoder(Encoder):
    """Image -> particles (position, scale, depth, transparency, features) and background features.

    Example:
        >>> from worldkit.config import ObsSpec
        >>> from worldkit.distributions import Sampler
        >>> config = ParticleEncoderConfig(patch_size=8, num_particles=4, hidden_dim=32, background_cnn={
        ...     "base_channels": 8, "channel_multipliers": [1, 1]}, glimpse_cnn={"channel_multipliers": [1, 1]})
        >>> encoder = ParticleEncoder(config, obs=ObsSpec(height=32, width=32))
        >>> encoder(torch.rand(2, 6, 3, 32, 32), sampler=Sampler()).latent.position.shape
        torch.Size([2, 6, 16, 2])
    """

    Config = ParticleEncoderConfig
    default_decoder = "particle"

    def __init__(self, config: ParticleEncoderConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        self._check_sizes(config, obs)
        self.beta, self.size = Beta(), (obs.height, obs.width)
        self.glimpse_size = glimpse_side(config.glimpse_ratio, obs)
        per_patch = config.proposals_per_patch
        proposal_cnn = ConvEncoder(config.proposal_cnn, inputs=obs.channels, outputs=per_patch, padding="replicate")
        self.keypoints = PatchKeypoints(proposal_cnn, size=self.size, patch_size=config.patch_size,
                                        per_patch=per_patch)
        proposals = self.keypoints.num_proposals
        self.num_drawn = min(config.num_particles, proposals)
        self.num_tokens = self.num_drawn if config.select == "keep" else proposals
        self.aligned = self.num_tokens == proposals  # particle n belongs to patch n
        self.spec = particle_spec(num_particles=self.num_tokens, num_drawn=self.num_drawn, views=obs.views,
                                  feature_dim=config.feature_dim, background_dim=config.background_dim, beta=self.beta)

        cnn, hidden = config.glimpse_cnn, config.hidden_dim
        map_side = self.glimpse_size // cnn.downsampling
        flat = cnn.latent_channels * map_side**2
        self.attribute_cnn = ConvEncoder(cnn, inputs=obs.channels, padding=config.padding)
        self.attributes = AttributeHeads(flat, hidden, self._scale_logit(1.0))
        self.appearance_cnn = ConvEncoder(cnn, inputs=obs.channels, padding=config.padding)
        self.to_features = MapToLatent(cnn.latent_channels, (map_side, map_side), hidden, config.feature_dim)
        if self.num_tokens != self.num_drawn:
            self.unseen_features = nn.Parameter(0.02 * torch.randn(config.feature_dim))
        background = config.background_cnn
        self.background_cnn = ConvEncoder(background, inputs=obs.channels, padding=config.padding)
        low = (obs.height // background.downsampling, obs.width // background.downsampling)
        self.to_background = MapToLatent(background.latent_channels, low, hidden, config.background_dim)
        self.interaction = InteractionEncoder(
            self.spec, obs=obs, dim=hidden, num_layers=config.num_layers, num_heads=config.num_heads,
            cnn=background, padding=config.padding, anchors=self.anchors(),
        )
        self._reset()

    @staticmethod
    def _check_sizes(config: ParticleEncoderConfig, obs: ObsSpec) -> None:
        short, glimpse = min(obs.height, obs.width), glimpse_side(config.glimpse_ratio, obs)
        if obs.height % config.patch_size or obs.width % config.patch_size:
            divisors = [p for p in range(4, short + 1) if obs.height % p == 0 and obs.width % p == 0]
            raise ConfigError(
                f"image size {obs.height} x {obs.width} does not divide by encoder.patch_size {config.patch_size}; "
                f"patch sizes that do: {', '.join(map(str, divisors)) or 'none of 4 pixels or more'}"
            )
        if glimpse >= short:
            raise ConfigError(
                f"a glimpse of {glimpse} x {glimpse} pixels (encoder.glimpse_ratio {config.glimpse_ratio} of the "
                f"longer side) is no part of an image of {obs.height} x {obs.width}: choose a smaller glimpse_ratio"
            )
        for name, size in (("glimpse_cnn", glimpse), ("background_cnn", obs.height), ("background_cnn", obs.width),
                           ("proposal_cnn", config.patch_size)):
            stack = getattr(config, name)
            if size % stack.downsampling:
                raise ConfigError(
                    f"encoder.{name} halves its input {len(stack.channel_multipliers) - 1} times, which {size} pixels "
                    f"do not allow; use fewer channel_multipliers than {list(stack.channel_multipliers)}"
                )

    def _reset(self) -> None:
        zero_linear_biases(self)
        for cnn in (self.keypoints.cnn, self.attribute_cnn, self.appearance_cnn):
            init_convs(cnn, 0.02)
        for cnn in (self.background_cnn, self.interaction.image_cnn):
            init_convs(cnn, 0.005)
        last = self.keypoints.cnn.conv_out  # constant, so that every softmax starts nearly flat
        nn.init.constant_(last.weight, -0.02)
        nn.init.zeros_(last.bias)
        self.attributes.reset()
        self.interaction.reset()

    def _scale_logit(self, factor: float) -> tuple[float, float]:
        """Logit of ``factor`` glimpse sides over the image's height and over its width: of boxes square in pixels."""
        height, width = (factor * self.config.glimpse_ratio * (max(self.size) / side) for side in self.size)
        return _logit(height), _logit(width)

    def anchors(self) -> dict[str, Tensor]:
        return {"position": self.keypoints.centres} if self.aligned else {}

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        return self._encode(video, sampler, goal=False)

    def encode_goal(self, video: Tensor, *, sampler: Sampler) -> Latent:
        """Means of every field, but, as upstream, of features looked up at SAMPLED places (while training)."""
        return self._encode(video, sampler, goal=True).posterior.mode()

    def _encode(self, video: Tensor, sampler: Sampler, *, goal: bool) -> Encoding:
        frames = self.fold_frames(video)
        proposals, variance = self.keypoints(frames)
        offset, scale, beta = self._attributes(frames, proposals)
        z_offset = sampler.normal("offset", *Normal.split(offset))
        z_scale = sampler.normal("scale", *Normal.split(scale))
        transparency = sampler.beta("transparency", *Beta.split(beta))
        uncertainty = torch.cat([variance, Normal.split(offset)[1]], -1).detach()
        base = proposals
        if not self.aligned:
            keep = uncertainty.sum(-1).topk(self.num_tokens, largest=False).indices
            base, offset, scale, beta, z_offset, z_scale, transparency, uncertainty = (
                _gather(x, keep) for x in (base, offset, scale, beta, z_offset, z_scale, transparency, uncertainty)
            )
        position = seen_at = base + z_offset
        score = uncertainty.sum(-1)  # [M, N]
        drawn = None
        if self.num_tokens != self.num_drawn:
            drawn = score.topk(self.num_drawn, largest=False).indices
        appearance, glimpses = self._appearance(frames, position, z_scale, drawn)
        if goal:
            seen_at, z_scale = base + Normal.split(offset)[0], Normal.split(scale)[0]
            transparency = self.beta.mode(beta)
        seen, mask = self._background(frames, seen_at, transparency, drawn)

        def unfold(x: Tensor) -> Tensor:
            return rearrange(x, "(b v t) n d -> b t (v n) d", v=self.obs.views, t=video.shape[-4])

        known = {"position": unfold(position), "scale": unfold(z_scale), "transparency": unfold(transparency)}
        found = self.interaction(
            frames, known, unfold(appearance), unfold(seen[:, None]), unfold(score[..., None]) / 30 * 2 - 1
        )
        posterior = LatentDist(self.spec, {
            ("particles", "position"): unfold(Normal.pack(base + Normal.split(offset)[0], Normal.split(offset)[1])),
            ("particles", "scale"): unfold(scale),
            ("particles", "transparency"): unfold(beta),
            **found,
        }, score=unfold(score[..., None])[..., 0])
        values = {("particles", name): value for name, value in known.items()}
        for key, name in ((("particles", "depth"), "depth"), (("particles", "features"), "features"),
                          (("background", "features"), "background")):
            values[key] = sampler.normal(name, *Normal.split(found[key]))
        aux = ParticleAux(base, offset, proposals, variance, uncertainty, appearance, mask, glimpses.detach())
        return Encoding(posterior, Latent.build(self.spec, values, score=posterior.score), aux)

    def _attributes(self, frames: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ratio = proposals.new_tensor([self.glimpse_size / side for side in self.size])
        glimpses = crop(frames, proposals, ratio, self.glimpse_size)
        maps = self.attribute_cnn(rearrange(glimpses, "m n c h w -> (m n) c h w"))
        return self.attributes(rearrange(maps, "(m n) c h w -> m n (c h w)", n=proposals.shape[1]), self.beta)

    def _appearance(
        self, frames: Tensor, position: Tensor, scale: Tensor, drawn: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if drawn is not None:
            position, scale = _gather(position, drawn), _gather(scale, drawn)
        glimpses = crop(frames, position, torch.sigmoid(scale), self.glimpse_size)
        features = self.to_features(self.appearance_cnn(rearrange(glimpses, "m n c h w -> (m n) c h w")))
        features = full_precision(features)
        features = rearrange(features, "(m n) d -> m n d", n=position.shape[1])
        if drawn is not None:
            everyone = self.unseen_features.expand(features.shape[0], self.num_tokens, -1)
            features = everyone.scatter(1, drawn[..., None].expand_as(features), features)
        return features, glimpses

    def _background(
        self, frames: Tensor, position: Tensor, transparency: Tensor, drawn: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            if drawn is not None:
                position, transparency = _gather(position, drawn), _gather(transparency, drawn)
            present = (transparency[..., 0] > PRESENCE_GATE).to(frames.dtype)
            mask = box_mask(position, present, self.glimpse_size, self.size)
        return full_precision(self.to_background(self.background_cnn(frames * mask))), mask

    def static_prior(self, encoding: Encoding) -> LatentDist:
        """Offset N(0, offset_std), scale N(logit of 0.75 glimpse_ratio, scale_std), depth and features N(0, 1)."""
        batch, time = encoding.posterior.shape
        return self._prior_around(rearrange(encoding.aux.base, "(b v t) n d -> b t (v n) d", b=batch, t=time))

    def first_frame_prior(self, batch_size: int) -> LatentDist:
        """The static prior around patch centres (a random choice of them, if only some proposals are kept)."""
        centres = self.keypoints.centres
        rows = [
            centres if self.aligned else centres[torch.randperm(len(centres))[: self.num_tokens]]
            for _ in range(batch_size * self.obs.views)
        ]
        return self._prior_around(rearrange(torch.stack(rows), "(b v) n d -> b 1 (v n) d", b=batch_size))

    def _prior_around(self, base: Tensor) -> LatentDist:
        """The constant prior with positions around ``base`` ``[B, T, N, 2]``."""
        config, (batch, time) = self.config, base.shape[:2]
        prior = {}
        for group in self.spec.groups:
            for f in group.fields:
                zeros = base.new_zeros(batch, time, group.size, f.dim)
                prior[group.name, f.name] = Normal.pack(zeros, zeros)
                if f.name == "position":
                    prior[group.name, f.name] = Normal.pack(base, zeros + 2 * math.log(config.offset_std))
                elif f.name == "scale":
                    mean = zeros.new_tensor(self._scale_logit(0.75))
                    prior[group.name, f.name] = Normal.pack(zeros + mean, zeros + 2 * math.log(config.scale_std))
                elif f.name == "transparency":
                    a, b = config.transparency_prior
                    prior[group.name, f.name] = torch.cat([zeros + a, zeros + b], -1)
        return LatentDist(self.spec, prior)

    def regularizers(self, encoding: Encoding) -> dict[str, Tensor]:
        """``"proposals"``: half the Chamfer-KL between kept keypoints and all proposals; 0 when all are kept."""
        batch, time = encoding.posterior.shape
        if self.aligned:
            return {"proposals": encoding.aux.base.new_zeros(batch, time)}
        cost = 0.5 * (encoding.aux.base[:, :, None] - encoding.aux.proposals[:, None]).square().sum(-1)
        chamfer = cost.amin(2).sum(1) + cost.amin(1).sum(1)
        return {"proposals": 0.5 * rearrange(chamfer, "(b v t) -> b v t", b=batch, t=time).sum(1)}
