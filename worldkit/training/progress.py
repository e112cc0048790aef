"""The progress bar of training: upstream's fields, live."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

FIELDS = {
    "loss": "loss", "reconstruction": "rec", "kl": "kl", "kl_dynamics": "kl_dyn", "dynamics": "dyn",
    "latent": "latent", "image": "image",
    "visible_particles": "visible",
    "beta_a": "a", "beta_b": "b", "scale": "scale", "psnr": "psnr",
}
"""Loss term -> label."""


class ProgressBar:
    """Counts steps, or seconds if the run is limited by them; shows a running mean of the loss terms.

    Args:
        step: Where the run stands.
        limit: Steps it may take.
        seconds: Seconds it may take, if that is the limit.
        enabled: False shows nothing.
    """

    def __init__(self, step: int, limit: int, seconds: float | None, *, enabled: bool = True):
        self.by_time = seconds is not None
        self.average: dict[str, float] = {}
        self.bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[terms]}"), disable=not enabled,
        )
        total = int(seconds) if seconds is not None else limit
        name = "training (s)" if self.by_time else "training"
        self.task = self.bar.add_task(name, total=total, completed=0 if self.by_time else step, terms="")

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.stop()

    def update(self, progress: Any, terms: Mapping[str, Any]) -> None:
        """Show the state after a step."""
        for name in FIELDS:
            if name in terms:
                value = float(terms[name])
                self.average[name] = 0.9 * self.average.get(name, value) + 0.1 * value
        text = " ".join(f"[dim]{FIELDS[name]}[/] {value:.3g}" for name, value in self.average.items())
        text = f"[dim]step[/] {progress.step} {text}" if self.by_time else text
        self.bar.update(self.task, completed=int(progress.seconds) if self.by_time else progress.step, terms=text)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if not self.bar.disable:
            self.bar.console.print(Text.assemble(("note", "yellow"), f" {text}"))

    @contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """Say that something else is going on."""
        before = self.bar.tasks[0].description
        self.bar.update(self.task, description=what)
        try:
            yield
        finally:
            self.bar.update(self.task, description=before)
