"""Genie's latent actions: one of a few codes per transition, read off the pixels.

An encoder sees frames up to t + 1 and says which code led there; a decoder sees frames up to t and that code, and draws
frame t + 1. What the frames before do not tell must come through the code, and it is one of a handful: so codes become
actions. The decoder never sees the frame it draws. Its losses are its own (`LatentAction.losses`): no gradient of the
dynamics reaches the codes. When the world is played the codebook alone is left: a player names a code.

A code that nothing uses would waste a key of the player: codes that rested are restarted from vectors of a batch. Watch
``latent_action/perplexity`` in the log: it says how many codes are in use, and 1 is a model without actions.

Latent actions are numbers of codes, int64 ``[B, T, 1, 1]``. The policy guesses by how often codes were used in
training.

Source: Genie (arXiv:2402.15391), section 2.1.1 and tables 9, 12. Left open there and chosen here: one learned token per
frame, read at the frame that was reached; unit codes, restarts, a commitment of 0.25.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import repeat
from pydantic import Field
from torch import Tensor, nn

from ..batch import check_shape
from ..conditions import Condition
from ..config import ComponentConfig, ObsSpec
from ..distributions import Categorical
from ..errors import ConfigError, IncompatibleComponentsError
from ..latents import Latent, LatentSpec
from ..nn.patches import from_patches, patch_grid, to_patches
from ..nn.quantize import Center, Quantized, UnitQuantizerConfig, VectorQuantizer, perplexity
from ..nn.space_time import SpaceTimeTransformer
from .base import ActionDist, LatentAction

_NEVER = -1e4
"""Log-probability of a code that was not found; finite, so that it can be multiplied with nothing."""
_DECAY, _NARROW = 0.99, 32


class ActionQuantizerConfig(UnitQuantizerConfig):
    """Options of the codes of actions: eight of them, as the paper has for platform games (6 for CoinRun)."""

    codes: int = Field(default=8, gt=1)


class VQLatentActionConfig(ComponentConfig):
    """Options of latent actions by codes.

    Attributes:
        patch_size: Side of a patch, pixels.
        dim, num_layers, num_heads, dropout: The encoder; a layer is a block of attention in space, attention in time
            and a feed-forward.
        head_dim: Width of a head; None: ``dim / num_heads``.
        decoder_layers: Of the decoder, which is needed in training alone; None: as many.
        quantizer: The codes: ``quantizer.codes`` is how many actions there are.
        read: Where the encoder says which action it was: ``"token"``, a learned token a frame, or ``"all"``, patches of
            the frame that was reached, all of them, narrowed and joined: what changes in one of many is then not lost
            in an average, and small models find it sooner.
        target: What the decoder draws: ``"frame"``, the next one (the paper), or ``"change"``, what that adds to this
            one: then it need not learn first what stays.
        center: ``"batch"``: vectors are made 0 on average and 1 wide before they are compared with codes (Łańcucki et
            al., arXiv:2005.08520); what all transitions share cannot crowd out how they differ. ``"none"``: the paper.
        regularizer_weight: Of what draws codes and vectors to one another, beside the reconstruction. Where little of a
            picture changes, a squared error per pixel is small, and 1 (the paper, as far as it says) ties all vectors
            to one code before it has said anything.
        change_weight: How much more a pixel weighs that changes from frame t to t + 1, in the reconstruction: by this
            times its change over the mean change. 0 (the paper): all weigh the same.
    """

    name: str = "vq"
    patch_size: int = Field(default=16, gt=0)
    dim: int = Field(default=1024, gt=0)
    num_layers: int = Field(default=10, gt=0)
    num_heads: int = Field(default=16, gt=0)
    head_dim: int | None = Field(default=None, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    decoder_layers: int | None = Field(default=None, gt=0)
    quantizer: ActionQuantizerConfig = ActionQuantizerConfig()
    read: Literal["token", "all"] = "token"
    target: Literal["frame", "change"] = "frame"
    center: Literal["none", "batch"] = "none"
    regularizer_weight: float = Field(default=1.0, ge=0)
    change_weight: float = Field(default=0.0, ge=0)

    @property
    def given_width(self) -> int:
        """Width of what the dynamics is told: a code's vector."""
        return self.quantizer.dim


