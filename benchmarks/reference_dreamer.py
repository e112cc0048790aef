"""Calls public PyTorch Dreamer code in checkouts that the caller provides. None of that code is part of this project.

Two are known: github.com/NM512/r2dreamer (the network of 2024 and later, block-diagonal GRU) and
github.com/NM512/dreamerv3-torch (the network of 2023, one GRU with layer norm). `Reference.open` sees which one a
folder holds. Both are run as they come, in 32-bit floats; what they import for logging and replay is stood in for.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

_UNUSED = ("tensordict", "torchrl", "torch.utils.tensorboard", "ruamel", "ruamel.yaml")
"""What they import for logs, replay and command lines, which nothing here uses."""


class Settings(dict):
    """Options by name or by attribute, tables inside included; what their configuration libraries give them."""

    def __init__(self, values: Mapping[str, Any]):
        super().__init__({key: Settings(value) if isinstance(value, Mapping) else value
                          for key, value in values.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class Reference:
    """One of the two, for sizes as `dreamer.SIZES` has them."""

    name: str

    def __init__(self, sizes: Mapping[str, int]):
        self.sizes = sizes

    @staticmethod
    def open(checkout: str, sizes: Mapping[str, int]) -> Reference:
        """Whichever the folder holds."""
        sys.modules |= {name: MagicMock() for name in _UNUSED}
        sys.path.insert(0, checkout)
        if (Path(checkout) / "rssm.py").exists():
            return R2Dreamer(sizes)
        if (Path(checkout) / "models.py").exists():
            return DreamerV3Torch(sizes)
        raise SystemExit(f"{checkout} holds neither r2dreamer nor dreamerv3-torch")

    def build(self) -> nn.Module:
        """Its RSSM."""
        raise NotImplementedError

    def observe(self, rssm: nn.Module, embed: Tensor, actions: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``[B, T, D + S * C]``, and the two divergences of posterior and prior ``[B, T]``, of whole clips."""
        raise NotImplementedError

    def imagine(self, rssm: nn.Module, deter: Tensor, stoch: Tensor, actions: Tensor) -> Tensor:
        """Features ``[N, H, D + S * C]`` of the states that actions ``[N, H, A]`` lead to."""
        raise NotImplementedError


