"""Options of G-SWM. It is a family of its own: its parts share networks and the state of objects, so none is swapped.

Upstream's names of all options are in `worldkit.convert.gswm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from ..config import ComponentConfig, Config, WorldModelConfig

FAMILY = "g-swm"


class Ramp(Config):
    """A number that changes linearly (or by equal factors) between two training steps and is constant outside.

    Attributes:
        start, end: Its values.
        first, last: The steps.
    Example:
        >>> Ramp(start=1.0, end=3.0, first=10, last=20).at(15), Ramp(start=1e-2, end=1e-4, last=4).at(2, factors=True)
        (2.0, 0.001)
    """

    start: float
    end: float
    first: int = Field(default=0, ge=0)
    last: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Ramp:
        if self.last <= self.first:
            raise ValueError(f"a ramp ends after it begins: last must be above first ({self.first}), got {self.last}")
        return self

    def at(self, step: int, *, factors: bool = False) -> float:
        """Value at a training step; ``factors``: by equal factors, for small probabilities."""
        share = min(max((step - self.first) / (self.last - self.first), 0.0), 1.0)
        if share in (0.0, 1.0):
            return self.end if share else self.start
        if factors:
            return self.start * (self.end / self.start) ** share
        return self.start + share * (self.end - self.start)


class PerceptionConfig(ComponentConfig):
    """How objects are found in frames and followed (`worldkit.gswm.perception`).

    Attributes:
        grid: Cells per side in which new objects are looked for.
        max_objects: Objects that are kept, those of highest presence; at most ``grid`` squared.
        feature_dim: Numbers that say what an object looks like (z_what).
        motion_dim: Numbers that its motion is drawn from (z_dyna); 0: the deterministic variant, in which every
            attribute has a posterior and a prior of its own.
        map_dim: Channels of the map that cells are read from.
        channels: Of the image encoder's first layer; 64 is a ResNet-18.
        glimpse_size: Side of a glimpse in pixels, a multiple of 16.
        glimpse_channels: Of the encoders of glimpses.
        background_channels: Of the encoder of whole frames that the background is read from.
        proposal_dim: Width of an encoded glimpse.
        hidden_dim: Of the layers behind all attributes.
        found_map_dim, found_map_layers, found_map_sigma: Of the map that tells cells which objects are known: channels,
            hidden widths, and the Gaussian around an object, in units of half the picture.
        growth: Smallest and largest enlargement of the box in which a known object is looked for, in image sides.
        rejection: Overlap (IoU) with a known object above which a new one is refused; None: never.
        discovery_dropout: How often, in training, no new objects are looked for in a frame (not the first).
        discovery: Where new objects are looked for in evaluation: in the ``"first"`` frame of a clip, as upstream does
            before it predicts, or in ``"every"`` one. ``model.encoder.discovery`` may be changed at any time.
        temperature: Of presences, outside of training.
        depth_defect: Deterministic variant alone. True is upstream's defect: in the posterior the depth grows by
            ``depth_step`` plus the offset, by about 1 a frame; False: by their product, as in the prior.
    """

    name: Literal["g-swm"] = FAMILY
    grid: PositiveInt = 8
    max_objects: PositiveInt = 16
    feature_dim: PositiveInt = 64
    motion_dim: int = Field(default=128, ge=0)
    map_dim: PositiveInt = 128
    channels: PositiveInt = 64
    glimpse_size: int = Field(default=16, gt=0, multiple_of=16)
    glimpse_channels: tuple[PositiveInt, ...] = Field(default=(16, 32, 64, 128), min_length=1)
    background_channels: tuple[PositiveInt, ...] = Field(default=(64, 128, 256, 512), min_length=1)
    proposal_dim: PositiveInt = 128
    hidden_dim: PositiveInt = 128
    found_map_dim: PositiveInt = 128
    found_map_layers: tuple[PositiveInt, ...] = (128, 128)
    found_map_sigma: float = Field(default=0.1, gt=0)
    growth: tuple[float, float] = (0.0, 0.3)
    rejection: float | None = Field(default=0.8, gt=0, le=1)
    discovery_dropout: float = Field(default=0.5, ge=0, lt=1)
    discovery: Literal["first", "every"] = "first"
    temperature: float = Field(default=1.0, gt=0)
    depth_defect: bool = True


class MotionConfig(ComponentConfig):
    """How objects move, and the background changes (`worldkit.gswm.motion`).

    Attributes:
        state_dim: Of the two LSTMs of every object.
        input_dim: Of what enters them.
        interaction_dim, interaction_layers: What other objects mean to one: width, hidden widths.
        environment: What an object sees of the background: the part around it (``"attention"``), the ``"whole"``, or
            ``"none"`` of it.
        environment_dim, environment_margin: Width of that, and how much larger than the object the part is, in image
            sides.
        scale_step, position_step, feature_step, depth_step: How far size, position, features and depth may go in a
            frame; the depth's is a factor, not a bound.
        context_state_dim: Of the LSTMs of the background.
        sample_background: Whether predicted backgrounds are drawn where objects are; False: means.
    """

    name: Literal["g-swm"] = FAMILY
    state_dim: PositiveInt = 128
    input_dim: PositiveInt = 128
    interaction_dim: PositiveInt = 128
    interaction_layers: tuple[PositiveInt, ...] = (128, 128)
    environment: Literal["attention", "whole", "none"] = "attention"
    environment_dim: PositiveInt = 128
    environment_margin: float = Field(default=0.25, ge=0)
    scale_step: float = 0.3
    position_step: float = 0.1
    feature_step: float = 0.2
    depth_step: float = 1.0
    context_state_dim: PositiveInt = 128
    sample_background: bool = True


class RendererConfig(ComponentConfig):
    """How objects and background are drawn (`worldkit.gswm.rendering`).

    Attributes:
        channels: Of a glimpse's map, and after each of three doublings.
        context_dim: Numbers that a background is drawn from (z_ctx); 0: it is black.
        background_channels: As ``channels``, of the background.
    """

    name: Literal["g-swm"] = FAMILY
    channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (128, 64, 32, 16)
    context_dim: int = Field(default=128, ge=0)
    background_channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (128, 64, 32, 16)


class EvidenceConfig(ComponentConfig):
    """The evidence lower bound and what changes in it while it is trained (`worldkit.gswm.objective`).

    Attributes:
        lengths, milestones: Frames of a clip, cut out of a longer one, and the steps after which the next length holds.
        sigma: Standard deviation of a pixel.
        temperature: Of presences.
        presence: Prior probability that a cell has an object; changes by equal factors.
        size_mean, size_std: Prior of a new object's size, before the sigmoid.
        background_steps: Steps in which the background learns alone.
        presence_kl: Whether known objects pay for being there, too.
    """

    name: Literal["g-swm"] = FAMILY
    lengths: tuple[PositiveInt, ...] = Field(default=(2, 4, 6, 8, 10), min_length=1)
    milestones: tuple[int, ...] = (10000, 12500, 15000, 17500)
    sigma: Ramp = Ramp(start=0.2, end=0.2)
    temperature: Ramp = Ramp(start=1.0, end=1.0, last=10000)
    presence: Ramp = Ramp(start=1e-10, end=1e-10, last=1500)
    size_mean: Ramp = Ramp(start=-1.5, end=-1.5, last=10000)
    size_std: float = Field(default=0.3, gt=0)
    background_steps: int = Field(default=0, ge=0)
    presence_kl: bool = True

    @model_validator(mode="after")
    def _check(self) -> EvidenceConfig:
        if len(self.milestones) != len(self.lengths) - 1 or [*self.milestones] != sorted(self.milestones):
            raise ValueError(f"milestones are the steps between lengths, in order: {len(self.lengths)} lengths need "
                             f"{len(self.lengths) - 1}, got {list(self.milestones)}")
        return self

    @property
    def num_frames(self) -> int:
        """Frames of the clips that it is given: the longest of its lengths."""
        return max(self.lengths)


class GSWMConfig(WorldModelConfig):
    """A G-SWM; see the options of its parts. Pictures are square.

    Example:
        >>> GSWMConfig(family="g-swm", obs={"height": 64, "width": 64}).clip_length
        10
    """

    family: str = FAMILY
    encoder: PerceptionConfig = PerceptionConfig()
    decoder: RendererConfig = RendererConfig()
    dynamics: MotionConfig = MotionConfig()
    objective: EvidenceConfig = EvidenceConfig()
    latent_action: None = None
    prior: None = None
    conditioners: dict[str, Any] = Field(default={}, max_length=0)
    heads: dict[str, Any] = Field(default={}, max_length=0)

    @model_validator(mode="before")
    @classmethod
    def _refuse_other_parts(cls, data: Any) -> Any:
        for kind in ("encoder", "decoder", "dynamics", "objective") if isinstance(data, Mapping) else ():
            part = data.get(kind)
            name = part.get("name", FAMILY) if isinstance(part, Mapping) else part
            if isinstance(name, str) and name != FAMILY:
                raise ValueError(f"{kind} '{name}' cannot take the place of G-SWM's own: its parts share networks and "
                                 "are no parts of other models, nor others of it")
        for kind in ("conditioners", "heads", "latent_action", "prior") if isinstance(data, Mapping) else ():
            if data.get(kind):
                raise ValueError(f"G-SWM takes no {kind}: its video has no actions, rewards or language; leave it out")
        return data

    @model_validator(mode="after")
    def _fits(self) -> GSWMConfig:
        obs, seen = self.obs, self.encoder
        if obs.views > 1 or obs.widths or obs.height != obs.width or not obs.height:
            raise ValueError("G-SWM sees square pictures of one camera and nothing beside them, got "
                             f"{obs.height} x {obs.width}, {obs.views} view(s)"
                             + (f", vectors {', '.join(obs.widths)}" if obs.widths else ""))
        if seen.glimpse_size > obs.height:
            raise ValueError(f"encoder.glimpse_size {seen.glimpse_size} is larger than the picture, {obs.height} x "
                             f"{obs.width} pixels: take glimpses of at most that, or larger pictures")
        if obs.height % (8 * seen.grid) or obs.height % 16:
            raise ValueError(f"obs.height {obs.height} must be a multiple of 16 and of 8 * encoder.grid = "
                             f"{8 * seen.grid}: cells are read off a map that is reduced eightfold first")
        if seen.max_objects > seen.grid**2:
            raise ValueError(f"encoder.max_objects {seen.max_objects} is more than there are cells to find them in, "
                             f"{seen.grid} x {seen.grid}: take at most {seen.grid**2}, or a finer encoder.grid")
        return self

    @property
    def deterministic(self) -> bool:
        """Whether it is the variant in which nothing but the attributes themselves is drawn."""
        return self.encoder.motion_dim == 0
