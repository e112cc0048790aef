"""The encoder of vectors: proprioception to one vector, which an RSSM filters.

Its options are Dreamer v3's; those of v1 and v2 are ``symlog=False``, ``units=400``, ``layers=4``, ``norm="none"``,
``activation="elu"``, ``init="glorot"``.

Source: danijar/dreamerv3 @ e3f0224, danijar/dreamerv2 @ 07d906e, written from their description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..config import ComponentConfig, ObsSpec
from ..distributions import Sampler
from ..errors import ConfigError, ShapeError
from ..nn.dense import Activation, DenseStack, Init, Norm
from ..nn.two_hot import symlog
from .base import Encoder, Encoding
from .conv import embedding, embedding_spec


class MLPEncoderConfig(ComponentConfig):
    """Options of the encoder of vectors.

    Attributes:
        units: Width of a layer.
        layers: How many.
        symlog: Large numbers are brought nearer to each other first: sign(x) log(1 + |x|).
        norm: Of every layer.
        norm_eps: Added to what the norm divides by.
        activation: After the norm.
        init: Of the initial weights.
    """

    name: str = "mlp"
    units: int = Field(default=256, gt=0)
    layers: int = Field(default=3, gt=0)
    symlog: bool = True
    norm: Norm = "rms"
    norm_eps: float = Field(default=1e-4, gt=0)
    activation: Activation = "silu"
    init: Init = "truncated-normal"


class VectorReader(nn.Module):
    """Vectors -> ``[B, T, width]``: the network of this encoder, for others that read vectors as well.

    Raises:
        ConfigError: there are no vectors.
    """

    def __init__(self, config: MLPEncoderConfig, *, obs: ObsSpec, path: str = "encoder"):
        super().__init__()
        if not obs.widths:
            raise ConfigError(
                f"{path} '{config.name}' reads vectors, but these observations name none: obs.vectors.NAME=WIDTH (of "
                "data of `worldkit collect`: obs.vectors.observation=WIDTH); or encoder=conv, which reads pictures"
            )
        self.obs, self.symlog = obs, config.symlog
        self.stack = DenseStack(
            sum(obs.widths.values()), units=config.units, layers=config.layers, norm=config.norm,
            activation=config.activation, eps=config.norm_eps, init=config.init,
        )
        self.width = self.stack.width

    def forward(self, vectors: Mapping[str, Tensor] | None) -> Tensor:
        joined = join_vectors(vectors, self.obs, self.stack[0].linear.weight.dtype, symlog if self.symlog else None)
        return self.stack(joined)


def join_vectors(vectors: Mapping[str, Tensor] | None, obs: ObsSpec, dtype: torch.dtype,
                 change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Vectors side by side, ``[B, T, sum of widths]``: classes one-hot, missing values 0.

    Args:
        vectors: As `Encoder.see` gives them.
        obs: Says which there are.
        dtype: Of the result.
        change: What is done to vectors that are no classes.
    Raises:
        ShapeError: none were given.
    """
    if vectors is None:
        raise ShapeError(
            f"this model reads the vectors {', '.join(obs.widths)} beside the video, and none were given: "
            "encode a batch, Batch(video, vectors=...); a picture alone (a goal image, say) is not enough for it"
        )
    columns = []
    for name, width in obs.widths.items():
        value = vectors[name]
        if name in obs.discrete:
            columns.append(F.one_hot(value.clamp(min=0), width).to(dtype) * (value >= 0)[..., None])
        else:
            value = value.to(dtype)
            value = torch.where(value == -torch.inf, 0.0, value)
            columns.append(value if change is None else change(value))
    return torch.cat(columns, -1)


class MLPEncoder(Encoder):
    """Vectors -> one token per frame, with a field "embedding" (a point); it does not look at the video.

    Example:
        >>> encoder = MLPEncoder(MLPEncoderConfig(units=8), obs=ObsSpec(vectors={"position": 3}))
        >>> encoder(torch.zeros(2, 5, 3, 0, 0), sampler=Sampler(), vectors={"position": torch.ones(2, 5, 3)}).latent
        Latent(state.embedding[2, 5, 1, 8])
    """

    Config = MLPEncoderConfig
    default_decoder = "mlp"
    reads_vectors = True

    def __init__(self, config: MLPEncoderConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        self.vectors = VectorReader(config, obs=obs)
        self.spec = embedding_spec(self.vectors.width)

    def forward(self, video: Tensor, *, sampler: Sampler, vectors: Mapping[str, Tensor] | None = None) -> Encoding:
        return embedding(self.spec, self.vectors(vectors))
