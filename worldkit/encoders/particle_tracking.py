"""The particle encoder of DLPv2 (images) and DDLP (video): few particles, refined in the first frame, then followed.

Every patch proposes a keypoint; the first frame's particles start from the most certain ones. A glimpse around each
gives an offset; at the corrected place a second one, at the size that the first told, gives offset, scale, depth and
transparency; a third one, at the sampled place, the look. In every later frame a particle is searched for where it was
sampled the frame before, at the size it had, with a map of where its last glimpse fits best (``correlation``). No
gradient flows from frame to frame. Single images (``tracking=False``) are all first frames.

Source: DDLP (arXiv:2306.05957); upstream models.py and modules/modules.py @ 5686275, written from their description.
Reproduced quirks: the background mask uses squares of fixed size, whatever the scale. Reproduced defects, on request:
``correlation_norm="batch"``, ``lost_layers``, and a channel that is always zero (``correlation`` without ``tracking``);
official checkpoints depend on them. Differences: images need not be square; the mixer works on video, too.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from einops import rearrange
from pydantic import Field, PositiveFloat
from torch import Tensor

from ..config import ComponentConfig, ObsSpec
from ..distributions import MEANS, Beta, Normal, Sampler, full_precision
from ..errors import IncompatibleComponentsError
from ..latents import Latent, LatentDist, particle_spec
from ..nn.conv_relu import DownStack, Widths, init_stacks, mlp_relu
from ..nn.correlation import CorrelationNorm, correlation_map
from ..nn.glimpse import box_mask, crop, glimpse_side
from ..nn.glimpse_encoder import MAP_CHANNELS, GlimpseEncoder
from ..nn.stages import NOISE_LOGVAR, Stage, Staged
from .base import Encoder, Encoding
from .tracking_parts import Anchors, Attributes, Select, TrackingAux, check_sizes


class ParticleTrackingEncoderConfig(ComponentConfig):
    """Options of the DLPv2 / DDLP encoder.

    Attributes:
        patch_size: Side of the patches that propose one keypoint each, pixels; divides height and width.
        num_particles: Particles.
        num_proposals: Proposals that are kept; particles are the first of them.
        select: Which proposals are kept: ``"variance"``: the most certain; ``"distance"``: the farthest from their
            patches' middles; ``"random"``: any; ``"mixer"``: all, and particles start from learned averages of them.
        tracking: Follow particles from frame to frame; else every frame is encoded by itself, as single images are.
        proposal_frames: First frames of a clip for which proposals are made (for the static prior), when tracking;
            None: all.
        correlation: Give the search a map of where the particle's last glimpse fits; zero in first frames.
        correlation_norm: See `worldkit.nn.correlation`; ``"batch"`` is upstream's defect.
        glimpse_ratio: Side of a glimpse, which is square, over the image's longer side; also the scale prior's anchor.
        feature_dim: Width of a particle's features.
        background_dim: Width of the background's features.
        hidden_dim: Width of the layers behind the stacks.
        offset_std: Standard deviation of the offset's static prior, image units.
        scale_std: Standard deviation of the scale logit's static prior.
        transparency_prior: Concentrations (a, b) of the transparency's static Beta prior.
        glimpse_channels: Widths of the levels of the stacks that see patches and glimpses, multiples of 4 or 5; each
            but one halves the sides.
        background_channels: Of the stack that sees the background.
        lost_layers: Upstream's defect, see `worldkit.nn.conv_relu`; matters where two levels are equally wide.
    """

    name: str = "particle-tracking"
    patch_size: int = Field(default=8, gt=0)
    num_particles: int = Field(default=8, gt=0)
    num_proposals: int = Field(default=16, gt=0)
    select: Select = "variance"
    tracking: bool = True
    proposal_frames: int | None = Field(default=4, gt=0)
    correlation: bool = True
    correlation_norm: CorrelationNorm = "particle"
    glimpse_ratio: float = Field(default=0.25, gt=0, lt=1)
    feature_dim: int = Field(default=4, gt=0)
    background_dim: int = Field(default=4, gt=0)
    hidden_dim: int = Field(default=256, gt=1)
    offset_std: float = Field(default=0.2, gt=0)
    scale_std: float = Field(default=0.3, gt=0)
    transparency_prior: tuple[PositiveFloat, PositiveFloat] = (0.1, 0.1)
    glimpse_channels: Widths = (16, 32, 64)
    background_channels: Widths = (32, 64, 128)
    lost_layers: bool = False


def _logit(p: float) -> float:
    return math.log(p / (1 - p + 1e-5))


class ParticleTrackingEncoder(Encoder, Staged):
    """Video -> particles (position, scale, depth, transparency, features) and background features.

    Attributes:
        glimpse_size: Side of a glimpse in pixels.

    Example:
        >>> config = ParticleTrackingEncoderConfig(num_particles=4, num_proposals=6, hidden_dim=32,
        ...     glimpse_channels=(8, 8), background_channels=(8, 16))
        >>> encoder = ParticleTrackingEncoder(config, obs=ObsSpec(height=32, width=32))
        >>> encoder(torch.rand(2, 6, 3, 32, 32), sampler=Sampler()).latent.position.shape
        torch.Size([2, 6, 4, 2])
    """

    Config = ParticleTrackingEncoderConfig
    default_decoder = "particle-tracking"
    borders = False

    def __init__(self, config: ParticleTrackingEncoderConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        channels, hidden, lost = config.glimpse_channels, config.hidden_dim, config.lost_layers
        check_sizes(obs, patch_size=config.patch_size, glimpse_ratio=config.glimpse_ratio, levels=len(channels),
                    background_levels=len(config.background_channels), select=config.select,
                    num_proposals=config.num_proposals, num_particles=config.num_particles)
        self.beta = Beta(tied=False, link="exp", floor=1e-5)
        self.size, self.glimpse_size = (obs.height, obs.width), glimpse_side(config.glimpse_ratio, obs)
        self.spec = particle_spec(num_particles=config.num_particles, feature_dim=config.feature_dim,
                                  background_dim=config.background_dim, views=obs.views, beta=self.beta)
        side = self.glimpse_size
        self.start = Anchors(obs=obs, patch_size=config.patch_size, select=config.select,
                             num_proposals=config.num_proposals, num_particles=config.num_particles,
                             channels=channels, glimpse=side, width=max(2, hidden // 2), lost_layers=lost)
        self.attributes = GlimpseEncoder(inputs=obs.channels + config.correlation, side=side, channels=channels,
                                         hidden=hidden, outputs=Attributes.WIDTH, lost_layers=lost)
        self.look = GlimpseEncoder(inputs=obs.channels, side=side, channels=channels, hidden=hidden,
                                   outputs=2 * config.feature_dim, lost_layers=lost)
        below = config.background_channels
        self.background_cnn = DownStack(obs.channels, below, MAP_CHANNELS, kernel=7, lost_layers=lost)
        height, width = (DownStack.side(s, len(below)) for s in self.size)
        self.background = mlp_relu(MAP_CHANNELS * height * width, hidden, hidden, 2 * config.background_dim)
        init_stacks(self)

    def _scale_logit(self, factor: float) -> Tensor:
        """Logits ``[2]`` of ``factor`` glimpse sides over the image's height and over its width."""
        logits = [_logit(factor * self.config.glimpse_ratio * max(self.size) / side) for side in self.size]
        return torch.tensor(logits, dtype=torch.float64)

    def forward(self, video: Tensor, *, sampler: Sampler, stage: Stage = "full") -> Encoding:
        """Encode every frame; a clip of one frame is a first frame, with ``tracking`` or without.

        Args:
            video: Float in [0, 1], ``[B, T, C, H, W]`` (``[B, V, T, C, H, W]``).
            sampler: Source of all randomness. Drawn are, frame by frame, ``"position"`` and ``"scale"``, then of all
                frames at once ``"depth"``, ``"transparency"``, ``"features"`` and ``"background"``; before all of them
                ``"proposals"`` (uniform) if they are selected at random.
            stage: ``"warmup"``: particles stay where they are proposed, no gradient moves or scales them.
                ``"noisy"``: their scales are drawn around the glimpse's size. In both, the search knows neither size
                nor look of the frame before.
        """
        frames, time = self.fold_frames(video), video.shape[-4]
        length = time if self.config.tracking else 1
        clips = rearrange(frames, "(r t) c h w -> r t c h w", t=length)
        latent, posterior, aux = self._particles(clips, sampler, stage)

        def unfold(x: Tensor) -> Tensor:
            return rearrange(x, "(b v t) s n d -> b (t s) (v n) d", v=self.obs.views, t=time // length)

        values = {("particles", name): unfold(x) for name, x in latent.items()}
        params = {("particles", name): unfold(x) for name, x in posterior.items()}
        present = rearrange(latent["transparency"], "r t n 1 -> (r t) n")
        mask = box_mask(rearrange(latent["position"], "r t n d -> (r t) n d").detach(), present.detach(),
                        self.glimpse_size, self.size, corners=True)
        seen, drawn = self._background(frames, mask, sampler, time)
        values["background", "features"], params["background", "features"] = drawn, seen

        aux = {name: rearrange(x, "(r t) s ... -> r (t s) ...", t=time // length) for name, x in aux.items()}
        return Encoding(LatentDist(self.spec, params), Latent.build(self.spec, values),
                        TrackingAux(**aux, background_mask=mask, stage=stage))

    def check_clip(self, frames: int) -> None:
        if self.config.tracking and frames < 2:
            raise IncompatibleComponentsError(
                "encoder 'particle-tracking' follows particles from frame to frame, but this model learns from single "
                "images (clips of 1 frame): set encoder.tracking=false for images, or timestep_horizon to 2 or more "
                "for clips"
            )

    def encode_background(
        self, encoding: Encoding, video: Tensor, mask: Tensor, *, sampler: Sampler = MEANS
    ) -> Encoding:
        """The same particles, with the background encoded anew as seen through another mask.

        DiffuseDDLP's encoding: ``mask`` is then the decoder's ``Decoded.background_mask`` of these particles (no
        gradient reaches it); `forward` sees through squares.

        Args:
            encoding: What `forward` found.
            video: What it was given.
            mask: ``[B, T, 1, H, W]`` (``[B, V, T, 1, H, W]``), 1 where the background shows.
            sampler: As in `forward`.
        """
        frames = self.fold_frames(video)
        mask = mask.detach().reshape(-1, 1, *self.size)
        seen, drawn = self._background(frames, mask, sampler, video.shape[-4])
        key = ("background", "features")
        return Encoding(LatentDist(self.spec, {**encoding.posterior.params, key: seen}),
                        Latent.build(self.spec, {**encoding.latent.values, key: drawn}),
                        replace(encoding.aux, background_mask=mask))

    def _background(self, frames: Tensor, mask: Tensor, sampler: Sampler, time: int) -> tuple[Tensor, Tensor]:
        """Parameters and a draw of the background's features, ``[B, T, V, .]``."""
        maps = self.background_cnn(frames * mask)
        seen = full_precision(self.background(rearrange(maps, "m c h w -> m (c h w)")))
        seen = rearrange(seen, "(b v t) d -> b t v d", v=self.obs.views, t=time)
        return seen, sampler.normal("background", *Normal.split(seen))

    def _particles(
        self, clips: Tensor, sampler: Sampler, stage: Stage
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Values, parameters and by-products (``[R, T, ...]``) of particles in clips ``[R, T, C, H, W]``."""
        static = min(self.config.proposal_frames or clips.shape[1], clips.shape[1])
        proposals, variance = (
            rearrange(x, "(r t) l d -> r t l d", t=static)
            for x in self.start.propose(rearrange(clips[:, :static], "r t c h w -> (r t) c h w"), sampler)
        )
        where = self._follow(clips, self.start.start(clips[:, 0], proposals[:, 0]), sampler, stage)
        found = Attributes.read(where["raw"], self.beta)
        glimpses = rearrange(where["glimpses"], "r t n c h w -> (r t) n c h w")
        features = rearrange(self.look(glimpses), "(r t) n d -> r t n d", t=clips.shape[1])
        mean, logvar = Normal.split(found.offset)
        posterior = {"position": Normal.pack(where["base"] + mean, logvar), "scale": found.scale,
                     "depth": found.depth, "transparency": found.transparency, "features": features}
        values = {name: where[name] for name in ("position", "scale")}
        for name in ("depth", "transparency", "features"):
            dist = self.spec.field(("particles", name)).dist
            values[name] = dist.sample(posterior[name], sampler, name)
        aux = {"base": where["base"], "anchors": where["anchors"], "offset": found.offset, "proposals": proposals,
               "proposal_variance": variance, "glimpses": where["glimpses"]}
        return values, posterior, aux

    def _follow(self, clips: Tensor, anchor: Tensor, sampler: Sampler, stage: Stage) -> dict[str, Tensor]:
        """Where particles are, frame after frame, from where they start ``[R, K, 2]``."""
        known = stage == "full"  # whether size and look are told to the next glimpse
        steps: list[dict[str, Tensor]] = []
        scale = glimpses = None
        for t, frame in enumerate(clips.unbind(1)):
            if t == 0:
                first = Attributes.read(self._search(frame, anchor, None, None), self.beta)
                anchor = anchor + Normal.split(first.offset)[0]
                scale = Normal.split(first.scale)[0]
            else:
                anchor = steps[-1]["position"].detach()
            raw = self._search(frame, anchor, scale if known else None, glimpses if known else None)
            found = Attributes.read(raw, self.beta)
            mean, logvar = Normal.split(found.offset)
            position = sampler.normal("position", anchor + mean, logvar)
            if known:
                scale = sampler.normal("scale", *Normal.split(found.scale))
            else:
                around = self._scale_logit(1.0).to(position).expand_as(position)
                scale = sampler.normal("scale", around, torch.full_like(around, NOISE_LOGVAR))
            base = anchor
            if stage == "warmup":
                base, position = anchor.detach(), position.detach()
            glimpses = crop(frame, position, torch.sigmoid(scale.detach()), self.glimpse_size, corners=True)
            steps.append({"raw": raw, "anchors": anchor, "base": base, "position": position, "scale": scale,
                          "glimpses": glimpses})
        return {name: torch.stack([step[name] for step in steps], 1) for name in steps[0]}

    def _search(self, frame: Tensor, anchor: Tensor, scale: Tensor | None, template: Tensor | None) -> Tensor:
        """Raw attributes ``[R, K, 12]`` from glimpses around anchors; no gradient reaches where and how large."""
        if scale is None:
            size = anchor.new_tensor([self.glimpse_size / side for side in self.size])
        else:
            size = torch.sigmoid(scale.detach())
        glimpses = crop(frame, anchor.detach(), size, self.glimpse_size, corners=True)
        if self.config.correlation:
            if template is None:
                fit = torch.zeros_like(glimpses[:, :, :1])
            else:
                fit = correlation_map(glimpses.detach(), template.detach(), self.config.correlation_norm)
            glimpses = torch.cat([glimpses, fit], 2)
        return self.attributes(glimpses)

    # -- priors

    def static_prior(self, encoding: Encoding) -> LatentDist:
        """Offset N(0, offset_std), scale N(logit of 0.75 glimpse_ratio, scale_std), depth and features N(0, 1).

        Before the full stage both deviations are 0.1, and transparencies Beta(0.2, 0.1): particles should be there.
        """
        batch, time = encoding.posterior.shape
        base = rearrange(encoding.aux.base, "(b v) t n d -> b t (v n) d", b=batch, t=time)
        return self._prior_around(base, early=encoding.aux.stage != "full")

    def first_frame_prior(self, batch_size: int) -> LatentDist:
        """The static prior around the middles of randomly chosen patches."""
        anchors = self.start.example(batch_size * self.obs.views)
        return self._prior_around(rearrange(anchors, "(b v) n d -> b 1 (v n) d", b=batch_size))

    def _prior_around(self, base: Tensor, early: bool = False) -> LatentDist:
        """The constant prior with positions around ``base`` ``[B, T, N, 2]``."""
        config, (batch, time) = self.config, base.shape[:2]
        offset_std, scale_std = (0.1, 0.1) if early else (config.offset_std, config.scale_std)
        a, b = (0.2, 0.1) if early else config.transparency_prior
        prior = {}
        for group in self.spec.groups:
            for f in group.fields:
                zeros = base.new_zeros(batch, time, group.size, f.dim)
                prior[group.name, f.name] = Normal.pack(zeros, zeros)
                if f.name == "position":
                    prior[group.name, f.name] = Normal.pack(base, zeros + 2 * math.log(offset_std))
                elif f.name == "scale":
                    mean = self._scale_logit(0.75).to(zeros)
                    prior[group.name, f.name] = Normal.pack(zeros + mean, zeros + 2 * math.log(scale_std))
                elif f.name == "transparency":
                    prior[group.name, f.name] = torch.cat([zeros + a, zeros + b], -1)
        return LatentDist(self.spec, prior)

    def regularizers(self, encoding: Encoding) -> dict[str, Tensor]:
        """``"proposals"``: half the Chamfer-KL between anchors and proposals (without gradient to these), ``[B, T]``.

        Frames that have no proposals of their own are held against the last that has, as upstream; only first frames
        get a gradient.
        """
        aux, (batch, time) = encoding.aux, encoding.posterior.shape
        frames = torch.arange(time, device=aux.proposals.device).clamp(max=aux.proposals.shape[1] - 1)
        proposals = aux.proposals.detach()[:, frames]
        cost = 0.5 * (aux.anchors[:, :, :, None] - proposals[:, :, None]).square().sum(-1)  # [R, T, K, L]
        chamfer = cost.amin(-1).sum(-1) + cost.amin(-2).sum(-1)
        return {"proposals": 0.5 * rearrange(chamfer, "(b v) t -> b v t", b=batch).sum(1)}
