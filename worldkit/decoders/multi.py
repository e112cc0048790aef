"""The decoder of pictures and vectors at once; each has a network of its own, reading the same state.

Source: danijar/dreamerv3 @ e3f0224, written from its description.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from ..config import ComponentConfig, ObsSpec
from ..latents import Latent, LatentSpec
from .base import Decoded, Decoder
from .conv import ConvDecoderConfig, Painter, TransposedDecoderConfig, TransposedPainter, as_video
from .mlp import MLPDecoderConfig, Readout
from .state import StateReader

_PAINTERS: dict[type, type[Painter] | type[TransposedPainter]] = {
    ConvDecoderConfig: Painter, TransposedDecoderConfig: TransposedPainter,
}


def _image(value: Any) -> Any:
    """Options of one of the two picture decoders, chosen by their name."""
    if isinstance(value, ComponentConfig):
        return value
    value = {"name": value} if isinstance(value, str) else dict(value)
    known = {cls.model_fields["name"].default: cls for cls in _PAINTERS}
    name = str(value.get("name", "conv")).replace("_", "-")
    if name not in known:
        raise ValueError(f"decoder.image is one of {', '.join(known)}, got {name!r}")
    return known[name].model_validate({**value, "name": name})


class MultiDecoderConfig(ComponentConfig):
    """Options of the decoder of pictures and vectors.

    Attributes:
        image: Of the network that draws, as of decoder ``conv`` or ``conv-transposed``.
        vectors: Of the network that predicts vectors, as of decoder ``mlp``.
    """

    name: str = "multi"
    image: Annotated[ConvDecoderConfig | TransposedDecoderConfig, BeforeValidator(_image)] = ConvDecoderConfig()
    vectors: MLPDecoderConfig = MLPDecoderConfig()


class MultiDecoder(Decoder):
    """State -> video and vectors.

    Example:
        >>> import torch
        >>> from worldkit.encoders.conv import embedding_spec
        >>> spec, obs = embedding_spec(6), ObsSpec(height=16, width=16, vectors={"position": 3})
        >>> drawn = MultiDecoder(MultiDecoderConfig(), spec=spec, obs=obs)(
        ...     Latent.build(spec, {("state", "embedding"): torch.randn(2, 5, 1, 6)}))
        >>> drawn.vectors["position"].shape, drawn.video.shape
        (torch.Size([2, 5, 3]), torch.Size([2, 5, 3, 16, 16]))
    """

    Config = MultiDecoderConfig

    def __init__(self, config: MultiDecoderConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        self.state = StateReader(spec)
        self.readout = Readout(config.vectors, inputs=self.state.drawn + self.state.memory, obs=obs,
                               path="decoder.vectors")
        self.predicts, self.predicts_symlog = tuple(obs.widths), config.vectors.symlog
        painter = _PAINTERS[type(config.image)]
        self.painter = painter(config.image, drawn=self.state.drawn, memory=self.state.memory, obs=obs,
                               path="decoder.image")

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        drawn, memory = self.state(z)
        raw = self.readout(self.state.flat(z))
        video = as_video(self.painter(drawn.flatten(0, 1), memory.flatten(0, 1)), self.obs, z)
        return Decoded(video=video, vectors=self.readout.told(raw), raw=raw)
