"""Calls the official DIAMOND (github.com/eloialonso/diamond, MIT) in a checkout that the caller provides.

None of that code is part of this project. It is run as it comes, in 32-bit floats; what it imports for games and logs
is stood in for. Sizes are those of its own configuration (config/agent/default.yaml).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

_UNUSED = ("ale_py", "cv2", "gymnasium", "gymnasium.core", "gymnasium.spaces", "gymnasium.vector", "hydra",
           "hydra.utils", "omegaconf", "torcheval", "torcheval.metrics", "torcheval.metrics.functional", "wandb",
           "h5py")
FOUR = {"depths": [2, 2, 2, 2], "attn_depths": [0, 0, 0, 0]}


class Reference:
    """Networks with random weights."""

    def __init__(self, checkout: str, actions: int):
        sys.modules |= {name: MagicMock() for name in _UNUSED}
        sys.path.insert(0, str(Path(checkout) / "src"))
        from models.diffusion import Denoiser, DenoiserConfig, InnerModelConfig, SigmaDistributionConfig
        from models.rew_end_model import RewEndModel, RewEndModelConfig

        torch.manual_seed(0)
        inner = InnerModelConfig(img_channels=3, num_steps_conditioning=4, cond_channels=256, channels=[64] * 4,
                                 num_actions=actions, **FOUR)
        self.denoiser = Denoiser(DenoiserConfig(inner, sigma_data=0.5, sigma_offset_noise=0.3)).eval()
        self.denoiser.setup_training(SigmaDistributionConfig(loc=-0.4, scale=1.2, sigma_min=2e-3, sigma_max=20))
        self.outcomes = RewEndModel(RewEndModelConfig(lstm_dim=512, img_channels=3, img_size=64, cond_channels=128,
                                                      channels=[32] * 4, num_actions=actions, **FOUR)).eval()

    def measured(self, task: str, clips: Callable[[int, int], Any]) -> Callable[[], object]:
        """What to time; ``clips(clips, frames)`` makes a batch as worldkit has it."""
        if task == "learn-denoiser":
            return self._learn(self.denoiser, clips(4, 6), 1.0)
        if task == "learn-outcomes":
            return self._learn(self.outcomes, clips(4, 19), 100.0)
        kind, count = task.split("-")
        batch = clips(int(count), 4)
        frames, actions = unit(batch.video), batch.conditions["action"]
        if kind == "denoise":
            x, level = torch.randn(len(frames), 3, 64, 64), torch.tensor(5.0)
            return lambda: self.denoiser.denoise(x, level, frames.flatten(1, 2), actions)
        from models.diffusion import DiffusionSampler, DiffusionSamplerConfig

        config = DiffusionSamplerConfig(num_steps_denoising=3, order=2 if kind == "heun" else 1)
        sampler = DiffusionSampler(self.denoiser, config)
        if kind != "step":
            return lambda: sampler.sample(frames, actions)
        with torch.no_grad():
            state = self.outcomes.predict_rew_end(frames[:, :-1], actions[:, :-1], frames[:, 1:])[2]
        return torch.no_grad()(lambda: self._step(sampler, frames, actions, state))

    def _step(self, sampler: Any, frames: Tensor, actions: Tensor, state: Any) -> None:
        after = sampler.sample(frames, actions)[0]
        reward, end, _ = self.outcomes.predict_rew_end(frames[:, -1:], actions[:, -1:], after[:, None], state)
        for logits in (reward, end):
            torch.distributions.Categorical(logits=logits.flatten(0, 1)).sample()

    def _learn(self, part: nn.Module, batch: Any, longest: float) -> Callable[[], object]:
        from data import Batch

        reward, size = batch.targets["reward"], batch.targets["reward"].shape
        theirs = Batch(obs=unit(batch.video), act=batch.conditions["action"], rew=reward,
                       end=batch.targets["terminated"].long(), trunc=torch.zeros(size, dtype=torch.long),
                       mask_padding=torch.ones(size, dtype=torch.bool), info=[{}] * len(reward), segment_ids=[])
        optimizer = torch.optim.AdamW(part.parameters(), lr=1e-4, weight_decay=1e-2)
        part.train()

        def step() -> float:
            loss = part(theirs)[0]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(part.parameters(), longest)
            optimizer.step()
            return loss.item()

        return step


def unit(video: Tensor) -> Tensor:
    """Bytes as numbers in [-1, 1]."""
    return video.float().div(255).mul(2).sub(1)
