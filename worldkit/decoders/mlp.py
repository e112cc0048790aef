"""The decoder of vectors: a state to the vectors that were observed, for models that see vectors alone.

Source: danijar/dreamerv3 @ e3f0224, danijar/dreamerv2 @ 07d906e, written from their description. Difference: what
leaves the decoder is in the data's own units; the loss is upstream's, in symlog space.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from ..component import NamedModules
from ..config import ComponentConfig, ObsSpec
from ..errors import ConfigError
from ..latents import Latent, LatentSpec
from ..nn.dense import Activation, DenseStack, Init, Norm, linear
from ..nn.two_hot import symexp
from .base import Decoded, Decoder
from .state import StateReader


class MLPDecoderConfig(ComponentConfig):
    """Options of the decoder of vectors; those of Dreamer v1 and v2 are as of encoder ``mlp``.

    Attributes:
        units: Width of a layer.
        layers: How many.
        symlog: Numbers are predicted as sign(x) log(1 + |x|), so that large ones do not outweigh the others.
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


class Readout(nn.Module):
    """Flat state ``[B, T, inputs]`` -> what is predicted of every vector, before symexp and softmax."""

    def __init__(self, config: MLPDecoderConfig, *, inputs: int, obs: ObsSpec, path: str = "decoder"):
        super().__init__()
        if not obs.widths:
            raise ConfigError(f"{path} '{config.name}' predicts vectors, but these observations name none: "
                              "obs.vectors.NAME=WIDTH; or decoder=conv, which draws pictures")
        self.obs, self.symlog = obs, config.symlog
        self.stack = DenseStack(inputs, units=config.units, layers=config.layers, norm=config.norm,
                                activation=config.activation, eps=config.norm_eps, init=config.init)
        self.outputs = NamedModules({name: linear(self.stack.width, width, init=config.init)
                                     for name, width in obs.widths.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stack(x)
        return {name: layer(x) for name, layer in self.outputs.items()}

    def told(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In the data's units, of discrete ones the probability of every class."""
        return {name: x.softmax(-1) if name in self.obs.discrete else symexp(x) if self.symlog else x
                for name, x in raw.items()}


class MLPDecoder(Decoder):
    """State -> vectors (``Decoded.vectors``); the video is empty.

    Example:
        >>> import torch
        >>> from worldkit.encoders.conv import embedding_spec
        >>> spec, obs = embedding_spec(6), ObsSpec(vectors={"position": 3})
        >>> drawn = MLPDecoder(MLPDecoderConfig(), spec=spec, obs=obs)(
        ...     Latent.build(spec, {("state", "embedding"): torch.randn(2, 5, 1, 6)}))
        >>> drawn.vectors["position"].shape, drawn.video.shape
        (torch.Size([2, 5, 3]), torch.Size([2, 5, 3, 0, 0]))
    """

    Config = MLPDecoderConfig

    def __init__(self, config: MLPDecoderConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        if obs.height:
            raise ConfigError(
                f"decoder 'mlp' predicts vectors alone, but these observations have a picture ({obs.height} x "
                f"{obs.width}): decoder=multi predicts both, decoder=conv the picture; or see no picture, "
                "obs.height=0 and obs.width=0"
            )
        self.state = StateReader(spec)
        self.readout = Readout(config, inputs=self.state.drawn + self.state.memory, obs=obs)
        self.predicts, self.predicts_symlog = tuple(obs.widths), config.symlog

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        flat, obs = self.state.flat(z), self.obs
        views = () if obs.views == 1 else (obs.views,)
        raw = self.readout(flat)
        video = flat.new_zeros(flat.shape[0], *views, flat.shape[1], obs.channels, 0, 0)
        return Decoded(video=video, vectors=self.readout.told(raw), raw=raw)
