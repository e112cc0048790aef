"""Calls the official LeWM (stable-worldmodel, MIT) and V-JEPA 2-AC (facebookresearch/vjepa2, MIT) of the caller.

None of that code is part of this project. Both run as they come, in 32-bit floats; what they import for training on
clusters is stood in for. LeWM's encoder is transformers' ViT, as there.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
import torch.nn.functional as F
from planning import solvers
from torch import Tensor, nn

from worldkit.compat import import_transformers


class LeWM:
    """The default LeWM: ViT-tiny, a predictor of 6 blocks, 224 x 224, actions of 5 x 2 numbers.

    Args:
        reference: ``"installed"`` or a folder with ``stable_worldmodel`` (version 0.1.1).
    """

    def __init__(self, reference: str, *, dropout: float = 0.1):
        transformers = import_transformers("language", "the official LeWM")
        self.solvers = solvers(reference)
        for name in ("stable_worldmodel.wm", "stable_worldmodel.wm.lewm"):  # without what they import beside LeWM
            outer, _, inner = name.rpartition(".")
            package = types.ModuleType(name)
            package.__path__ = [str(Path(folder) / inner) for folder in sys.modules[outer].__path__]
            sys.modules.setdefault(name, package)
        module = importlib.import_module("stable_worldmodel.wm.lewm.module")
        lewm = importlib.import_module("stable_worldmodel.wm.lewm.lewm")
        config = transformers.ViTConfig(
            hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, patch_size=14,
            image_size=224, layer_norm_eps=1e-12)
        predictor = module.Predictor(num_frames=3, depth=6, heads=16, mlp_dim=2048, input_dim=192, hidden_dim=192,
                                     output_dim=192, dim_head=64, dropout=dropout)
        projectors = [module.MLP(192, 2048, 192, norm_fn=nn.BatchNorm1d) for _ in range(2)]
        embedder = module.Embedder(input_dim=10, smoothed_dim=10, emb_dim=192)
        self.model = lewm.LeWM(transformers.ViTModel(config, add_pooling_layer=False), predictor, embedder, *projectors)
        self.sigreg = importlib.import_module("stable_worldmodel.wm.loss").SIGReg(17, 1024)

    def loss(self, pixels: Tensor, action: Tensor) -> Tensor:
        """Of clips ``[B, 4, 3, 224, 224]``, normalised, and actions ``[B, 4, 10]``, as its training script has it."""
        info = self.model.encode({"pixels": pixels, "action": action})
        emb = info["emb"]
        ahead = self.model.predict(emb[:, :3], info["act_emb"][:, :3])
        return (ahead - emb[:, 1:]).square().mean() + 0.09 * self.sigreg(emb.transpose(0, 1))

    def planner(self, sizes: dict[str, int], seed: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Its CEM: pictures ``[1, 1, 3, 224, 224]`` of start and goal, normalised -> actions ``[1, 5, 10]``."""
        import gymnasium

        solver = self.solvers.CEMSolver(self.model, num_samples=sizes["candidates"], n_steps=sizes["iterations"],
                                        topk=sizes["elites"], seed=seed)
        config = type("Config", (), {"horizon": 5, "action_block": 5})
        solver.configure(action_space=gymnasium.spaces.Box(-1, 1, (1, 2)), n_envs=1, config=config)
        return lambda start, goal: solver.solve(
            {"pixels": start, "goal": goal, "action": torch.zeros(1, 1, 10)})["actions"]


class VJEPA2AC:
    """The predictor, and the roll-out of its planner (notebooks/utils): every step looks at all frames so far."""

    def __init__(self, checkout: str, sizes: dict[str, int]):
        sys.path.insert(0, checkout)
        for name in ("timm", "timm.models", "timm.models.layers", "tqdm"):
            try:
                importlib.import_module(name)
            except ImportError:
                sys.modules[name] = MagicMock()
        if not (Path(checkout) / "src" / "models" / "ac_predictor.py").exists():
            raise SystemExit(f"{checkout} holds no src/models/ac_predictor.py: give a checkout of "
                             "github.com/facebookresearch/vjepa2, --vjepa2 FOLDER")
        from notebooks.utils.mpc_utils import compute_new_pose
        from src.models.ac_predictor import vit_ac_predictor

        self.moved, self.count = compute_new_pose, sizes["grid"] ** 2
        self.predictor: Any = vit_ac_predictor(
            img_size=16 * sizes["grid"], patch_size=16, num_frames=2 * sizes["steps"], tubelet_size=2,
            embed_dim=sizes["features"], predictor_embed_dim=sizes["dim"], depth=sizes["layers"],
            num_heads=sizes["heads"],
        ).eval()

    @torch.no_grad()
    def rollout(self, patches: Tensor, pose: Tensor, actions: Tensor) -> Tensor:
        """Patches ``[B, 1, N, C]``, pose ``[B, 1, 7]``, actions ``[B, T, 7]`` -> patches ``[B, T, N, C]``."""
        for t in range(actions.shape[1]):
            said = self.predictor(patches.flatten(1, 2), actions[:, : t + 1], pose)[:, -self.count :]
            patches = torch.cat([patches, F.layer_norm(said, said.shape[-1:])[:, None]], 1)
            pose = torch.cat([pose, self.moved(pose[:, -1:], actions[:, t : t + 1])], 1)
        return patches[:, 1:]
