"""`Rows`: scores of batches, gathered into reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..metrics import Report, med10
from .scores import VECTOR_ERROR, Scorer, Scores

MODEL = "model"


class Rows:
    """Scores per row of a report ("model" and its baselines), batch by batch; the model may have several samples."""

    def __init__(self) -> None:
        self.clips: list[tuple[int, int]] = []
        self._scores: dict[str, list[Scores]] = {MODEL: []}
        self._best: list[Scores] = []
        self._features: dict[str, dict[str, list[Tensor]]] = {}
        self._truth: dict[str, list[Tensor]] = {}

    def add_clips(self, clips: Sequence[tuple[int, int]], count: int) -> None:
        """Which clips come next; with several views every clip counts once for each."""
        self.clips += [clip for clip in clips for _ in range(count // len(clips))]

    def add_scores(self, row: str, scores: Scores) -> None:
        """Scores of one batch."""
        self._scores.setdefault(row, []).append({name: value.cpu() for name, value in scores.items()})

    def add_samples(self, drawn: Sequence[Scores]) -> None:
        """Scores of the samples of one batch: their mean, and those of the best sample per clip: the one of the
        highest PSNR, or of the smallest error of its vectors where there are no pictures."""
        stacked = {name: torch.stack([scores[name].cpu() for scores in drawn]) for name in drawn[0]}
        self.add_scores(MODEL, {name: values.nanmean(0) for name, values in stacked.items()})
        if len(drawn) > 1:
            quality = stacked["psnr"] if "psnr" in stacked else -stacked[VECTOR_ERROR]
            best = quality.mean(-1).argmax(0)
            clip = torch.arange(len(best))
            self._best.append({name: values[best, clip] for name, values in stacked.items()})

    def add_truth(self, features: Mapping[str, Tensor], samples: int) -> None:
        """Features of the truth, as often as there are samples of it: sets of one size, as LPWM's FVD has them."""
        for name, value in features.items():
            self._truth.setdefault(name, []).extend([value] * samples)

    def add_features(self, row: str, features: Mapping[str, Tensor]) -> None:
        """Features of generated clips or frames."""
        for name, value in features.items():
            self._features.setdefault(row, {}).setdefault(name, []).append(value)

    def report(self, protocol: Mapping[str, Any], scorer: Scorer) -> Report:
        """Everything gathered so far."""
        scores = {row: _joined(parts) for row, parts in self._scores.items()}
        totals = {row: _totals(values, scorer) for row, values in scores.items()}
        for row, features in self._features.items():
            for name, parts in features.items():
                network = scorer.networks[name]
                totals.setdefault(row, {})[name] = network.distance(torch.cat(self._truth[name]), torch.cat(parts))
        return Report(scores, protocol, totals=totals, clips=self.clips)

    def best_report(self, protocol: Mapping[str, Any], scorer: Scorer) -> Report:
        """The best sample of every clip, beside the same baselines."""
        scores = {row: _joined(self._best if row == MODEL else parts) for row, parts in self._scores.items()}
        return Report(scores, protocol, totals={row: _totals(s, scorer) for row, s in scores.items()}, clips=self.clips)


def _joined(parts: Sequence[Scores]) -> Scores:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _totals(scores: Scores, scorer: Scorer) -> dict[str, float]:
    errors = {"med10": "tracking_error", "med10_painted": "painted_error"}
    return {name: med10(scores[error]) for name, error in errors.items()
            if name in scorer.metrics and error in scores}