class R2Dreamer(Reference):
    """The one with the block-diagonal GRU."""

    name = "r2dreamer"

    def build(self) -> nn.Module:
        from rssm import RSSM

        return RSSM(Settings(self._rssm()), self.sizes["embed"], self.sizes["actions"])

    def _rssm(self) -> dict[str, Any]:
        s = self.sizes
        return {"stoch": s["stoch"], "deter": s["deter"], "hidden": s["hidden"], "discrete": s["classes"],
                "img_layers": 2, "obs_layers": 1, "dyn_layers": 1, "blocks": s["blocks"], "act": "SiLU", "norm": True,
                "unimix_ratio": 0.01, "initial": "learned", "device": "cpu"}

    def observe(self, rssm: nn.Module, embed: Tensor, actions: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stoch, deter, posterior = rssm.observe(embed, actions, rssm.initial(len(embed)), first)
        _, prior = rssm.prior(deter)
        return rssm.get_feat(stoch, deter), *rssm.kl_loss(posterior, prior, 1.0)

    def imagine(self, rssm: nn.Module, deter: Tensor, stoch: Tensor, actions: Tensor) -> Tensor:
        return rssm.get_feat(*rssm.imagine_with_action(stoch, deter, actions))

    @staticmethod
    def draw_the_likeliest() -> None:
        """From here on all draws are the likeliest classes, so that both sides can be compared."""
        import distributions

        distributions.OneHotDist.rsample = lambda self, *_: self.mode

    def agent(self) -> nn.Module:
        """The whole agent, which learns from reconstructed images."""
        from dreamer import Dreamer

        s = self.sizes
        common = {"act": "SiLU", "norm": True, "device": "cpu", "units": s["units"], "symlog_inputs": False}
        image = {"depth": s["depth"], "units": s["units"], "mults": [2, 3, 4, 4], "act": "SiLU", "norm": True,
                 "kernel_size": 5, "minres": 4, "bspace": 8, "outscale": 1.0}
        keys = {"mlp_keys": "$^", "cnn_keys": "image"}
        two_hot = {"shape": [255], "dist": {"name": "symexp_twohot", "bin_num": 255}, "outscale": 0.0}
        config = Settings({
            "device": "cpu", "act_entropy": 3e-4, "kl_free": 1.0, "imag_horizon": s["horizon"], "horizon": 333,
            "lamb": 0.95, "compile": False, "log_grads": False, "rep_loss": "dreamer", "lr": 4e-5, "agc": 0.3,
            "pmin": 1e-3, "eps": 1e-20, "beta1": 0.9, "beta2": 0.999, "warmup": 1000, "slow_target_update": 1,
            "slow_target_fraction": 0.02,
            "loss_scales": {"recon": 1.0, "rew": 1.0, "con": 1.0, "dyn": 1.0, "rep": 0.1, "policy": 1.0, "value": 1.0,
                            "repval": 0.3},
            "rssm": self._rssm(),
            "encoder": keys | {"cnn": image, "mlp": common},
            "decoder": keys | {"cnn": image, "cnn_dist": {"name": "mse"}, "mlp_dist": {"name": "symlog_mse"}},
            "reward": common | two_hot | {"layers": 1, "name": "reward"},
            "cont": common | {"shape": [1], "layers": 1, "dist": {"name": "binary"}, "outscale": 1.0, "name": "cont"},
            "actor": common | {"shape": None, "layers": 3, "outscale": 0.01, "name": "actor", "dist": {
                "cont": {"name": "bounded_normal", "min_std": 0.1, "max_std": 1.0},
                "disc": {"name": "onehot", "unimix_ratio": 0.01}}},
            "critic": common | two_hot | {"layers": 3, "name": "value"},
        })
        space = SimpleNamespace(spaces={"image": SimpleNamespace(shape=(s["image"], s["image"], 3))})
        actions = SimpleNamespace(n=s["actions"], discrete=True)
        return Dreamer(config, space, actions)

    @staticmethod
    def train_step(agent: nn.Module, clips: Mapping[str, Tensor]) -> float:
        """One step as its ``update`` does it, without the replay and in 32-bit floats; the loss."""
        data = _Clips(clips)
        agent._update_slow_target()
        _, metrics = agent._cal_grad(agent.preprocess(data), agent.rssm.initial(len(data["image"])))
        agent._agc(agent._named_params.values())
        agent._optimizer.step()
        agent._scheduler.step()
        agent._optimizer.zero_grad(set_to_none=True)
        return metrics["opt/loss"].item()


class _Clips(dict):
    """Tensors by name that begin with the same two axes, as a TensorDict has them."""

    @property
    def shape(self) -> torch.Size:
        return self["image"].shape[:2]


class DreamerV3Torch(Reference):
    """The one with a GRU under layer norm."""

    name = "dreamerv3-torch"

    def build(self) -> nn.Module:
        from networks import RSSM

        s = self.sizes
        return RSSM(s["stoch"], s["deter"], s["hidden"], 1, s["classes"], "SiLU", True, "none", "sigmoid2", 0.1, 0.01,
                    "learned", s["actions"], s["embed"], "cpu")

    def observe(self, rssm: nn.Module, embed: Tensor, actions: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        posterior, prior = rssm.observe(embed, actions.clone(), first.float())
        _, _, dyn, rep = rssm.kl_loss(posterior, prior, 1.0, 1.0, 0.1)
        return rssm.get_feat(posterior), dyn, rep

    def imagine(self, rssm: nn.Module, deter: Tensor, stoch: Tensor, actions: Tensor) -> Tensor:
        state = {"deter": deter, "stoch": stoch, "logit": torch.zeros_like(stoch)}
        return rssm.get_feat(rssm.imagine_with_action(actions, state))
