"""The slot encoder of SAVi: a video as a fixed number of slots that compete for pixels and persist over time.

A small CNN turns every frame into features; slot attention starts from learned slots in the first frame, and in every
later one from what a predictor makes of the slots before. So slot n stays the same thing, but frames are encoded one
after the other (their features are not). Without recurrence every frame starts anew from the learned slots, and slots
may change places from frame to frame.

Stochastic SAVi draws the start of the attention from a Gaussian whose variance, but not whose mean, is pulled to 0.01.
The slots themselves are points in both variants: their distribution is a `Delta`.

Source: SAVi (arXiv:2111.12594) in the sizes of github.com/Wuziyi616/SlotFormer (arXiv:2210.05861) @ 10a6d9b, written
from its description. Reproduced quirk: the deterministic variant, too, sends the start through the network that would
give mean and variance (there an MLP), and takes the mean.
Differences: initial weights (see `keep_signal`); one width for features and slots (upstream's are equal, too); no
checkpoint-only layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ..config import ComponentConfig, ObsSpec
from ..distributions import Delta, Normal, Sampler, full_precision
from ..errors import ConfigError
from ..latents import Field as LatentField
from ..latents import Latent, LatentDist, LatentSpec, TokenGroup
from ..nn.slots import Chunked, GridEmbedding, SlotAttention, Transition, keep_signal, make_transition
from .base import Encoder, Encoding

_KERNEL_VARIANCE = 0.01


class SlotEncoderConfig(ComponentConfig):
    """Options of the slot encoder; defaults are SlotFormer's for OBJ3D.

    Attributes:
        num_slots: Slots, at least two; upstream takes the most objects of a scene and one for the background.
        slot_dim: Width of a slot, and of the pixels' features.
        hidden_dim: Width of the slots' MLP and of the predictor's LSTM.
        num_iterations: Rounds of slot attention per frame.
        channels: Of the CNN, one per layer; all but the last are followed by ReLU.
        kernel_size: Of the CNN's layers.
        max_map: Longest side of the feature map, pixels; larger images enter the CNN with a stride.
        recurrent: Start a frame from the frame before. Otherwise every frame is encoded on its own, and slots are
            exchangeable.
        predictor: From the slots of a frame to the start of the next (only with ``recurrent``).
            ``"transformer-lstm"``: transformer over slots, then an LSTM per slot; ``"mlp"``: residual MLP;
            ``"none"``: the slots as they are.
        num_layers, num_heads, dropout: The predictor's transformer.
        stochastic: Draw the start of the attention from a Gaussian.
    """

    name: str = "slot"
    num_slots: int = Field(default=6, ge=2)
    slot_dim: int = Field(default=128, gt=0)
    hidden_dim: int = Field(default=256, gt=0)
    num_iterations: int = Field(default=2, gt=0)
    channels: tuple[PositiveInt, ...] = Field(default=(64, 64, 64, 64), min_length=1)
    kernel_size: int = Field(default=5, gt=0)
    max_map: int = Field(default=64, gt=0)
    recurrent: bool = True
    predictor: Transition = "transformer-lstm"
    num_layers: int = Field(default=2, gt=0)
    num_heads: int = Field(default=4, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    stochastic: bool = False


@dataclass(frozen=True)
class SlotAux:
    """By-products of encoding.

    Attributes:
        attention: Share of every slot in every pixel of the feature map, ``[B, T, N, h, w]``, detached; sums to 1 over
            slots.
        kernel: Parameters ``[mean, logvar]`` of where the attention started, ``[B, T, N, 2 D]``; None if deterministic.
    """

    attention: Tensor
    kernel: Tensor | None


class PixelFeatures(Chunked):
    """Frames ``[M, C, H, W]`` in [-1, 1] -> features of every pixel of a map, ``[M, h * w, D]``; ``size`` is (h, w)."""

    def __init__(self, config: SlotEncoderConfig, obs: ObsSpec):
        super().__init__()
        stride = math.ceil(max(obs.height, obs.width) / config.max_map)
        if config.kernel_size % 2 == 0:
            raise ConfigError(f"encoder.kernel_size must be odd, got {config.kernel_size}")
        if stride > config.kernel_size:
            raise ConfigError(
                f"encoder.max_map {config.max_map} asks for a stride of {stride} at {obs.height} x {obs.width} pixels, "
                f"and kernels of {config.kernel_size} would skip some; set encoder.max_map to at least "
                f"{math.ceil(max(obs.height, obs.width) / config.kernel_size)}"
            )
        self.size = (math.ceil(obs.height / stride), math.ceil(obs.width / stride))
        widths, layers = (obs.channels, *config.channels), []
        for index, (inputs, outputs) in enumerate(zip(widths, widths[1:])):  # noqa: B905 - one shorter on purpose
            layers += [nn.ReLU()] * (index > 0)
            layers.append(nn.Conv2d(inputs, outputs, config.kernel_size, stride if index == 0 else 1,
                                    padding=config.kernel_size // 2))
        self.cnn = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.grid = GridEmbedding(widths[-1], *self.size)
        self.mlp = nn.Sequential(
            nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], config.slot_dim), nn.ReLU(),
            nn.Linear(config.slot_dim, config.slot_dim),
        )
        self._numbers = max(*config.channels, config.slot_dim) * math.prod(self.size)

    def forward(self, frames: Tensor) -> Tensor:
        return self.in_chunks(self._features, frames, numbers=self._numbers)

    def _features(self, frames: Tensor) -> Tensor:
        maps = self.grid(self.cnn(frames.contiguous(memory_format=torch.channels_last)))
        return self.mlp(rearrange(maps, "m c h w -> m (h w) c"))


class SlotEncoder(Encoder):
    """Video -> slots.

    Example:
        >>> encoder = SlotEncoder(SlotEncoderConfig(num_slots=4), obs=ObsSpec(height=32, width=32))
        >>> encoder(torch.rand(1, 2, 3, 32, 32), sampler=Sampler()).latent
        Slots(slots.features[1, 2, 4, 128])
    """

    Config = SlotEncoderConfig
    default_decoder = "slot"
    every_token_draws = True

    def __init__(self, config: SlotEncoderConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        if obs.views != 1:
            raise ConfigError(
                f"encoder 'slot' sees one camera, got obs.views = {obs.views}; use views = 1, or encoder = 'particle'"
            )
        dim = config.slot_dim
        group = TokenGroup("slots", config.num_slots, (LatentField("features", dim, Delta(), "appearance and place"),))
        self.carries = config.recurrent
        self.spec = LatentSpec((group,), identity="tracked" if config.recurrent else "exchangeable", kind="slots")
        self.features = PixelFeatures(config, obs)
        self.attention = SlotAttention(dim, hidden_dim=config.hidden_dim, num_iterations=config.num_iterations)
        self.initial = nn.Parameter(torch.randn(config.num_slots, dim))
        self.kernel = nn.Linear(dim, 2 * dim) if config.stochastic else nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.LayerNorm(2 * dim), nn.ReLU(), nn.Linear(2 * dim, 2 * dim)
        )
        self.predictor = make_transition(
            config.predictor, dim, num_layers=config.num_layers, num_heads=config.num_heads,
            hidden_dim=config.hidden_dim, dropout=config.dropout,
        ) if config.recurrent else None
        keep_signal(self)

    def forward(
        self, video: Tensor, *, sampler: Sampler, first: Tensor | None = None, carry: Tensor | None = None
    ) -> Encoding:
        """Encode every frame.

        Args:
            video: As `Encoder.forward` has it.
            sampler: Source of all randomness.
            first: bool ``[B, T]``: frames that start anew from the learned slots (frame 0 does, without ``carry``).
            carry: Slots and memory of the frame before these, ``[B, 1, N, D]``, as ``Encoding.carry[:, -1:]`` has it.
        """
        frames = self.fold_frames(video)
        time = video.shape[1]
        seen = self.attention.look(self.features(2 * frames - 1))
        keys, values = (rearrange(full_precision(x), "(b t) p d -> b t p d", t=time) for x in seen)
        with torch.autocast(video.device.type, enabled=False):  # errors of a recurrence add up
            memory = None
            if self.predictor is None:
                slots, shares, kernel = self._per_frame(keys, values, sampler)
            else:
                slots, shares, kernel, memory = self._over_time(keys, values, sampler, first, carry)
        height, width = self.features.size
        aux = SlotAux(rearrange(shares.detach(), "b t n (h w) -> b t n h w", h=height, w=width),
                      kernel if self.config.stochastic else None)
        tensors = {("slots", "features"): slots}
        return Encoding(LatentDist(self.spec, tensors), Latent.build(self.spec, tensors), aux, memory)

    def _start(self, slots: Tensor, sampler: Sampler) -> tuple[Tensor, Tensor]:
        """Where the attention starts, ``[..., N, D]``, and the parameters behind it, ``[..., N, 2 D]``."""
        kernel = self.kernel(slots)
        mean, logvar = Normal.split(kernel)
        return sampler.normal("kernel", mean, logvar) if self.config.stochastic else mean, kernel

    def _over_time(
        self, keys: Tensor, values: Tensor, sampler: Sampler, first: Tensor | None, carry: Tensor | None
    ) -> list[Tensor]:
        slots, state, found = self.initial.expand(keys.shape[0], -1, -1), None, []
        if carry is not None:
            slots, *parts = carry[:, 0].split([self.initial.shape[1], *self.predictor.state_dims], -1)
            state = tuple(x.flatten(0, 1) for x in parts) or None
        for t in range(keys.shape[1]):
            if t or carry is not None:
                slots, state = self.predictor(slots, state)
                if first is not None:
                    slots, state = self._anew(slots, state, first[:, t])
            start, kernel = self._start(slots, sampler)
            slots, shares = self.attention(start, keys[:, t], values[:, t])
            found.append((slots, shares, kernel, self._packed(slots, state)))
        return [torch.stack(x, 1) for x in zip(*found, strict=True)]

    def _anew(self, slots: Tensor, state: Any, begins: Tensor) -> tuple[Tensor, Any]:
        """Learned slots and no memory in clips where an episode begins."""
        slots = torch.where(begins[:, None, None], self.initial, slots)
        kept = (~begins).repeat_interleave(slots.shape[1])[:, None]
        return slots, None if state is None else tuple(x * kept for x in state)

    def _packed(self, slots: Tensor, state: Any) -> Tensor:
        """Slots and the predictor's state side by side, ``[B, N, D]``."""
        widths = self.predictor.state_dims
        parts = [slots.new_zeros(*slots.shape[:2], sum(widths))] if state is None else [
            x.unflatten(0, slots.shape[:2]) for x in state]
        return torch.cat([slots, *parts], -1) if widths else slots

    def _per_frame(self, keys: Tensor, values: Tensor, sampler: Sampler) -> tuple[Tensor, Tensor, Tensor]:
        batch, time = keys.shape[:2]
        start, kernel = self._start(repeat(self.initial, "n d -> b t n d", b=batch, t=time), sampler)
        slots, shares = self.attention(start.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1))
        return slots.unflatten(0, (batch, time)), shares.unflatten(0, (batch, time)), kernel

    def regularizers(self, encoding: Encoding) -> dict[str, Tensor]:
        """``"kernel"`` (stochastic only): KL to the same Gaussian with variance 0.01, nats, MEAN over slots."""
        kernel = encoding.aux.kernel
        if kernel is None:
            return {}
        mean, logvar = Normal.split(kernel)
        prior = Normal.pack(mean, torch.full_like(logvar, math.log(_KERNEL_VARIANCE)))
        return {"kernel": Normal().kl(kernel, prior).mean(-1)}
