"""`GSWM`, a model family of its own: its parts share networks, so they come together or not at all.

Encoder, dynamics, decoder and objective keep the contracts of composed models, so that what works for those works here:
training, rollouts, what-if questions, play. Only swapping does not.
"""

from __future__ import annotations

from typing import ClassVar

from ..config import WorldModelConfig
from ..model import ComposedWorldModel
from .config import GSWMConfig
from .latent import spec_of
from .motion import Motion
from .objective import Evidence
from .perception import Perception
from .rendering import Renderer


class GSWM(ComposedWorldModel):
    """Generative Structured World Models: objects that are discovered, followed, and moved by a multi-modal prior.

    Predictions start from objects that were found in the first frame given (``model.encoder.discovery = "every"``: in
    any) and followed since.

    Source: G-SWM (arXiv:2006.02940); github.com/zhixuan-lin/G-SWM @ 1423553, written from a description of it.
    Example:
        >>> import torch, worldkit as wk
        >>> model = wk.create_model("g-swm-balls-mini")
        >>> model.rollout(torch.rand(1, 2, 3, 32, 32), 3).video.shape
        torch.Size([1, 3, 3, 32, 32])
    """

    Config: ClassVar[type[WorldModelConfig]] = GSWMConfig

    @classmethod
    def from_config(cls, config: GSWMConfig) -> GSWM:
        """The model of a configuration."""
        spec = spec_of(config)
        renderer = Renderer(config.decoder, spec=spec, obs=config.obs, seen=config.encoder)
        motion = Motion(config, spec=spec, renderer=renderer)
        return cls(
            config, encoder=Perception(config, spec=spec, motion=motion), decoder=renderer, dynamics=motion,
            latent_action=None, conditioners={}, receivers={}, objective=Evidence(config.objective),
        )
