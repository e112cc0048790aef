"""PINT as in DDLP: joint attention over all tokens of all frames so far, over any described latent.

Predictions are changes: of every field that can be moved (position, scale, depth, features), the last value is added to
what the network says; positions move by at most 1 (tanh). Transparency is predicted as it is. What tells tokens and
frames apart is a relative bias on the attention (`nn.joint_transformer`), so token n must be the same thing in every
frame. Inside the window a rollout costs one frame per frame, with cached keys and values.

Source: DDLP (arXiv:2306.05957); upstream github.com/taldatech/ddlp @ 5686275, written from its description. Upstream
quirk, ``depth_logvar = "shared"``: the log-variance of the depth is the same network output as the change of the depth,
and the output made for it is never used; official weights are trained like that. Conditions, several views and other
latents than particles are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field as Option
from pydantic import model_validator
from torch import Tensor, nn

from ..component import NamedModules
from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import full_precision
from ..latents import Field, Key, Latent, LatentDist, LatentSpec, TokenGroup
from ..nn.joint_transformer import JointTransformer
from ..nn.rolling import Rolling
from ..nn.spec import field_order
from ..nn.transformer import join_tokens
from .base import Dynamics, Window

_FIELDS = ("position", "scale", "transparency", "depth", "features")


class PINTJointConfig(ComponentConfig):
    """Options of DDLP's PINT; defaults are upstream's for Balls.

    Attributes:
        dim: Token width.
        num_layers: Transformer layers.
        num_heads: Attention heads.
        hidden_dim: Width of the small networks before and after the transformer; None = ``dim``, as upstream.
        dropout: On attention weights and after every projection.
        predict_delta: Predict how fields change that can be moved; without it, their values.
        depth_logvar: ``"own"``: an output of its own, as of every field. ``"shared"``: the output of the depth's change
            once more (an upstream defect that its weights depend on). Concerns Normal fields named "depth".
        start: First weights. ``"upstream"``: small ones, attention to everything alike. ``"history"``: heads that each
            look at the token's own past (`JointTransformer.start_from_history`): on Balls, velocities are then learned
            in minutes on a CPU.
    """

    name: str = "pint-joint"
    dim: int = Option(default=256, gt=0)
    num_layers: int = Option(default=6, gt=0)
    num_heads: int = Option(default=8, gt=0)
    hidden_dim: int | None = Option(default=None, gt=0)
    dropout: float = Option(default=0.1, ge=0, lt=1)
    predict_delta: bool = True
    depth_logvar: Literal["own", "shared"] = "own"
    start: Literal["upstream", "history"] = "upstream"

    @model_validator(mode="after")
    def _check_width(self) -> PINTJointConfig:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} must be divisible by num_heads {self.num_heads}")
        return self


def _relu_mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class _GroupEmbed(nn.Module):
    """Values of a group's fields -> tokens: a network per field that keeps its width, joined by another.

    A single field needs no joining.
    """

    def __init__(self, group: TokenGroup, dim: int, hidden: int):
        super().__init__()
        self.group, self.fields = group.name, field_order(group, _FIELDS, None)
        dims, single = {f.name: f.dim for f in group.fields}, len(group.fields) == 1
        self.project = NamedModules({n: _relu_mlp(dims[n], hidden, dim if single else dims[n]) for n in self.fields})
        self.join = nn.Identity() if single else _relu_mlp(sum(dims.values()), hidden, dim)

    def forward(self, z: Latent) -> Tensor:
        return self.join(torch.cat([self.project[n](z.values[self.group, n]) for n in self.fields], -1))


@dataclass
class _Carry:
    rolling: Rolling
    pending: Latent  # newest frame, [B, 1]


class PINTJoint(Dynamics):
    """Transformer over all tokens of all frames so far, in one attention.

    Example:
        >>> from worldkit.conditions import EMPTY
        >>> from worldkit.testing import example_latent, example_spec
        >>> config = PINTJointConfig(dim=16, num_heads=2, num_layers=1)
        >>> dynamics = PINTJoint(config, spec=example_spec(), anchors={}, window=4)
        >>> dynamics.prior(example_latent(example_spec(), batch=2, time=4), EMPTY).mode().position.shape
        torch.Size([2, 4, 5, 2])
    """

    Config = PINTJointConfig
    requires = frozenset({"tracked", "continuous"})
    takes = frozenset({"frame", "token", "memory"})

    def __init__(self, config: PINTJointConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        self.cond_dim, hidden = config.dim, config.hidden_dim or config.dim
        self.inputs = NamedModules({g.name: _GroupEmbed(g, config.dim, hidden) for g in spec.groups})
        self.transformer = JointTransformer(
            dim=config.dim, num_layers=config.num_layers, num_heads=config.num_heads, max_frames=window,
            num_tokens=spec.num_tokens + memory_length, dropout=config.dropout,
        )
        self.backbone = nn.Sequential(
            nn.Linear(config.dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.heads = NamedModules({
            g.name: NamedModules({f.name: nn.Linear(hidden, f.dist.raw_dim(f.dim)) for f in g.fields})
            for g in spec.groups
        })
        if config.start == "history":
            self.transformer.start_from_history()

    def embed(self, z: Latent) -> Tensor:
        return torch.cat([embed(z) for embed in self.inputs.values()], 2)

    def _tokens(self, z: Latent, cond: Condition) -> Tensor:
        """``[B, T, N, D]``: latents, what conditions say about the transition that leaves each, and the memory."""
        tokens, steer = self.embed(z), cond.adaln()
        if steer is not None:
            tokens = tokens + steer
        return join_tokens(tokens, [cond.memory] if self.memory_length else [], None)[0]

    def _predict(self, tokens: Tensor, z: Latent) -> LatentDist:
        hidden, params = self.backbone(tokens[:, :, : self.spec.num_tokens]), {}
        for group, part in zip(self.spec.groups, hidden.split([g.size for g in self.spec.groups], 2), strict=True):
            for f in group.fields:
                key: Key = (group.name, f.name)
                params[key] = self._params(f, full_precision(self.heads[group.name][f.name](part)), z.values[key])
        return LatentDist(self.spec, params)

    def _params(self, f: Field, raw: Tensor, last: Tensor) -> Tensor:
        """Network output of a field -> parameters, given the field's last value."""
        if f.name == "depth" and self.config.depth_logvar == "shared" and "normal" in f.dist.properties:
            raw = raw[..., : f.dim].repeat(1, 1, 1, 2)
        moves = self.config.predict_delta and f.dist.movable
        if f.name == "position" and f.dist.movable:
            return f.dist.from_raw(raw, last if moves else torch.zeros_like(last))
        params = f.dist.from_raw(raw)
        return f.dist.shift(params, last) if moves else params

    def prior(self, z: Latent, cond: Condition) -> LatentDist:
        return self._predict(self.transformer(self._tokens(z, cond)), z)

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> _Carry:
        """The newest frame waits for the condition of the transition that leaves it."""
        rolling = Rolling(self.transformer, window=self.window, streaming=window == "streaming")
        past = z.shape[1] - 1
        if past:
            rolling.begin(self._tokens(z[:, :past], cond))
        return _Carry(rolling, z[:, past:])

    def step(self, carry: _Carry, cond: Condition) -> LatentDist:
        return self._predict(carry.rolling.append(self._tokens(carry.pending, cond)), carry.pending)

    def observe(self, carry: _Carry, z: Latent) -> None:
        carry.pending = z
