"""Evaluation protocols by name: what is given, what is predicted, what drives it, which numbers.

A `Protocol` is stored whole inside every result. `PROTOCOLS` holds those of papers, with their source; every preset has
one of its own besides, made from its ``eval`` table (`worldkit.training.protocols`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

METRICS = ("psnr", "ssim", "lpips", "fvd", "fid", "med10", "med10_painted", "pck", "ari", "fg_ari", "fg_ari_video",
           "miou", "delta_psnr", "action_error", "inverse_error", "probe_error", "point_pck")
DRIVERS = ("prior", "sampled", "inferred", "encoded")
WINDOWS = ("tile", "start", "slide")


@dataclass(frozen=True)
class Protocol:
    """How to evaluate.

    Attributes:
        name: What it is called.
        summary: One line.
        source: Where it comes from, and what of it is a guess.
        context_frames: Frames that are given.
        horizon: Frames that are predicted.
        split: Part of the data.
        resolution: ``"128x128"`` (height x width); None: the model's own.
        driven_by: What drives the rollouts, any of ``"prior"``, ``"sampled"``, ``"inferred"``, ``"encoded"`` (the true
            frames: no prediction); each gives results of its own.
        samples: Rollouts per clip of ``"sampled"``; with more than one, the best of them is a row of its own.
        metrics: Numbers, any of `METRICS`.
        windows: Clips: ``"tile"``, one after the other; ``"start"``, the first of every episode; ``"slide"``, from
            every frame on.
        max_clips: Clips scored at most, evenly spaced; None: all.
        frame_skip: Take every n-th frame.
        fvd: Variant of FVD, see `worldkit.metrics.VideoFeatures`.
    Example:
        >>> PROTOCOLS["balls-med10"].context_frames
        10
    """

    name: str
    summary: str = ""
    source: str = ""
    context_frames: int = 1
    horizon: int = 10
    split: str = "test"
    resolution: str | None = None
    driven_by: tuple[str, ...] = ("prior",)
    samples: int = 1
    metrics: tuple[str, ...] = ("psnr", "ssim")
    windows: str = "tile"
    max_clips: int | None = None
    frame_skip: int = 1
    fvd: str = "stylegan-v"

    def __post_init__(self) -> None:
        for key, known in (("metrics", METRICS), ("driven_by", DRIVERS)):
            if unknown := [value for value in getattr(self, key) if value not in known]:
                raise ConfigError(f"{key}: {', '.join(unknown)} unknown; use {', '.join(known)}")
            if not getattr(self, key):
                raise ConfigError(f"{key} is empty; use {', '.join(known)}")
        if self.windows not in WINDOWS:
            raise ConfigError(f"windows must be one of {', '.join(WINDOWS)}, got {self.windows!r}")
        for key in ("context_frames", "horizon", "samples", "frame_skip"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} must be at least 1, got {getattr(self, key)}")
        if self.max_clips is not None and self.max_clips < 1:
            raise ConfigError(f"max_clips must be at least 1, or None for all, got {self.max_clips}")

    def changed(self, **changes: Any) -> tuple[Protocol, dict[str, Any]]:
        """The protocol with other values (None changes nothing), and which of them differ from its own.

        Example:
            >>> PROTOCOLS["balls-med10"].changed(horizon=20, split="test")[1]
            {'horizon': 20}
        """
        own = {name: value for name, value in changes.items()
               if value is not None and value != getattr(self, name)}
        return dataclasses.replace(self, **own), own

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


_LPWM = (
    "LPWM paper (arXiv 2603.04553), Table 2: frames given and predicted; resolution: the official configuration. That "
    "its image metrics are driven by inferred latent actions is a guess from the official code: both rows are made"
)
_LPWM_FVD = (
    "official LPWM code, eval_fvd.py: 16 frames of which 1 is given, sampled latent actions; context frames as "
    "reconstructed, float frames cut to 224 pixels, covariance over n - 1"
)
_SEMANTIC = (
    "semantic-wm (arXiv 2605.06388), by a description of its code; what differs, and what of it is ours: see "
    "worldkit.training.latent_scores"
)
_SLOTFORMER = "SlotFormer (arXiv 2210.05861), test_vp.py: 6 frames given, every step scored, then averaged"
_IMAGE = ("psnr", "ssim", "lpips")


def _lpwm(name: str, summary: str, context: int, horizon: int, **options: Any) -> Protocol:
    return Protocol(name, summary, _LPWM, context, horizon, resolution="128x128", driven_by=("inferred", "prior"),
                    metrics=_IMAGE, **options)


def _lpwm_fvd(name: str, summary: str, **options: Any) -> Protocol:
    return Protocol(name, summary, _LPWM_FVD, 1, 15, resolution="128x128", driven_by=("sampled",), metrics=("fvd",),
                    fvd="lpwm", **options)


PROTOCOLS: Mapping[str, Protocol] = {p.name: p for p in (
    _lpwm("lpwm-sketchy", "Sketchy: 6 frames given, 44 predicted", 6, 44, windows="slide", max_clips=1000),
    _lpwm("lpwm-bair", "BAIR: 1 frame given, 15 predicted", 1, 15, windows="start"),
    _lpwm("lpwm-mario", "Mario: 6 frames given, 44 predicted", 6, 44, windows="start"),
    _lpwm("lpwm-langtable", "LanguageTable: 1 frame given, 15 predicted", 1, 15, windows="start"),
    _lpwm_fvd("lpwm-sketchy-fvd", "Sketchy: FVD of 16 frames", windows="slide", max_clips=1000),
    _lpwm_fvd("lpwm-bair-fvd", "BAIR: FVD of 16 frames, 100 samples per clip", windows="start", samples=100),
    _lpwm_fvd("lpwm-mario-fvd", "Mario: FVD of 16 frames", windows="start"),
    _lpwm_fvd("lpwm-langtable-fvd", "LanguageTable: FVD of 16 frames", windows="start"),
    Protocol("slotformer-obj3d", "OBJ3D: 6 frames given, 44 predicted", _SLOTFORMER, 6, 44, resolution="64x64",
             metrics=_IMAGE, windows="start"),
    Protocol("slotformer-clevrer", "CLEVRER: every second frame, 6 given, 42 predicted", _SLOTFORMER, 6, 42,
             resolution="64x64", metrics=(*_IMAGE, "ari", "fg_ari", "miou"), windows="start", frame_skip=2),
    Protocol(
        "balls-med10", "Balls-Interaction: 10 frames given, tracking error of 10 predicted ones",
        "G-SWM (Lin et al. 2020), which DDLP follows; it predicts 90 frames, of which MED10 uses the first 10",
        10, 10, metrics=("psnr", "ssim", "med10", "pck"), windows="start",
    ),
    Protocol(
        "genie-controllability", "1 frame given, 8 predicted by inferred latent actions, and by others",
        "Genie (arXiv 2402.15391), section 3, reports t = 4; how many frames are given, what others are drawn from and "
        "how often is ours: see worldkit.training.controllability. The other row is the tokenizer's ceiling",
        1, 8, driven_by=("inferred", "encoded"), metrics=("psnr", "delta_psnr"), max_clips=512,
    ),
    Protocol(
        "semantic-wm-controllability", "1 frame given: which action explains the next one?", _SEMANTIC, 1, 1,
        metrics=("action_error",), max_clips=2048,
    ),
    Protocol(
        "semantic-wm-controllability-4", "2 frames given: which four actions explain the next four?", _SEMANTIC, 2, 4,
        metrics=("action_error",), max_clips=2048,
    ),
    Protocol(
        "semantic-wm-pck", "2 frames given, points followed through 8 predicted ones", _SEMANTIC, 2, 8,
        metrics=("psnr", "ssim", "point_pck"), windows="start",
    ),
    Protocol(
        "semantic-wm-inverse", "actions read off one step of latents, predicted and encoded", _SEMANTIC, 1, 1,
        driven_by=("prior", "encoded"), metrics=("inverse_error",),
    ),
    Protocol(
        "semantic-wm-inverse-4", "actions read off four steps of latents, predicted and encoded", _SEMANTIC, 2, 4,
        driven_by=("prior", "encoded"), metrics=("inverse_error",),
    ),
    Protocol(
        "semantic-wm-probes", "the state of things read off 8 frames of latents, predicted and encoded", _SEMANTIC,
        2, 8, driven_by=("prior", "encoded"), metrics=("probe_error",),
    ),
)}
