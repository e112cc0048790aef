"""DIAMOND's dynamics: the next picture is denoised by a U-Net that sees the last ones and is told the last actions.

The network (`worldkit.nn.denoiser`), what noise levels mean, and the sampler (`worldkit.nn.edm`) are apart. Latents lie
on a grid and are taken as maps, pixels without a copy. A clip is learnt by predicting its last ``unroll + 1`` frames
one after the other, each from the frames before it; what was predicted already stands in the place of the truth,
so the model learns from what it will see in a rollout. Frames before the first one are grey (zeros).

With ``outcomes`` a network of its own, with an LSTM, reads every transition, and heads read that; its state is part of
a rollout. Here features have parameters: DIAMOND's rewards and ends depend on all that happened, and nothing in
the denoiser does.

Source: DIAMOND (arXiv:2405.12399), eloialonso/diamond @ 5bcd159, written from its description. What of it is unusual,
and which of it can be switched off, is in docs/diamond.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import Sampler, full_precision
from ..errors import IncompatibleComponentsError
from ..latents import Latent, LatentSpec, Pixels
from ..nn.denoiser import Denoiser, resized
from ..nn.edm import Levels, NoiseConfig, SamplingConfig
from ..nn.outcomes import Outcomes, OutcomesConfig, State
from ..nn.unet import BlocksConfig
from .base import Dynamics, Window


class UpsamplerConfig(BlocksConfig):
    """Options of the network that draws small pictures in full size, from them and the full picture before.

    Attributes:
        dim, noise, sampling, unroll: As of `UNetDiffusionConfig`.
    """

    dim: int = Field(default=256, gt=0)
    noise: NoiseConfig = NoiseConfig()
    sampling: SamplingConfig = SamplingConfig()
    unroll: int = Field(default=1, ge=0)


class UNetDiffusionConfig(BlocksConfig, ComponentConfig):
    """Options of the U-Net that denoises pictures, beside those of its levels.

    Attributes:
        dim: Width of what blocks are told.
        cond_dim: Width of the conditions; None: of the raw actions that it is told (conditioner ``raw-action``), or, of
            other conditions, ``dim``.
        before: What stands for actions before the first frame: ``"nothing"``, zeros, or ``"action-0"``, the first one
            of one-hot actions, as upstream.
        noise: Of training, and what the network counts on.
        noisy_past: Learn with noise on the given frames, too, and be told how much (csgo).
        sampling: How pictures are drawn; ``model.dynamics.sampling`` may be replaced at any time.
        levels: Cut predicted pictures to 256 levels: ``"down"``, as upstream, ``"nearest"``, or ``"none"``. Of pixels
            alone.
        unroll: Predicted frames of a training clip that are fed back, so that ``unroll + 1`` are predicted.
        outcomes: The network that heads read; None: no heads.
        upsampler: What draws the pictures of encoder ``identity`` with a ``factor`` in full size (csgo);
            ``model.dynamics.upsampling`` is its sampler.
    """

    name: str = "unet-diffusion"
    dim: int = Field(default=256, gt=0)
    cond_dim: int | None = Field(default=None, ge=0)
    before: Literal["nothing", "action-0"] = "nothing"
    noise: NoiseConfig = NoiseConfig()
    noisy_past: bool = False
    sampling: SamplingConfig = SamplingConfig()
    levels: Levels = "down"
    unroll: int = Field(default=1, ge=0)
    outcomes: OutcomesConfig | None = None
    upsampler: UpsamplerConfig | None = None


@dataclass
class _Carry:
    """State of a rollout: the last frames ``[B, window, C, H, W]``, and the actions between them."""

    frames: Tensor
    actions: Tensor
    unread: tuple[Tensor, Tensor] | None  # frames and actions of the context, which the LSTM has not read yet
    state: State | None = None  # of the LSTM, after the newest frame
    action: Tensor | None = None  # of the transition to come, `predict` to `observe`
    next_state: State | None = None
    fine: Tensor | None = None  # the newest frame in full size, ``[B, C, H, W]``, where an upsampler draws it


class UNetDiffusion(Dynamics):
    """Denoising of the next picture.

    Attributes:
        sampling: Replace it to trade time for quality: ``model.dynamics.sampling = SamplingConfig(steps=5, order=2)``.

    Example:
        >>> from worldkit.conditions import EMPTY
        >>> from worldkit.testing import example_latent, example_spec
        >>> config = UNetDiffusionConfig(channels=(8, 16), depths=(1, 1), attention=(False, False), dim=16)
        >>> spec = example_spec(kind="pixels")
        >>> dynamics = UNetDiffusion(config, spec=spec, anchors={}, window=4)
        >>> z = example_latent(spec, batch=2, time=6)
        >>> [bool(x) for x in (dynamics.loss(z, EMPTY, Sampler())["denoising"] > 0).all(0)]
        [False, False, False, True, True]
        >>> dynamics.predict(dynamics.start(z, EMPTY), EMPTY, Sampler(), mean=False).pixels.shape
        torch.Size([2, 1, 64, 3])
    """

    Config = UNetDiffusionConfig
    explicit_prior = False
    unrolls = True
    requires = frozenset({"grid", "tracked", "continuous"})
    takes = frozenset({"frame", "token", "memory"})
    config: UNetDiffusionConfig

    def __init__(self, config: UNetDiffusionConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        self._check_groups(config, spec)
        self.cond_dim = config.dim if config.cond_dim is None else config.cond_dim
        self.channels = spec.views * sum(f.dim for f in spec.groups[0].fields)
        levels: Levels = config.levels if spec.kind == "pixels" else "none"
        self.denoiser = Denoiser(
            config, channels=self.channels, given=window * self.channels, dim=config.dim, past=window,
            action_dim=self.cond_dim, noise=config.noise, past_noise="learnt" if config.noisy_past else "none",
            levels=levels)
        self.upsampler, up = None, config.upsampler
        if up is not None:
            self.upsampler = Denoiser(up, channels=self.channels, given=2 * self.channels, dim=up.dim, noise=up.noise,
                                      past_noise="told", levels=levels)
            self.upsampling = up.sampling
        self.outcomes = None
        if config.outcomes is not None:
            assert spec.grid is not None  # required
            self.outcomes = Outcomes(config.outcomes, channels=self.channels, size=spec.grid, action_dim=self.cond_dim)
        self.sampling = config.sampling

    @staticmethod
    def _check_groups(config: UNetDiffusionConfig, spec: LatentSpec) -> None:
        groups, fine = [group.name for group in spec.groups], config.upsampler is not None
        if len(groups) > 1 and groups != ["pixels", "fine"]:
            raise IncompatibleComponentsError("dynamics 'unet-diffusion' predicts one group of tokens on a grid, got "
                                              f"{', '.join(groups)}")
        if fine != (len(groups) > 1):
            told = ("draws small pictures in full size, and there are none: set encoder.factor, or drop it" if fine else
                    "is missing: encoder.factor makes small pictures, which dynamics.upsampler={} draws in full size")
            raise IncompatibleComponentsError(f"the upsampler of dynamics 'unet-diffusion' {told}")

    # -- latents as maps, conditions as one vector per transition

    def _maps(self, z: Latent) -> Tensor:
        """Of the first group, ``[B, T, C, H, W]``; all views, and all fields, are channels."""
        values = [z.values[self.spec.groups[0].name, f.name] for f in self.spec.groups[0].fields]
        x = values[0] if len(values) == 1 else torch.cat(values, -1)
        return full_precision(x).unflatten(2, (self.spec.views, *self.spec.grid)).movedim(-1, 3).flatten(2, 3)

    def _fine(self, z: Latent) -> Tensor:
        """Pictures in full size, ``[B, T, C, H, W]``."""
        return full_precision(cast(Pixels, z).fine.flatten(2, 3))

    def _latent(self, *maps: Tensor) -> Latent:
        """The latent of maps ``[B, T, C, H, W]``, one per group."""
        values = {}
        for group, x in zip(self.spec.groups, maps, strict=True):
            parts = x.unflatten(2, (self.spec.views, -1)).movedim(3, -1).flatten(2, 4)
            split = parts.split([f.dim for f in group.fields], -1)
            values |= {(group.name, f.name): part for f, part in zip(group.fields, split, strict=True)}
        return Latent.build(self.spec, values)

    def _told(self, cond: Condition, like: Tensor) -> Tensor:
        """Conditions of the transitions between frames ``like`` ``[B, T, ...]``: ``[B, T - 1, cond_dim]``."""
        told = like.new_zeros(like.shape[0], like.shape[1] - 1, self.cond_dim)
        for part in (cond.frame, None if cond.token is None else cond.token.mean(2),
                     None if cond.memory is None else cond.memory.mean(1)[:, None]):
            told = told if part is None else told + part
        return told

    def _before(self, actions: Tensor, count: int) -> Tensor:
        """Actions ``[B, T, cond_dim]`` with ``count`` more of them in front, which stand for none."""
        absent = actions.new_zeros(actions.shape[0], count, self.cond_dim)
        if self.config.before == "action-0" and self.cond_dim:
            absent[..., 0] = 1
        return torch.cat([absent, actions], 1)

    # -- training

    def predicted(self, frames: int) -> range:
        """Which frames of a clip are predicted in training."""
        return range(max(1, frames - self.config.unroll - 1), frames)

    def loss(self, z: Latent, cond: Condition, sampler: Sampler) -> dict[str, Tensor]:
        """Mean squared error of the network's answer; 0 where a clip's frames are given."""
        maps = self._maps(z.detach())
        if sampler.deterministic:  # a loss needs noise: the same every time, so that losses can be compared
            sampler = Sampler(generator=torch.Generator(maps.device).manual_seed(0))
        total, window = maps.shape[1], self.window
        ahead = window - min(window, self.predicted(total).start)  # grey frames in front
        frames = [torch.zeros_like(maps[:, 0])] * ahead + list(maps.unbind(1))
        actions = self._before(self._told(cond, maps), ahead)
        losses = [maps.new_zeros(maps.shape[0])] * (self.predicted(total).start - 1)
        for t in self.predicted(total):
            now = slice(t + ahead - window, t + ahead)
            loss, frames[t + ahead] = self.denoiser.learn(
                torch.cat(frames[now], 1), frames[t + ahead], actions[:, now], sampler, "diffusion")
            losses.append(loss)
        terms = {"denoising": torch.stack(losses, 1)}
        return terms if self.upsampler is None else {**terms, "upsampling": self._upsampling(z.detach(), maps, sampler)}

    def _upsampling(self, z: Latent, maps: Tensor, sampler: Sampler) -> Tensor:
        """Losses of the fine pictures, each predicted from the one before it and the small one, ``[B, T - 1]``."""
        fine = list(self._fine(z).unbind(1))
        first = max(1, len(fine) - self.config.upsampler.unroll - 1)
        losses = [maps.new_zeros(maps.shape[0])] * (first - 1)
        for t in range(first, len(fine)):
            given = torch.cat([fine[t - 1], resized(maps[:, t], fine[t].shape[-2:])], 1)
            loss, fine[t] = self.upsampler.learn(given, fine[t], None, sampler, "upsampling")
            losses.append(loss)
        return torch.stack(losses, 1)

    # -- rollouts

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> _Carry:
        maps = self._maps(z)
        actions, lacking = self._told(cond, maps), max(0, self.window - maps.shape[1])
        grey = maps.new_zeros(maps.shape[0], lacking, *maps.shape[2:])
        seen = torch.cat([grey, maps[:, -self.window :]], 1)
        kept = self._before(actions, lacking)[:, max(0, maps.shape[1] - self.window) :]
        fine = None if self.upsampler is None else self._fine(z)[:, -1]
        return _Carry(seen, kept, unread=(maps, actions), fine=fine)

    def predict(self, carry: _Carry, cond: Condition, sampler: Sampler, *, mean: bool) -> Latent:
        """One frame. A deterministic sampler asks for the path that starts at zero noise and adds none."""
        carry.action = self._told(cond, carry.frames[:, :1].expand(-1, 2, -1, -1, -1))  # of one transition
        actions = torch.cat([carry.actions, carry.action], 1)
        *_, x = self.denoiser.draw(carry.frames.flatten(1, 2), carry.frames[:, 0], actions, self.sampling, sampler,
                                   "diffusion")
        if self.upsampler is None:
            return self._latent(x[:, None])
        assert carry.fine is not None  # as there is an upsampler
        given = torch.cat([carry.fine, resized(x, carry.fine.shape[-2:])], 1)
        *_, fine = self.upsampler.draw(given, carry.fine, None, self.upsampling, sampler, "upsampling")
        return self._latent(x[:, None], fine[:, None])

    def observe(self, carry: _Carry, z: Latent) -> None:
        carry.frames = torch.cat([carry.frames[:, 1:], self._maps(z)], 1)
        carry.actions = torch.cat([carry.actions, carry.action], 1)[:, 1:]
        carry.state, carry.next_state = carry.next_state, None
        if self.upsampler is not None:
            carry.fine = self._fine(z)[:, 0]

    # -- what heads read

    def feature_dim(self) -> int:
        if self.config.outcomes is None:
            raise IncompatibleComponentsError(
                "heads of dynamics 'unet-diffusion' read a network of their own, and this model has none: set "
                "dynamics.outcomes={} (its options: worldkit.nn.outcomes), or leave the heads out (-o heads=none)"
            )
        return self.config.outcomes.width

    def features(self, z: Latent, cond: Condition) -> Tensor:
        """What `outcomes` says of every transition, after those before it: ``[B, T - 1, 1, width]``."""
        maps = self._maps(z)
        assert self.outcomes is not None  # asked by `feature_dim`
        return self.outcomes(maps[:, :-1], maps[:, 1:], self._told(cond, maps))[0][:, :, None]

    def step_features(self, carry: _Carry, left: Latent, reached: Latent, cond: Condition) -> Tensor:
        assert self.outcomes is not None
        self._read(carry)
        pair = self._maps(type(left).cat([left, reached]))
        said, carry.next_state = self.outcomes(pair[:, :1], pair[:, 1:], self._told(cond, pair), carry.state)
        return said[:, :, None]

    def _read(self, carry: _Carry) -> None:
        """Let the LSTM read the context, if it has not yet."""
        if carry.unread is None or self.outcomes is None:
            return
        (maps, actions), carry.unread = carry.unread, None
        if maps.shape[1] > 1:
            carry.state = self.outcomes(maps[:, :-1], maps[:, 1:], actions)[1]

    # -- rows that begin anew

    def put(self, carry: _Carry, rows: Tensor, other: _Carry) -> None:
        self._read(carry)
        self._read(other)
        carry.frames = carry.frames.index_copy(0, rows, other.frames)
        carry.actions = carry.actions.index_copy(0, rows, other.actions)
        if carry.fine is not None:
            carry.fine = carry.fine.index_copy(0, rows, other.fine)
        if carry.state is not None:
            anew = other.state or tuple(x[:, rows] * 0 for x in carry.state)
            carry.state = tuple(x.index_copy(1, rows, new) for x, new in zip(carry.state, anew, strict=True))
