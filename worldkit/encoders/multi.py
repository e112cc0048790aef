"""The encoder of pictures and vectors at once: image and proprioception, as robots and simulators give them.

Each has a network of its own (`worldkit.encoders.mlp`, `worldkit.encoders.conv`); what they find is put side by side,
vectors first.

Source: danijar/dreamerv3 @ e3f0224, written from its description.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..config import ComponentConfig, ObsSpec
from ..distributions import Sampler
from .base import Encoder, Encoding
from .conv import ConvEncoderConfig, PictureReader, embedding, embedding_spec
from .mlp import MLPEncoderConfig, VectorReader


class MultiEncoderConfig(ComponentConfig):
    """Options of the encoder of pictures and vectors.

    Attributes:
        image: Of the network that sees pictures, as of encoder ``conv``.
        vectors: Of the network that sees vectors, as of encoder ``mlp``.
    """

    name: str = "multi"
    image: ConvEncoderConfig = ConvEncoderConfig()
    vectors: MLPEncoderConfig = MLPEncoderConfig()


class MultiEncoder(Encoder):
    """Video and vectors -> one token per frame, with a field "embedding" (a point).

    Example:
        >>> obs = ObsSpec(height=16, width=16, vectors={"position": 3})
        >>> encoder = MultiEncoder(MultiEncoderConfig(image={"depth": 4}, vectors={"units": 8}), obs=obs)
        >>> encoder(torch.rand(2, 5, 3, 16, 16), sampler=Sampler(), vectors={"position": torch.ones(2, 5, 3)}).latent
        Latent(state.embedding[2, 5, 1, 24])
    """

    Config = MultiEncoderConfig
    default_decoder = "multi"
    reads_vectors = True

    def __init__(self, config: MultiEncoderConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        self.vectors = VectorReader(config.vectors, obs=obs, path="encoder.vectors")
        self.picture = PictureReader(config.image, obs=obs, path="encoder.image")
        self.spec = embedding_spec(self.vectors.width + self.picture.width)

    def forward(self, video: Tensor, *, sampler: Sampler, vectors: Mapping[str, Tensor] | None = None) -> Encoding:
        return embedding(self.spec, torch.cat([self.vectors(vectors), self.picture(video)], -1))
