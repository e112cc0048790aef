"""What training by acting shows of its progress: return, train ratio, steps per second, losses."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from rich.text import Text

from ..progress import Meter
from .config import OnlineConfig

SHOWN = {"loss": "loss", "loss_image": "rec", "loss_reward": "rew", "loss_dyn": "dyn", "loss_kl": "kl",
         "loss_policy": "pol", "entropy": "ent", "return_scale": "scale"}
"""Term -> label, in the order in which they are shown while there is room."""


class OnlineBar:
    """Counts steps of the environment, or seconds if the run is limited by them.

    Args:
        config: Limits of the run.
        progress: Where it stands.
        enabled: False shows nothing.
        console: A rich console; default: standard output.
    """

    def __init__(self, config: OnlineConfig, progress: Any, *, enabled: bool = True, console: Any = None):
        self.by_time = config.seconds is not None
        self.progress, self.terms = progress, {}  # type: Any, Mapping[str, float]
        total, unit = (config.seconds, " s") if self.by_time else (config.steps, "")
        self.meter = Meter("acting and learning", total=total, unit=unit, enabled=enabled, console=console)
        self._since = (time.monotonic(), progress.steps)
        self._rate = 0.0

    def __enter__(self) -> OnlineBar:
        self.meter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.meter.__exit__(*error)

    def update(self, progress: Any, returns: Collection[float], ratio: float) -> None:
        """Show the state after a step."""
        began, steps = self._since
        if (passed := time.monotonic() - began) > 2:
            self._rate, self._since = (progress.steps - steps) / passed, (time.monotonic(), progress.steps)
        told = [f"[b]return {np.mean(returns):.4g}[/]" if returns else "no episode yet", f"ratio {ratio:.3g}",
                f"{self._rate:.3g} steps/s", f"{progress.updates} updates"]
        told += self._told()
        self.meter.update(progress.seconds if self.by_time else progress.steps,
                          step=str(progress.steps) if self.by_time else "", terms=told)

    def learned(self, progress: Any) -> None:
        """Show the state after one of many updates in a row, while the environment waits (`paused`)."""
        self.meter.what = f"learning, {progress.owed:.0f} updates to go"
        self.meter.terms = self._told()

    def _told(self) -> list[str]:
        """The newest terms."""
        return [f"[dim]{label}[/] {self.terms[name]:.3g}" for name, label in SHOWN.items() if name in self.terms]

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.meter.say(Text.assemble(("note", "yellow"), f" {text}"))

    def paused(self, what: str) -> AbstractContextManager[None]:
        """Say that something else is going on."""
        return self.meter.paused(what)
