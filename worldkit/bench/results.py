"""`Bench`: the cells of a benchmark, and the numbers that may be made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics import confidence_interval
from ..metrics.report import Interval
from ..metrics.runs import AGGREGATES, aggregate, performance_profile, probability_of_improvement
from .suite import Paper, Suite

RESAMPLES = 2000
POINTS = 41
"""Thresholds of a performance profile."""
UNITS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "over copying": "PSNR over copying (dB)",
         "over the mean": "PSNR over the mean frame (dB)", "return": "return", "success": "success",
         "normalised return": "normalised return"}
"""Score -> heading; more is better for all of them."""
COPYING, MEAN_FRAME = "copy last frame", "mean training frame"


@dataclass(frozen=True)
class Record:
    """A cell.

    Attributes:
        model, task, seed: Which one.
        folder: Where it lies.
        result: What became of it; None: not done yet.
    """

    model: str
    task: str
    seed: int
    folder: Path
    result: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def status(self) -> str:
        """``"finished"``, ``"failed"`` or ``"missing"``."""
        return "missing" if self.result is None else str(self.result["status"])

    @property
    def error(self) -> str:
        """Of a failed cell, in one line."""
        return " ".join(str((self.result or {}).get("error", "")).split())

    def number(self, name: str) -> float | None:
        """A score or a cost of a finished cell."""
        if self.status != "finished":
            return None
        value = self.result["scores"].get(name, self.result.get(name))  # type: ignore[index]
        return None if value is None else float(value)


@dataclass(frozen=True)
class Bench:
    """Results of a benchmark; what `worldkit.bench.run` returns.

    Attributes:
        suite: As it was run.
        records: All cells, done or not.
        folder: Where everything is stored.
        command: How to make the tables again.
    """

    suite: Suite
    records: Sequence[Record]
    folder: Path
    command: str

    @cached_property
    def models(self) -> list[str]:
        """Names, in the suite's order."""
        return [entry.name for entry in self.suite.models if any(r.model == entry.name for r in self.records)]

    @cached_property
    def tasks(self) -> list[str]:
        """Names, in the suite's order."""
        return [task.name for task in self.suite.tasks]

    def of(self, model: str, task: str) -> list[Record]:
        """Cells of a model on a task, one for each seed."""
        return [r for r in self.records if (r.model, r.task) == (model, task)]

    def values(self, model: str, task: str, score: str) -> list[float]:
        """A score, or a cost, of every finished cell of a model on a task."""
        found = [r.number(score if score != "normalised return" else "return") for r in self.of(model, task)]
        values = [value for value in found if value is not None]
        return self._normalised(task, values) if score == "normalised return" else values

    def _normalised(self, task: str, values: list[float]) -> list[float]:
        """0 for the task's low return, 1 for its high one; empty where these are not known."""
        low, high = self._bound(task, "low"), self._bound(task, "high")
        if low is None or high is None or low == high:
            return []
        return [(value - low) / (high - low) for value in values]

    def _bound(self, task: str, which: str) -> float | None:
        bound = getattr(self.suite.task(task), which)
        if isinstance(bound, str):
            values = self.values(bound, task, "return")
            return float(np.mean(values)) if values else None
        return bound

    def interval(self, model: str, task: str, score: str) -> Interval | None:
        """Mean and 95% Student t interval over the finished seeds; None without a number."""
        import torch

        values = self.values(model, task, score)
        return confidence_interval(torch.tensor(values, dtype=torch.float64)) if values else None

    def failed(self, model: str, task: str | None = None) -> list[Record]:
        """Failed cells."""
        return [r for r in self.records
                if r.model == model and r.status == "failed" and task in (None, r.task)]

    # -- over all tasks

    def runs(self, model: str) -> list[np.ndarray] | None:
        """The suite's score of every run of every task; None unless all cells of the model finished, on all tasks: what
        is left over when others failed says nothing of the whole."""
        runs = [np.array(self.values(model, task, self.suite.score)) for task in self.tasks]
        whole = all(self.of(model, task) and len(scores) == len(self.of(model, task))
                    for task, scores in zip(self.tasks, runs, strict=True))
        return runs if whole else None

    def _with_failures(self, model: str) -> list[np.ndarray] | None:
        """The same with minus infinity for a failed run; None if the model is not on all tasks, or not yet done."""
        runs = []
        for task in self.tasks:
            cells = self.of(model, task)
            values = self.values(model, task, self.suite.score)
            if not cells or any(r.status == "missing" for r in cells):
                return None
            if len(values) < sum(r.status == "finished" for r in cells):
                return None  # a score that finished cells do not have
            runs.append(np.array([*values, *[-np.inf] * (len(cells) - len(values))]))
        return runs

    @cached_property
    def aggregates(self) -> dict[str, dict[str, Interval]]:
        """Model -> kind -> number over all tasks with its interval; models with a failed or missing cell have none."""
        return {model: {kind: aggregate(runs, kind, resamples=RESAMPLES) for kind in AGGREGATES}
                for model in self.models if (runs := self.runs(model)) is not None}

    @cached_property
    def profiles(self) -> tuple[list[float], dict[str, list[Interval]]]:
        """Thresholds, and model -> share of runs above each of them; failed runs are above nothing."""
        all_runs = {model: runs for model in self.models if (runs := self._with_failures(model)) is not None}
        scores = [value for runs in all_runs.values() for scores in runs for value in scores if np.isfinite(value)]
        if not scores:
            return [], {}
        low, high = min(scores), max(scores)
        margin = 0.05 * (high - low) or 1.0
        thresholds = np.linspace(low - margin, high + margin, POINTS).tolist()
        return thresholds, {model: performance_profile(runs, thresholds, resamples=RESAMPLES)
                            for model, runs in all_runs.items()}

    @cached_property
    def improvements(self) -> dict[tuple[str, str], Interval]:
        """(model, other) -> probability that a run of the model is above a run of the other; failed runs lose."""
        runs = {model: found for model in self.models if (found := self._with_failures(model)) is not None}
        return {(one, other): probability_of_improvement(runs[one], runs[other], resamples=RESAMPLES)
                for one in runs for other in runs if one != other}

    # -- beside ours

    def baselines(self, task: str) -> dict[str, dict[str, float]]:
        """Predictions without a model on a task's clips, from the first finished cell."""
        for record in self.records:
            if record.task == task and record.status == "finished" and "baselines" in record.result:  # type: ignore
                return dict(record.result["baselines"])  # type: ignore[index]
        return {}

    def papers(self) -> tuple[list[Paper], list[tuple[Paper, str]]]:
        """Published numbers that were made as ours were, and the others with what differs."""
        beside, apart = [], []
        for paper in self.suite.papers:
            done = self.protocol_of(paper.task)
            if done is None:
                apart.append((paper, "no cell of this task has finished"))
                continue
            differing = [f"{name}: {value} there, {done.get(name, 'not stated')} here"
                         for name, value in paper.protocol.items() if _plain(value) != _plain(done.get(name))]
            missing = [] if paper.protocol else ["its protocol is not known"]
            (apart.append((paper, "; ".join(differing + missing))) if differing or missing else beside.append(paper))
        return beside, apart

    def protocol_of(self, task: str) -> dict[str, Any] | None:
        """What the finished cells of a task did."""
        for record in self.records:
            if record.task == task and record.status == "finished":
                result, about = record.result, self.suite.task(task)
                if self.suite.kind == "control":
                    return {"env": about.env, "episodes": self.suite.episodes, "steps": self.suite.steps,
                            "deterministic": self.suite.deterministic, **about.options}
                return {"data": about.data, "clips": result["clips"], **result["protocol_as_run"]}  # type: ignore
        return None

    @cached_property
    def metrics(self) -> list[str]:
        """Scores that some cell has, the suite's first."""
        found = [self.suite.score]
        for record in self.records:
            found += [name for name in (record.result or {}).get("scores", {}) if name not in found]
        return found

    @property
    def costs(self) -> list[str]:
        """What it took, of those that some cell knows."""
        return [name for name in ("parameters", "steps", "cpu_seconds")
                if any(r.number(name) is not None for r in self.records)]

    def notes(self) -> list[str]:
        """What the numbers mean, and what they do not."""
        s = self.suite
        counts = {status: sum(r.status == status for r in self.records) for status in ("finished", "failed", "missing")}
        did = (f"{s.context_frames} frames given, {s.horizon} predicted (or as a task's own protocol says), of the "
               f"same at most {s.clips} clips of split '{s.split}' for every model, driven by the deterministic prior"
               if s.kind == "prediction" else
               f"{s.episodes} episodes of at most {s.steps} steps for every run, the same for every model")
        score = UNITS[s.score]
        notes = [
            f"{s.summary or s.name}. Budget of a trained cell: {s.budget}. {did}.",
            f"{len(self.records)} cells: {counts['finished']} finished, {counts['failed']} failed, {counts['missing']} "
            "not done. A failed cell has no number, and nothing stands for it.",
            f"One task: mean over at most {s.seeds} seed(s) ± half of its 95% Student t interval; without ±: one run. "
            "Weights that come along are one run, whatever the number of seeds.",
            f"All tasks: {score}; 95% intervals of a stratified bootstrap (runs drawn anew within each task, "
            f"{RESAMPLES} times); only for models all of whose cells finished. With two or three runs a task these "
            "intervals are too narrow.",
            "Probability of improvement: that a run of the row is above a run of the column, mean over tasks, ties "
            "half; a failed run is below every other.",
        ]
        notes += [f"{entry.name}: {entry.note}" for entry in s.models if entry.note and entry.name in self.models]
        beside, apart = self.papers()
        if beside:
            notes.append("† a paper's number, theirs, of the same protocol as far as it is stated: "
                         + "; ".join(dict.fromkeys(f"{p.model} on {p.task}: {p.source}" for p in beside)) + ".")
        notes += [f"Not beside ours: {p.model} on {p.task}, {p.metric} {p.value:g} ({p.source}): {why}."
                  for p, why in apart]
        return notes

    def errors(self) -> list[tuple[str, list[Record]]]:
        """Errors, each once, and where they happened."""
        found: dict[str, list[Record]] = {}
        for record in self.records:
            if record.status == "failed":
                found.setdefault(record.error, []).append(record)
        return list(found.items())

    def print(self) -> None:
        """Show the tables on the terminal."""
        from .formats import print_tables

        print_tables(self)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
