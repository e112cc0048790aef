"""Checkpoints of other projects -> worldkit models."""

from .lpwm import from_lpwm

__all__ = ["from_lpwm"]
