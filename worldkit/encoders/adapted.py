"""Frozen features of another encoder, made narrow by an adapter (`worldkit.nn.adapters`): semantic-wm's latents.

The adapter learns by objective ``adapter``, and stays as it is while a dynamics learns. Latents are its means, except
where something is drawn.

Source: semantic-wm (arXiv:2605.06388), written from a description of the facts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor

from .. import registry as registries
from ..config import Choice, ComponentConfig, ObsSpec
from ..distributions import Delta, Sampler, full_precision
from ..errors import ConfigError, WorldkitError
from ..latents import Field as LatentField
from ..latents import LatentDist, LatentSpec, TokenGroup
from ..nn.adapters import Adapter, AdapterConfig, Narrowed, adapter_terms
from .base import Encoder, Encoding


class AdaptedConfig(ComponentConfig):
    """Options of adapted features.

    Attributes:
        picture: The encoder of the picture, with its own options; it gives patches and is never trained here.
        adapter: What makes them narrow.
    """

    name: str = "adapted"
    picture: Choice(registries.encoders) = Field(  # type: ignore[valid-type]
        default={"name": "jepa-vit"}, validate_default=True)
    adapter: AdapterConfig = AdapterConfig()


@dataclass(frozen=True)
class Adapted:
    """What the adapter was given and made of it, frames of all views as rows: ``[(B T V), N, ...]``."""

    features: Tensor
    narrowed: Narrowed
    shape: tuple[int, int, int]  # B, T, V


class AdaptedEncoder(Encoder):
    """Video -> narrow tokens on the grid of another encoder.

    Raises:
        ConfigError: that encoder gives no patches of numbers, or the adapter does not fit them.
    Example:
        >>> picture = {"name": "jepa-vit", "patch_size": 8, "dim": 16, "num_layers": 1, "num_heads": 2}
        >>> adapter = {"dim": 4, "num_layers": 1, "num_heads": 2, "hidden": 8}
        >>> encoder = AdaptedEncoder(AdaptedConfig(picture=picture, adapter=adapter), obs=ObsSpec(height=16, width=16))
        >>> encoder(torch.rand(2, 3, 3, 16, 16), sampler=Sampler()).latent
        PatchTokens(patches.features[2, 3, 4, 4])
    """

    Config = AdaptedConfig
    default_decoder = "patch"
    config: AdaptedConfig

    def __init__(self, config: AdaptedConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        try:
            self.picture = registries.encoders.get(config.picture.name)(config.picture, obs=obs)
        except WorldkitError as error:  # its options are written behind encoder.picture here
            options = "|".join(type(config.picture).model_fields)
            raise type(error)(re.sub(rf"\bencoder\.(?=({options})\b)", "encoder.picture.", str(error))) from error
        spec = self.picture.spec
        if spec.kind != "patches" or len(spec.groups) > 1 or "continuous" not in spec.properties:
            raise ConfigError(f"encoder 'adapted' makes patches of numbers narrow, and encoder.picture "
                              f"'{config.picture.name}' gives {', '.join(g.name for g in spec.groups)} of another "
                              "kind: take pretrained (or one by name: vae, rae, ...), jepa-vit or patch")
        self.picture.requires_grad_(False).eval()
        self.comes_trained = self.picture.comes_trained and config.adapter.name == "identity"
        self.adapter = Adapter.make(config.adapter, spec.flat_dim(spec.groups[0].name))
        field = LatentField("features", self.adapter.dim, Delta(), "adapted features")
        group = TokenGroup("patches", spec.groups[0].size, (field,))
        self.spec = LatentSpec((group,), grid=spec.grid, views=spec.views, kind="patches")

    def train(self, mode: bool = True) -> AdaptedEncoder:
        """The picture's encoder stays in evaluation mode."""
        super().train(mode)
        self.picture.eval()
        return self

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        with torch.no_grad():
            found = self.picture(video, sampler=sampler).latent.flat(self.picture.spec.groups[0].name)
        features = rearrange(full_precision(found), "b t (v n) d -> (b t v) n d", v=self.spec.views)
        narrowed = self.adapter.narrow(features, sampler)
        clips, frames = found.shape[:2]
        tokens = rearrange(full_precision(narrowed.tokens), "(b t v) n d -> b t (v n) d", b=clips, v=self.spec.views)
        posterior = LatentDist(self.spec, {("patches", "features"): tokens})
        return Encoding(posterior, posterior.sample(sampler), Adapted(features, narrowed, (clips, frames,
                                                                                          self.spec.views)))

    def regularizers(self, encoding: Encoding) -> dict[str, Tensor]:
        """What the adapter learns by, see `worldkit.nn.adapters.adapter_terms`; nothing of ``identity``."""
        if not any(True for _ in self.adapter.parameters()):
            return {}
        seen: Adapted = encoding.aux
        clips, frames, views = seen.shape
        terms = adapter_terms(seen.features, self.adapter.widen(seen.narrowed.tokens), seen.narrowed, spectral=True)
        return {name: x.view(clips, frames, views).mean(2) for name, x in terms.items()}