@dataclass(frozen=True)
class CodedActions(ActionDist):
    """The codes that were found, and what training needs of them."""

    found: Quantized

    def __getitem__(self, index: Any) -> ActionDist:
        return ActionDist(self.dist, self.params[index])


class VQLatentAction(LatentAction):
    """Codes of transitions; see the module's docstring.

    Attributes:
        usage: How often each code was used in training, lately; shares.

    Example:
        >>> from worldkit.distributions import Sampler
        >>> from worldkit.testing.examples import example_spec
        >>> config = VQLatentActionConfig(dim=16, num_layers=1, num_heads=2, quantizer={"codes": 5, "dim": 4})
        >>> actions = VQLatentAction(config, spec=example_spec(), anchors={}, window=4, dynamics_dim=12,
        ...                          obs=ObsSpec(height=32, width=32))
        >>> video = torch.rand(2, 5, 3, 32, 32)
        >>> found, _ = actions(None, Condition(), video=video)
        >>> found.sample(Sampler(), "").shape, actions.losses(video, found)["reconstruction"].shape
        (torch.Size([2, 4, 1, 1]), torch.Size([2, 4]))
    """

    Config = VQLatentActionConfig
    reads = "video"
    takes = frozenset()
    gives = frozenset({"frame"})

    def __init__(self, config: VQLatentActionConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 dynamics_dim: int, memory_length: int = 0, obs: ObsSpec):
        super().__init__(config, spec=spec, anchors=anchors, window=window, dynamics_dim=dynamics_dim,
                         memory_length=memory_length)
        if obs.views > 1 or not obs.height:
            raise ConfigError(f"latent action 'vq' reads the pixels of one camera, and this model sees {obs.views} "
                              f"view(s) of {obs.height} x {obs.width}: take latent_action='gaussian'")
        self.obs, self.choices, self.cond_dim = obs, config.quantizer.codes, config.dim
        self.dist = Categorical(config.quantizer.codes, index=True)
        rows, columns = patch_grid(obs.height, obs.width, config.patch_size)
        pixels, sizes = obs.channels * config.patch_size**2, {
            "dim": config.dim, "num_heads": config.num_heads, "head_dim": config.head_dim, "dropout": config.dropout}
        self.embed_patches = nn.Linear(pixels, config.dim)
        by_token = config.read == "token"
        self.action_token = nn.Parameter(0.02 * torch.randn(config.dim)) if by_token else None
        self.encoder = SpaceTimeTransformer(num_layers=config.num_layers, num_tokens=rows * columns + by_token,
                                            max_frames=window + 1, still=False, **sizes)
        if by_token:
            self.to_code: nn.Module = nn.Linear(config.dim, config.quantizer.dim)
        else:
            self.to_code = nn.Sequential(nn.Linear(config.dim, _NARROW), nn.GELU(), nn.Flatten(-2),
                                         nn.Linear(_NARROW * rows * columns, config.quantizer.dim))
        self.center = Center(config.quantizer.dim, times=window) if config.center == "batch" else nn.Identity()
        self.quantizer = VectorQuantizer(config.quantizer)
        self.decode_patches, self.decode_code = nn.Linear(pixels, config.dim), nn.Linear(config.quantizer.dim,
                                                                                        config.dim)
        self.decoder = SpaceTimeTransformer(num_layers=config.decoder_layers or config.num_layers,
                                            num_tokens=rows * columns, max_frames=window, **sizes)
        self.to_pixels = nn.Linear(config.dim, pixels)
        if config.target == "change":
            nn.init.zeros_(self.to_pixels.weight)
            nn.init.zeros_(self.to_pixels.bias)
        told_as_it_is = dynamics_dim in (0, config.quantizer.dim)
        self.to_condition = nn.Identity() if told_as_it_is else nn.Linear(config.quantizer.dim, dynamics_dim)
        self.register_buffer("usage", torch.full((config.quantizer.codes,), 1 / config.quantizer.codes))

    def forward(self, z: Latent | None, cond: Condition, *, video: Tensor | None = None
                ) -> tuple[ActionDist, ActionDist]:
        assert video is not None  # models give it to whoever reads it
        found = self._found(video)
        if self.training:
            self._note(found.codes)
        return self._posterior(found), self._prior(video.shape[0], video.shape[1])

    def _found(self, video: Tensor) -> Quantized:
        """Codes of the transitions of a video of any length, ``[B, T - 1]``."""
        obs = self.obs
        check_shape(video, "b t c h w", name="video", c=obs.channels, h=obs.height, w=obs.width)
        tokens = self.embed_patches(to_patches(video, self.config.patch_size))
        if self.action_token is None:
            seen = self.encoder.slide(tokens)[:, 1:]
        else:
            token = repeat(self.action_token, "d -> b t 1 d", b=tokens.shape[0], t=tokens.shape[1])
            seen = self.encoder.slide(torch.cat([token, tokens], 2))[:, 1:, 0]
        return self.quantizer(self.center(self.to_code(seen)))

    def _posterior(self, found: Quantized) -> CodedActions:
        sure = F.one_hot(found.codes, self.choices).to(found.vectors.dtype)
        return CodedActions(self.dist, ((sure - 1) * -_NEVER)[:, :, None], found)

    def _prior(self, batch: int, frames: int) -> ActionDist:
        logits = (self.usage + 1e-6).log()
        return ActionDist(self.dist, repeat(logits, "a -> b t 1 a", b=batch, t=frames))

    @torch.no_grad()
    def _note(self, codes: Tensor) -> None:
        counts = torch.bincount(codes.reshape(-1), minlength=self.choices).to(self.usage)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
        self.usage.lerp_(counts / counts.sum().clamp(min=1), 1 - _DECAY)

    def draw(self, video: Tensor, vectors: Tensor) -> Tensor:
        """What a code makes of each frame: frames t = 0..T - 1 and the vectors of what follows -> frames t + 1.

        Args:
            video: ``[B, T, C, H, W]``.
            vectors: Of codes, ``[B, T, D]``.
        """
        told = self.decode_code(vectors)[:, :, None]
        tokens = self.decoder(self.decode_patches(to_patches(video, self.config.patch_size)) + told)
        pixels, change = self.to_pixels(tokens), self.config.target == "change"
        pixels = torch.tanh(pixels) if change else torch.sigmoid(pixels)
        drawn = from_patches(pixels, self.config.patch_size, height=self.obs.height, width=self.obs.width)
        return video + drawn if change else drawn

    def losses(self, video: Tensor, posterior: ActionDist) -> dict[str, Tensor]:
        """Squared error of frame t + 1, mean over pixels; and what draws codes and vectors to one another."""
        assert isinstance(posterior, CodedActions)
        found, left, reached = posterior.found, video[:, :-1], video[:, 1:]
        squared = (self.draw(left, found.vectors) - reached).square()
        if self.config.change_weight:
            change = (reached - left).abs().mean(2, keepdim=True)
            squared = squared * (1 + self.config.change_weight * change / change.mean((1, 2, 3, 4), keepdim=True)
                                 .clamp(min=1e-4))
        weight = self.config.regularizer_weight
        return {"reconstruction": squared.mean((2, 3, 4)), "codebook": weight * found.codebook,
                "commitment": weight * found.beta * found.commitment}

    @torch.no_grad()
    def summary(self, posterior: ActionDist) -> dict[str, Tensor]:
        """Perplexity of the codes of a batch: how many are in use."""
        return {"perplexity": perplexity(posterior.params.argmax(-1), self.choices)}

    def condition(self, action: Tensor) -> Condition:
        vectors = self.quantizer.look_up(action[:, :, 0, 0]).detach()
        return Condition(frame=self.to_condition(vectors))

    def start(self, z: Latent, cond: Condition, *, streaming: bool = False, video: Tensor | None = None
              ) -> tuple[ActionDist, int]:
        """Frames beyond ``window + 1`` are read through sliding windows of ``window + 1`` frames."""
        if video is None:
            return ActionDist(self.dist, self.usage.new_zeros(z.shape[0], 0, 1, self.choices)), z.shape[0]
        return self._posterior(self._found(video)), video.shape[0]

    def next(self, carry: int) -> ActionDist:
        return self._prior(carry, 1)

    def observe(self, carry: int, z: Latent, cond: Condition) -> None:
        """Nothing to be told: what was done before does not change how often codes are used."""

    def embed(self, z: Latent) -> Tensor:
        raise IncompatibleComponentsError("latent action 'vq' reads pixels and embeds no goals: send them to the "
                                          "dynamics (conditioners.NAME.to='dynamics')")
