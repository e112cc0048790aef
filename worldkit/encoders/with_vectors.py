"""Patches of another encoder, and what is observed beside the picture: the pose of a robot, its camera.

Two ways are in use. As tokens of their own (V-JEPA 2-AC): every vector is a group of one token, its numbers as they
are. As channels: every patch carries what a linear layer makes of all of them (DINO-WM), or the numbers themselves
(PLDM).

Source: V-JEPA 2-AC (arXiv:2506.09985), DINO-WM (arXiv:2411.04983), PLDM (arXiv:2502.14819), written from their
description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from .. import registry as registries
from ..config import Choice, ComponentConfig, ObsSpec
from ..distributions import Delta, Sampler
from ..errors import ConfigError
from ..latents import Field as LatentField
from ..latents import LatentDist, TokenGroup
from .base import Encoder, Encoding


class WithVectorsConfig(ComponentConfig):
    """Options of patches with vectors.

    Attributes:
        picture: The encoder of the picture, with its own options; it gives patches.
        channels: Numbers that every patch carries for the vectors; 0: vectors are tokens of their own.
        tiled: Every patch carries the vectors' own numbers; ``channels`` is 0 then.
    """

    name: str = "with-vectors"
    picture: Choice(registries.encoders) = Field(  # type: ignore[valid-type]
        default={"name": "jepa-vit"}, validate_default=True)
    channels: int = Field(default=0, ge=0)
    tiled: bool = False

    @model_validator(mode="after")
    def _check(self) -> WithVectorsConfig:
        if self.tiled and self.channels:
            raise ValueError("patches carry the vectors themselves (tiled) or so many channels made of them: leave one "
                             "out")
        return self


class WithVectors(Encoder):
    """Video and vectors -> patches, and a group (or a field of the patches, "vectors") for what is observed beside.

    Raises:
        ConfigError: there are no vectors, several views, or an encoder that gives no patches.
    Example:
        >>> obs = ObsSpec(height=16, width=16, vectors={"pose": 7})
        >>> picture = {"name": "jepa-vit", "patch_size": 8, "dim": 8, "num_layers": 1, "num_heads": 2}
        >>> encoder = WithVectors(WithVectorsConfig(picture=picture), obs=obs)
        >>> encoder(torch.rand(2, 3, 3, 16, 16), sampler=Sampler(), vectors={"pose": torch.ones(2, 3, 7)}).latent
        PatchTokens(patches.features[2, 3, 4, 8], pose.values[2, 3, 1, 7])
    """

    Config = WithVectorsConfig
    default_decoder = "patch"
    reads_vectors = True
    config: WithVectorsConfig

    def __init__(self, config: WithVectorsConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        if not obs.widths or obs.discrete or obs.views > 1:
            raise ConfigError("encoder 'with-vectors' reads vectors of numbers beside one view; give obs.vectors "
                              "(-o obs.vectors.pose=7), or take the picture's encoder alone")
        self.picture = registries.encoders.get(config.picture.name)(config.picture, obs=obs)
        spec = self.picture.spec
        if spec.kind != "patches" or len(spec.groups) > 1:
            raise ConfigError(f"encoder 'with-vectors' puts vectors beside patches, and encoder.picture "
                              f"'{config.picture.name}' gives {spec.groups[0].name}: take jepa-vit, pretrained or "
                              "patch")
        given, self.carried = sum(obs.widths.values()), bool(config.channels or config.tiled)
        if self.carried:
            field = LatentField("vectors", config.channels or given, Delta(), "what is observed beside the picture")
            group = replace(spec.groups[0], fields=(*spec.groups[0].fields, field))
            self.spec = replace(spec, groups=(group,))
            self.channels = nn.Identity() if config.tiled else nn.Linear(given, config.channels)
        else:
            groups = (TokenGroup(name, 1, (LatentField("values", width, Delta(), f"the vector {name}"),))
                      for name, width in obs.widths.items())
            self.spec = replace(spec, groups=(*spec.groups, *groups))

    def forward(self, video: Tensor, *, sampler: Sampler, vectors: Mapping[str, Tensor] | None = None) -> Encoding:
        found = self.picture(video, sampler=sampler)
        params = dict(found.posterior.params)
        vectors = vectors or {}
        given = {name: vectors[name].to(found.latent.presence.dtype) for name in self.obs.widths}
        if self.carried:
            carried = self.channels(torch.cat(list(given.values()), -1))
            params["patches", "vectors"] = carried[:, :, None].expand(-1, -1, self.spec.num_tokens, -1)
        else:
            params |= {(name, "values"): value[:, :, None] for name, value in given.items()}
        posterior = LatentDist(self.spec, params)
        return Encoding(posterior, posterior.sample(sampler))
