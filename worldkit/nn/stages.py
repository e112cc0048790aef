"""Stages of a particle model's training, and the parts that behave differently in them.

DLPv2 and DDLP learn to look before they learn to place: in the *warm-up*, particles stay where keypoints put them and
only glimpses are reconstructed; in the *noisy* stage behind it, scales and masks are made uncertain so that the
background learns its share; then comes the *full* model. The objective knows the stage, and tells the parts that care.
"""

from __future__ import annotations

import math
from typing import Literal

Stage = Literal["full", "noisy", "warmup"]

STAGES: tuple[Stage, ...] = ("full", "noisy", "warmup")


class Staged:
    """Mark of an encoder or decoder whose ``forward`` takes ``stage=`` (and a decoder's ``sampler=``).

    The plain call is the stage ``"full"``. An objective that has stages asks ``isinstance(part, Staged)``; all others
    need not know.

    Example:
        >>> class Part(Staged):
        ...     def __call__(self, x, *, stage: Stage = "full"):
        ...         return x if stage == "full" else 0 * x
        >>> isinstance(Part(), Staged), Part()(3), Part()(3, stage="warmup")
        (True, 3, 0)
    """


NOISE_LOGVAR = 2 * math.log(0.1)
"""Log variance of what the stages before the full one add to scales (logits) and alphas."""
