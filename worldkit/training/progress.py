"""What training shows of its progress: upstream's fields behind bar, step and ETA."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from rich.text import Text

from ..progress import EVERY, Meter

FIELDS = {
    "loss": "loss", "psnr": "psnr", "reconstruction": "rec", "kl": "kl", "kl_dynamics": "kl_dyn", "dynamics": "dyn",
    "latent": "latent", "image": "image", "visible_particles": "visible", "beta_a": "a", "beta_b": "b",
    "scale": "scale",
}
"""Loss term -> label, in the order in which they are shown while there is room."""


class ProgressBar:
    """Counts steps, or seconds if the run is limited by them; shows a running mean of the loss terms.

    Args:
        step: Where the run stands.
        limit: Steps it may take.
        seconds: Seconds it may take, if that is the limit.
        spent: Seconds it has taken.
        enabled: False shows nothing.
        console: A rich console; default: standard output.
        every: Seconds between lines where output is no terminal.
    """

    def __init__(self, step: int, limit: int, seconds: float | None, *, spent: float = 0.0, enabled: bool = True,
                 console: Any = None, every: float = EVERY):
        self.by_time = seconds is not None
        self.average: dict[str, float] = {}
        total, done, unit = (limit, step, "") if seconds is None else (seconds, spent, " s")
        self.meter = Meter("training", total=total, done=done, unit=unit, enabled=enabled, console=console, every=every)
        self.meter.step = str(step) if self.by_time else ""

    def __enter__(self) -> ProgressBar:
        self.meter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.meter.__exit__(*error)

    def update(self, progress: Any, terms: Mapping[str, Any]) -> None:
        """Show the state after a step."""
        for name in FIELDS:
            if name in terms:
                value = float(terms[name])
                self.average[name] = 0.9 * self.average.get(name, value) + 0.1 * value
        known = [f"[dim]{label}[/] {self.average[name]:.3g}" for name, label in FIELDS.items() if name in self.average]
        step = str(progress.step) if self.by_time else ""
        self.meter.update(progress.seconds if self.by_time else progress.step, step=step, terms=known)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.meter.say(Text.assemble(("note", "yellow"), f" {text}"))

    def paused(self, what: str) -> AbstractContextManager[None]:
        """Say that something else is going on."""
        return self.meter.paused(what)
