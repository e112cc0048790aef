"""Whether a written file computes what the model does: the largest difference, at several sizes of the free axes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ExportError
from .formats import Format, Free
from .graphs import Graph


@dataclass(frozen=True)
class Checked:
    """What was compared.

    Attributes:
        difference: Largest difference of a float output from the model's, over 1 + its size.
        tolerance: What it may be.
        sizes: (batch, time) of the inputs tried.
        runtime: What ran the file.
    """

    difference: float
    tolerance: float
    sizes: list[tuple[int, int]]
    runtime: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"largest_difference": self.difference, "tolerance": self.tolerance, "runtime": self.runtime,
                "sizes": [list(size) for size in self.sizes]}

    def __str__(self) -> str:
        sizes = ", ".join(f"{batch} x {time}" for batch, time in self.sizes)
        return (f"largest difference from the model {self.difference:.1e} (tolerance {self.tolerance:.0e}), by "
                f"{self.runtime}, batch x time {sizes}")


def check(form: Format, graph: Graph, path: Path, free: Free, tolerance: float, *, traced: int = 2) -> Checked:
    """Run a file beside the model. ``traced``: clips that it was traced with.

    Raises:
        ExportError: naming the output that differs, and by how much.
    """
    run, worst, sizes = form.load(graph, path), 0.0, []
    for seed, (batch, time) in enumerate(sizes_to_try(graph, free, traced)):
        with torch.no_grad():
            try:
                example = graph.examples(batch, time, seed + 1)
                wanted = graph(*example)
            except Exception:
                if not sizes:
                    raise
                continue  # the model itself takes no such clips: those of two frames a token, say
            try:
                found = run(example)
            except Exception as error:  # a runtime raises whatever it likes
                line = str(error).splitlines()[0]
                raise ExportError(f"the exported {graph.what} does not run with batch {batch} and {time} frames: {line}"
                                  ) from error
        for port, a, b in zip(graph.outputs, found, wanted, strict=True):
            off = difference(a, b)
            worst = max(worst, off)
            if not off <= tolerance:
                raise ExportError(f"the exported {graph.what} gives another '{port.name}' than the model: it differs "
                                  f"by {off:.2g}, with batch {batch} and {time} frames; --tolerance is {tolerance:.0e}"
                                  ", and what differs more is not kept")
        sizes.append((batch, time))
    return Checked(worst, tolerance, sizes, form.runtime())


def sizes_to_try(graph: Graph, free: Free, batch: int) -> list[tuple[int, int]]:
    """(batch, time): as traced, one clip of the fewest frames, and more of both."""
    axes = {name for axes in free for name in axes.values()}
    traced, any_time = graph.time(), "time" in axes
    found = [(batch, traced)]
    if "batch" in axes:
        found += [(1, 1 if any_time else traced), (3, traced + any_time)]
    elif any_time:
        found += [(batch, traced + 1)]
    return found


def difference(found: Tensor, wanted: Tensor) -> float:
    """Largest ``|a - b| / (1 + |b|)``; infinite for another shape or type, or another whole number."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    if not found.numel():
        return 0.0
    if not found.is_floating_point():
        return 0.0 if torch.equal(found, wanted) else float("inf")
    off = (found.double() - wanted.double()).abs() / (1 + wanted.double().abs())
    return float("inf") if off.isnan().any() else float(off.max())
