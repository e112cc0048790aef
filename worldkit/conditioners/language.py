"""Language as token embeddings (LPWM: the last hidden state of T5-large, 32 tokens of 1024), precomputed or from text.

Source: upstream lpwm modules/modules.py @ 4cf53c4 (lang_proj), written from its description. As upstream, padding
tokens are attended to unless the conditioner has a null embedding: checkpoints depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..batch import check_shape
from ..conditions import Condition
from ..config import ObsSpec
from ..errors import ConditionError, ConfigError
from .base import Conditioner, ConditionerConfig, ModelView, stand_in
from .text import check_texts, encode_text, encode_text_with_mask, text_encoder

__all__ = ["LanguageConditioner", "LanguageConfig", "encode_text", "encode_text_with_mask"]


class LanguageConfig(ConditionerConfig):
    """Options of the language conditioner.

    Attributes:
        embed_dim: Width of the embeddings.
        max_length: Tokens per instruction; embeddings must have exactly this many.
        model: T5 encoder that turns strings into embeddings, a hub id (``"google-t5/t5-large"``) or a local folder;
            None: only embeddings are taken. The encoder stays frozen and outside the model.
        null_embedding: Learn a stand-in for tokens that are not given (mask False). Padding of strings then is not
            given. Without it, padding is attended to, as upstream.
    """

    name: str = "language"
    embed_dim: int = Field(default=1024, gt=0)
    max_length: int = Field(default=32, gt=0)
    model: str | None = None
    null_embedding: bool = False


class LanguageConditioner(Conditioner):
    """Embeddings ``[B, L, E]``, or B strings -> ``L`` tokens to attend to, marked by a learned type vector.

    A mask is ``[B, L]`` (False: padding) or ``[B]`` (False: no instruction).
    """

    Config = LanguageConfig
    gives = frozenset({"memory"})

    def __init__(self, config: LanguageConfig, *, dim: int, obs: ObsSpec):
        super().__init__(config, dim=dim, obs=obs)
        self.project = nn.Linear(config.embed_dim, dim)
        self.kind = nn.Parameter(0.02 * torch.randn(dim))
        self.takes_mask = config.null_embedding
        self.null = nn.Parameter(0.02 * torch.randn(config.embed_dim)) if config.null_embedding else None

    @classmethod
    def memory_tokens(cls, config: LanguageConfig) -> int:
        return config.max_length

    def check(self, raw: Any, *, name: str) -> None:
        config = self.config
        if not isinstance(raw, (str, list, tuple)):
            check_shape(raw, "b l e", name=f"condition '{name}'", l=config.max_length, e=config.embed_dim)
            return
        check_texts(raw, f"condition '{name}'")
        if config.model is None:
            raise ConditionError(
                f"condition '{name}' was given strings, but its conditioner has no text encoder; set "
                f"conditioners.{name}.model='google-t5/t5-large' (or a local folder), or pass embeddings "
                f"[B, {config.max_length}, {config.embed_dim}]"
            )
        width = text_encoder(config.model).width
        if width != config.embed_dim:
            raise ConfigError(
                f"conditioners.{name}.embed_dim is {config.embed_dim}, but '{config.model}' gives embeddings of width "
                f"{width}; set conditioners.{name}.embed_dim={width}"
            )

    def mask_shapes(self, raw: Any) -> list[tuple[int, ...]]:
        return [(len(raw),), (len(raw), self.config.max_length)]

    def forward(self, raw: Tensor | Sequence[str], mask: Tensor | None, *, view: ModelView) -> Condition:
        if not torch.is_tensor(raw):
            raw, mask = self._encode(raw, mask)
        return Condition(memory=self.project(stand_in(raw, mask, self.null)) + self.kind)

    def _encode(self, texts: Sequence[str], mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Embeddings, and the mask without the padding."""
        config, masked = self.config, self.null is not None
        embeddings, tokens = encode_text_with_mask(texts, config.model, config.max_length, attend_padding=not masked)
        if masked:
            tokens = tokens.to(self.kind.device)
            mask = tokens if mask is None else tokens & (mask[:, None] if mask.ndim == 1 else mask)
        return embeddings.to(self.kind), mask
