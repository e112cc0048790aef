"""Calls the official DDLP code in a checkout that the caller provides. None of that code is part of this project."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

_RENAMED = {"ch": "cdim"}
_UNUSED = ("cv2", "imageio", "matplotlib", "matplotlib.pyplot", "torchvision", "torchvision.ops",
           "torchvision.transforms")
"""What it imports for pictures and films, which nothing here makes."""


def hparams(checkout: str, name: str) -> dict[str, Any]:
    """One of its configurations."""
    return json.loads((Path(checkout) / "configs" / f"{name}.json").read_text(encoding="utf-8"))


def build(checkout: str, h: Mapping[str, Any]) -> nn.Module:
    """The official video model for the hyper-parameters of a configuration."""
    sys.modules |= {name: MagicMock() for name in _UNUSED}
    sys.path.insert(0, checkout)
    from models import ObjectDynamicsDLP

    known = inspect.signature(ObjectDynamicsDLP.__init__).parameters
    arguments = {_RENAMED.get(key, key): tuple(value) if isinstance(value, list) else value for key, value in h.items()}
    return ObjectDynamicsDLP(**{key: value for key, value in arguments.items() if key in known})


def loss(model: nn.Module, video: Tensor, h: Mapping[str, Any], *, deterministic: bool) -> Tensor:
    """Training loss of a clip ``[B, T, C, H, W]`` after all stages, by squared error."""
    static = h["num_static_frames"]
    out = model(video, x_prior=video, deterministic=deterministic, warmup=False, noisy=False, forward_dyn=True,
                train_enc_prior=h["train_enc_prior"], num_static_frames=static)
    weights = {key: h[key] for key in ("beta_kl", "beta_dyn", "beta_rec", "kl_balance", "beta_dyn_rec")}
    return model.calc_elbo(video, out, warmup=False, noisy=False, recon_loss_type="mse", num_static=static,
                           dynamic_discount=torch.ones(h["timestep_horizon"]), **weights)["loss"]


def rollout(model: nn.Module, video: Tensor, context: int, horizon: int) -> Tensor:
    """Predict ``horizon`` frames after the first ``context`` frames of a clip; decodes all frames."""
    return model.sample(video, num_steps=horizon, deterministic=True, cond_steps=context)


def predict(model: nn.Module, latents: Mapping[str, Tensor], horizon: int) -> Tensor:
    """Positions of given latents and of the ``horizon`` frames after them, ``[B, T, K, 2]``; draws nothing."""
    position, scale, transparency, depth, features = (
        latents["particles", name] for name in ("position", "scale", "transparency", "depth", "features")
    )
    return model.dyn_module.sample(position, scale, transparency[..., 0], depth, features,
                                   latents["background", "features"][:, :, 0], steps=horizon, deterministic=True)[0]
