"""The encoder contract: video -> described latent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor

from ..batch import Batch, check_shape
from ..component import Component
from ..config import ComponentConfig, ObsSpec
from ..distributions import MEANS, Sampler
from ..errors import ShapeError
from ..latents import Latent, LatentDist, LatentSpec


@dataclass(frozen=True)
class Encoding:
    """What an encoder found.

    Attributes:
        posterior: Distribution of the latent of every frame.
        latent: The sample (or mean) drawn while encoding; parts of the posterior may depend on it.
        aux: A typed dataclass of the encoder's own, for its regularizers, plots and tests.
        carry: Of an encoder that `carries`, what it goes on with after every frame, ``[B, T, ...]``.
        drawn: Of an encoder of codes, through which no gradient goes: what a decoder draws in their place while both
            learn, a latent of `Encoder.drawn_spec` whose gradient reaches the encoder; its values are those of
            `Encoder.look_up`. None: the latent itself.
    """

    posterior: LatentDist
    latent: Latent
    aux: Any = None
    carry: Tensor | None = None
    drawn: Latent | None = None

    @property
    def to_draw(self) -> Latent:
        """What an objective gives to ``model.decode``: `drawn` where there is one, else the latent."""
        return self.latent if self.drawn is None else self.drawn


class Encoder(Component, ABC):
    """Video -> latent. Subclasses set ``Config`` and, in ``__init__``, ``spec``.

    Attributes:
        Config: The component's config class.
        default_decoder: Registered name of the decoder that fits; used when an override swaps the encoder alone.
        spec: Description of the latent, available right after ``__init__``.
        every_token_draws: Whether a token that never draws a pixel is a fault, which training then reports. (Particles
            may rightly be idle: their transparency says so.)
        reads_vectors: Whether `forward` takes ``vectors`` as well: ``Batch.vectors``, checked to be those of ``obs``.
        borders: Whether nothing is carried over the borders of episodes (``Batch.first``): every frame is encoded by
            itself, or it carries something from frame to frame and knows where to forget it.
        carries: It has a memory: `forward` also takes ``first`` (bool ``[B, T]``, where to forget) and ``carry``
            (``Encoding.carry[:, -1:]`` of the frames before these).
        comes_trained: All of its weights came with it: objectives that do not train it need no trained model for it.
    """

    RETURNS = Encoding
    Config: ClassVar[type[ComponentConfig]]
    default_decoder: ClassVar[str | None] = None
    config: ComponentConfig
    obs: ObsSpec
    spec: LatentSpec
    every_token_draws: ClassVar[bool] = False
    reads_vectors: ClassVar[bool] = False
    borders: ClassVar[bool] = True
    carries: ClassVar[bool] = False
    comes_trained: bool = False

    def __init__(self, config: ComponentConfig, *, obs: ObsSpec):
        super().__init__()
        self.config, self.obs = config, obs

    @abstractmethod
    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        """Encode every frame.

        Args:
            video: Float in [0, 1], ``[B, T, C, H, W]``, or ``[B, V, T, C, H, W]`` if ``obs.views > 1``.
            sampler: Source of all randomness.
        """

    def see(self, batch: Batch, *, sampler: Sampler, **options: Any) -> Encoding:
        """`forward` of a batch whose video is float in [0, 1], with its vectors if this encoder reads them.

        Raises:
            ShapeError: there is no clip or no frame; a vector is missing (those that are there are named), has another
                shape or is not finite.
        """
        if batch.video.ndim > 4 and 0 in (batch.video.shape[0], batch.video.shape[-4]):
            raise ShapeError(f"video {list(batch.video.shape)} holds nothing to see: give at least a clip of a frame")
        if self.reads_vectors:
            options["vectors"] = checked_vectors(batch, self.obs)
        return self(batch.video, sampler=sampler, **options)

    def encode_goal(self, video: Tensor, *, sampler: Sampler) -> Latent:
        """Latent of goal images, ``video`` as in `forward`; means, unless an encoder says otherwise."""
        return self(video, sampler=MEANS).latent

    @property
    def drawn_spec(self) -> LatentSpec:
        """Description of what decoders draw: `spec`, unless `look_up` makes something else of it."""
        return self.spec

    def look_up(self, z: Latent) -> Latent:
        """What a decoder draws of a latent: of codes their vectors, a latent of `drawn_spec`. Others as they are.

        Raises:
            ShapeError: a code that there is not.
        """
        return z

    def settle(self, z: Latent) -> Latent:
        """A predicted latent as it is fed back into a prediction: unchanged, unless latents lie on levels."""
        return z

    def static_prior(self, encoding: Encoding) -> LatentDist | None:
        """Constant prior for frames that no dynamics predicts; None if the latent has none."""
        return None

    def first_frame_prior(self, batch_size: int) -> LatentDist | None:
        """Prior of a first frame nobody has seen, ``[B, 1]``; None if the latent has none."""
        return None

    def regularizers(self, encoding: Encoding) -> dict[str, Tensor]:
        """Further terms in nats, ``[B, T]`` each, added to the static KL."""
        return {}

    def summary(self, encoding: Encoding) -> dict[str, Tensor]:
        """Numbers worth a line in the log, about what `forward` found."""
        return {}

    def anchors(self) -> dict[str, Tensor]:
        """Field -> anchor of every token of one view (``{"position": [N, 2]}``), for heads and embeddings."""
        return {}

    def check_clip(self, frames: int) -> None:
        """Refuse to learn from clips of ``frames`` frames, if they are too few; the model asks when it is built.

        Raises:
            IncompatibleComponentsError: saying what to set instead.
        """

    def fold_frames(self, video: Tensor) -> Tensor:
        """Check a video and put all frames of all views in one batch: ``[(B V T), C, H, W]``."""
        obs = self.obs
        if obs.views == 1:
            check_shape(video, "b t c h w", name="video", c=obs.channels, h=obs.height, w=obs.width)
            return rearrange(video, "b t c h w -> (b t) c h w")
        check_shape(video, "b v t c h w", name="video", v=obs.views, c=obs.channels, h=obs.height, w=obs.width)
        return rearrange(video, "b v t c h w -> (b v t) c h w")


def checked_vectors(batch: Batch, obs: ObsSpec) -> dict[str, Tensor]:
    """Those vectors of a batch that ``obs`` names, in order of their names.

    Raises:
        ShapeError: one is missing (those that are there are named), has another shape, or, of vectors on the CPU, holds
            what is no number (-inf says that a value is missing, and is one).
    """
    clips, frames = batch.video.shape[0], batch.video.shape[-4]
    found = {}
    for name, width in obs.widths.items():
        if name not in batch.vectors:
            has = ", ".join(sorted(batch.vectors)) or "none"
            raise ShapeError(
                f"this model reads the vector '{name}', which the observations lack (their vectors: {has}): pass "
                f'Batch(video, vectors={{"{name}": ...}}), or clips of ClipDataset(..., '
                f"vectors=model.config.vectors); obs.columns.{name}=COLUMN feeds it from another column"
            )
        value = batch.vectors[name]
        known = type(value) is Tensor and value.device.type == "cpu" and not torch.compiler.is_compiling()
        if name in obs.discrete:
            check_shape(value, "b t", name=f"vector '{name}'", b=clips, t=frames)
            if value.dtype != torch.int64:
                raise ShapeError(f"vector '{name}' is a class of {width}: int64 [b, t], got {value.dtype}")
            if known and value.numel() and (value.min() < -1 or value.max() >= width):
                raise ShapeError(f"vector '{name}' must be a class from 0 to {width - 1} (-1: missing), got "
                                 f"{int(value.min())} to {int(value.max())}")
        else:
            check_shape(value, "b t s", name=f"vector '{name}'", b=clips, t=frames, s=width)
            if known and (bad := ~(value < torch.inf)).any():  # NaN compares with nothing
                clip, frame = bad.any(-1).nonzero()[0].tolist()
                raise ShapeError(f"vector '{name}' is not finite in clip {clip}, frame {frame}: "
                                 f"{value[clip, frame].tolist()[:8]}; a value that is missing is -inf")
        found[name] = value
    return found
