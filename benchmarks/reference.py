"""Calls the official LPWM code in a checkout that the caller provides. None of that code is part of this project."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_RENAMED = {"ch": "cdim", "num_static_frames": "n_static_frames", "context_dist": "ctx_dist"}


def build(checkout: str, h: Mapping[str, Any]) -> nn.Module:
    """The official model for the hyper-parameters of its ``hparams.json``."""
    sys.path.insert(0, checkout)
    from models import DLP

    known = inspect.signature(DLP.__init__).parameters
    arguments = {_RENAMED.get(key, key): tuple(value) if isinstance(value, list) else value for key, value in h.items()}
    return DLP(**{key: value for key, value in arguments.items() if key in known})


def loss(model: nn.Module, video: Tensor, h: Mapping[str, Any], *, deterministic: bool) -> Tensor:
    """Training loss of a clip ``[B, T, C, H, W]``, with the weights of the hyper-parameters."""
    from utils.loss_functions import calc_reconstruction_loss

    weights = {key: h[key] for key in ("beta_kl", "beta_dyn", "beta_rec", "kl_balance", "beta_dyn_rec", "beta_obj")}
    out = model(video, deterministic=deterministic, warmup=False, with_loss=True, recon_loss_type=h["recon_loss_type"],
                recon_loss_func=calc_reconstruction_loss, num_static=h["num_static_frames"], **weights)
    return out["loss_dict"]["loss"]


def rollout(model: nn.Module, video: Tensor, context: int, horizon: int) -> Tensor:
    """Predict ``horizon`` frames after the first ``context`` frames of a clip; decodes all frames."""
    return model.sample_from_x(video, num_steps=horizon, deterministic=True, cond_steps=context)
