"""What stays the same in all cells of an ablation: data, budget, protocol; and the folder that remembers it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..factory import get_model_spec
from ..files import write_atomically
from ..progress import duration

STUDY_FILE = "study.json"
_UNITS = {"": "seconds", "s": "seconds", "second": "seconds", "min": "minutes", "minute": "minutes", "h": "hours",
          "hour": "hours", "step": "steps", "sample": "samples", "cpu": "CPU seconds", "cpu second": "CPU seconds"}
_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600}


@dataclass(frozen=True)
class Budget:
    """How much training a cell gets.

    Attributes:
        amount: How many.
        unit: ``"seconds"`` of forward, backward and update; ``"CPU seconds"`` that these compute, whatever else the
            machine does meanwhile; ``"steps"`` of the optimiser; ``"samples"``: training clips, repetitions counted.
    """

    amount: float
    unit: str

    @classmethod
    def parse(cls, value: str | float) -> Budget:
        """A number of seconds, or a text with a unit.

        Raises:
            ConfigError: for anything else.
        Example:
            >>> [str(Budget.parse(b)) for b in (120, "2min", "60cpu", "500steps", "8000 samples")]
            ['120 seconds', '120 seconds', '60 CPU seconds', '500 steps', '8000 samples']
        """
        match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([a-z ]*?)s?", str(value).strip().lower())
        unit = _UNITS.get(match[2]) if match else None
        try:
            amount = float(match[1]) * _SECONDS.get(unit or "", 1)  # type: ignore[index]
        except (TypeError, ValueError):
            unit = None
        if unit is None or not 0 < amount < math.inf:
            raise ConfigError(f"a budget is 120 (seconds), 10min, 2h, 60cpu (CPU seconds), 500steps or "
                              f"8000samples, got {value!r}")
        unit = "seconds" if unit in _SECONDS else unit
        if unit in ("steps", "samples") and amount != int(amount):
            raise ConfigError(f"a budget in {unit} is a whole number, got {value!r}")
        return cls(amount, unit)

    def train_options(self, samples_per_step: int) -> dict[str, Any]:
        """Options of `TrainConfig` that spend it; samples are rounded up to whole steps."""
        endless = {"num_epochs": 10**9, "steps": None, "seconds": None, "cpu_seconds": None}
        if self.unit == "seconds":
            return endless | {"seconds": self.amount}
        if self.unit == "CPU seconds":
            return endless | {"cpu_seconds": self.amount}
        steps = self.amount if self.unit == "steps" else math.ceil(self.amount / samples_per_step)
        return endless | {"steps": int(steps)}

    def times(self, cells: int) -> str:
        """What so many cells take together, in words.

        Example:
            >>> Budget.parse("10min").times(9), Budget.parse("500steps").times(9)
            ('1.5 h', '4,500 steps')
        """
        total = self.amount * cells
        return duration(total) if self.unit == "seconds" else f"{total:,.0f} {self.unit}"

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


@dataclass(frozen=True)
class Study:
    """Everything common to the cells of an ablation.

    Attributes:
        preset: The baseline.
        data: Data source, as for ``worldkit train``.
        common: Dotted overrides of every cell (``dynamics.dim``, ``train.lr``); without those of the data.
        data_options: Options of the data format.
        budget: Training of each cell.
        context_frames, horizon: Frames given and predicted in the evaluation.
        split: Split that is scored.
        clips: Clips that are scored at most, evenly spaced.
    """

    preset: str
    data: str
    common: Mapping[str, Any]
    data_options: Mapping[str, Any]
    budget: Budget
    context_frames: int
    horizon: int
    split: str
    clips: int

    def remember(self, folder: Path) -> None:
        """Write ``study.json``, or check that the folder was made for the same study.

        Raises:
            ConfigError: naming what differs.
        """
        remember(folder, asdict(self), "an ablation")


def remember(folder: Path, study: Mapping[str, Any], what: str) -> None:
    """Write what is common to all cells as ``study.json``, or check that the folder was made for the same.

    Args:
        folder: Where.
        study: Plain values.
        what: What the folder holds, for the error: ``"an ablation"``.
    Raises:
        ConfigError: naming what differs.
    """
    path, own = folder / STUDY_FILE, json.loads(json.dumps(study, default=str))
    if not path.exists():
        text = json.dumps(own, indent=2) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
        return
    old = json.loads(path.read_text(encoding="utf-8"))
    differing = [k for k in own if own[k] != old.get(k)]
    if differing:
        changes = "".join(f"\n  {_NAMES.get(k, k)}: {_plain(old.get(k))} there, {_plain(own[k])} now"
                          for k in differing)
        raise ConfigError(
            f"{folder} holds {what} whose numbers could not be compared with this one:{changes}\n"
            "Use the same values, give another --out, or delete the folder"
        )


_NAMES = {"common": "options of all cells", "data_options": "options of the data", "context_frames": "context",
          "clips": "scored clips"}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping) and set(value) == {"amount", "unit"}:
        return str(Budget(**value))
    return json.dumps(value) if isinstance(value, Mapping) else str(value)


def data_of(preset: str, data: str | None) -> str:
    """The data to use: what was given, else what the preset's ``eval`` table names.

    Raises:
        ConfigError: if there is neither.
    """
    data = data or get_model_spec(preset).eval.get("data")
    if data is None:
        raise ConfigError(f"preset '{preset}' names no data of its own: add --data (a video file, folder, HDF5 file, "
                          "or generated data: balls, balls-32, push-32, shapes)")
    return data
