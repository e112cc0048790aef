"""PINT: the particle interaction transformer of DDLP / LPWM as a dynamics over any described latent.

Tokens of all frames pass through factorised attention (among tokens, then causally over time); every modulation is
AdaLN by the condition plus learned embeddings of token and time. Predicted positions are relative to the token's anchor
(its image patch), not to the previous position.

Source: LPWM (arXiv:2603.04553); upstream modules/modules.py @ 4cf53c4 (DLPDynamics), written from its description.
Upstream quirk: with ``predict_delta`` the previous position is added although the anchor already is. Ours:
``predict_changes``, every movable field relative to its previous value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field, model_validator
from torch import Tensor

from ..conditions import Condition
from ..config import ComponentConfig
from ..errors import IncompatibleComponentsError
from ..latents import Latent, LatentDist, LatentSpec
from ..nn.rolling import Rolling
from ..nn.spec import LatentEmbed, LatentHead, field_order
from ..nn.transformer import SpatioTemporalTransformer, join_tokens
from .base import Dynamics, Window

_FIELDS = ("position", "scale", "transparency", "depth", "features", "origin")


class PINTConfig(ComponentConfig):
    """Options of PINT.

    Attributes:
        dim: Token width.
        num_layers: Layers; each is a spatial and a temporal half-layer with its own attention and MLP.
        num_heads: Attention heads.
        dropout: On attention weights and after every projection.
        predict_delta: Add the previous position to the predicted mean (upstream option, off in all its configs).
        predict_changes: Predict how fields change that can be moved, unbounded ones (`Distribution.movable`), instead
            of their values: without training, they repeat the last frame. Not upstream's.
        scale_prior: Initial mean of predicted scale logits, as a box side over image side in (0, 1); only without
            ``predict_changes``.
    """

    name: str = "pint"
    dim: int = Field(default=512, gt=0)
    num_layers: int = Field(default=6, gt=0)
    num_heads: int = Field(default=8, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    predict_delta: bool = False
    predict_changes: bool = False
    scale_prior: float = Field(default=0.1875, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_way(self) -> PINTConfig:
        if self.predict_delta and self.predict_changes:
            raise ValueError("predict_delta adds the last position, predict_changes adds the last value of every field "
                             "that can be moved: set one of them")
        return self


@dataclass
class _Carry:
    rolling: Rolling
    pending: Latent  # newest frame, [B, 1]


class PINT(Dynamics):
    """Transformer over all tokens of all frames so far."""

    Config = PINTConfig
    requires = frozenset({"tracked", "continuous"})
    takes = frozenset({"frame", "token", "memory"})

    def __init__(self, config: PINTConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        self.cond_dim = config.dim
        key = spec.find("position") if config.predict_delta else None
        if key is not None and not spec.field(key).dist.movable:
            raise IncompatibleComponentsError(
                f"dynamics.predict_delta adds the last position to the predicted one, but {spec.field(key).dist} "
                "cannot be moved: set dynamics.predict_delta = false, or write its shift()"
            )
        fields = {g.name: field_order(g, _FIELDS, anchors) for g in spec.groups if spec.kind == "particles"}
        self.embed_latent = LatentEmbed(spec, config.dim, fields=fields, anchors=anchors)
        self.transformer = SpatioTemporalTransformer(
            dim=config.dim, num_layers=config.num_layers, num_heads=config.num_heads, max_frames=window,
            num_tokens=spec.num_tokens + memory_length, dropout=config.dropout,
        )
        self.head = LatentHead(spec, config.dim, anchors=None if config.predict_changes else anchors)
        if config.predict_changes:
            self.head.start_at_rest()
        else:
            self.head.start_from(config.scale_prior)

    def embed(self, z: Latent) -> Tensor:
        return self.embed_latent(z, mark_views=False)

    def _inputs(self, z: Latent, cond: Condition) -> tuple[Tensor, Tensor | None]:
        return join_tokens(self.embed_latent(z), [cond.memory] if self.memory_length else [], cond.adaln())

    def _predict(self, tokens: Tensor, z: Latent) -> LatentDist:
        out = self.head(tokens[:, :, : self.spec.num_tokens])
        if self.config.predict_changes:
            return out.shift(z)
        if not self.config.predict_delta:
            return out
        params, key = dict(out.params), self.spec.find("position")
        if key is not None:
            params[key] = self.spec.field(key).dist.shift(params[key], z.values[key])
        return LatentDist(self.spec, params)

    def prior(self, z: Latent, cond: Condition) -> LatentDist:
        return self._predict(self.transformer(*self._inputs(z, cond)), z)

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> _Carry:
        """The newest frame waits for the condition of the transition that leaves it."""
        rolling = Rolling(self.transformer, window=self.window, streaming=window == "streaming")
        past = z.shape[1] - 1
        if past:
            rolling.begin(*self._inputs(z[:, :past], cond))
        return _Carry(rolling, z[:, past:])

    def step(self, carry: _Carry, cond: Condition) -> LatentDist:
        out = carry.rolling.append(*self._inputs(carry.pending, cond))
        return self._predict(out, carry.pending)

    def observe(self, carry: _Carry, z: Latent) -> None:
        carry.pending = z
