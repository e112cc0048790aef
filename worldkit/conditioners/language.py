"""Language as precomputed token embeddings (LPWM: the last hidden state of T5-large, 32 tokens of 1024).

Source: upstream lpwm modules/modules.py @ 4cf53c4 (lang_proj), written from its description. As upstream, padding
tokens are attended to: checkpoints depend on it.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from ..batch import check_shape
from ..conditions import Condition
from ..config import ObsSpec
from ..registry import register_conditioner
from .base import Conditioner, ConditionerConfig, ModelView


class LanguageConfig(ConditionerConfig):
    """Options of the language conditioner.

    Attributes:
        embed_dim: Width of the embeddings.
        max_length: Tokens per instruction; embeddings must have exactly this many.
    """

    name: str = "language"
    embed_dim: int = Field(default=1024, gt=0)
    max_length: int = Field(default=32, gt=0)


@register_conditioner("language", aliases=("t5",), extra="language")
class LanguageConditioner(Conditioner):
    """Embeddings ``[B, L, E]`` -> ``L`` tokens to attend to, marked by a learned type vector."""

    Config = LanguageConfig

    def __init__(self, config: LanguageConfig, *, dim: int, obs: ObsSpec):
        super().__init__(config, dim=dim, obs=obs)
        self.project = nn.Linear(config.embed_dim, dim)
        self.kind = nn.Parameter(0.02 * torch.randn(dim))

    @classmethod
    def memory_tokens(cls, config: LanguageConfig) -> int:
        return config.max_length

    def check(self, raw: Tensor, *, name: str) -> None:
        config = self.config
        check_shape(raw, "b l e", name=f"condition '{name}'", l=config.max_length, e=config.embed_dim)

    def forward(self, raw: Tensor, mask: Tensor | None, *, view: ModelView) -> Condition:
        return Condition(memory=self.project(raw) + self.kind)
