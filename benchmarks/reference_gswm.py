"""Calls the official G-SWM code (GPL) in a checkout that the caller provides. None of it is part of this project.

What it imports for its configurations (yacs) is stood in for; torchvision, whose ResNet-18 it takes apart, has to be
there.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


def arch(checkout: str, name: str) -> dict[str, Any]:
    """The options of one of its configurations that are not its defaults."""
    import yaml

    text = (Path(checkout) / "src" / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    return {key: _value(value) for key, value in yaml.safe_load(text)["ARCH"].items()}


def _value(value: Any) -> Any:
    """``1e-10`` is a word to YAML, and a number to upstream."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except ValueError:
        return value


def build(checkout: str, options: dict[str, Any]) -> nn.Module:
    """The official model with these options; once a process, for they are global."""
    yacs, config = ModuleType("yacs"), ModuleType("yacs.config")
    config.CfgNode = SimpleNamespace
    sys.modules |= {"yacs": yacs, "yacs.config": config}
    sys.path.insert(0, str(Path(checkout) / "src"))
    from model.gswm.arch import ARCH

    for name, value in options.items():
        setattr(ARCH, name, value)
    from model.gswm.gswm import GSWM

    return GSWM()


def loss(model: nn.Module, video: Tensor, step: int) -> Tensor:
    """Training loss of a clip ``[B, T, C, S, S]``."""
    return model(video, step)[0].mean()


def without_noise() -> None:
    """Let all that is drawn in this process be what it is expected to be: means, and uniform numbers of a half."""
    from torch.distributions import Normal, RelaxedBernoulli

    Normal.rsample = Normal.sample = lambda self, shape=torch.Size(): self.mean
    RelaxedBernoulli.rsample = RelaxedBernoulli.sample = lambda self, shape=torch.Size(): torch.sigmoid(
        self.logits / self.temperature)
