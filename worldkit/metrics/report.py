"""`Report`: the numbers of an evaluation with their uncertainty and the protocol that produced them.

A number without its protocol cannot be compared: scores driven by latent actions inferred from the true future are
reconstruction scores, far above those of real predictions. So a report refuses to exist without that information.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..batch import check_shape
from ..errors import ConfigError, DataError, ShapeError

PROTOCOL_KEYS = ("context_frames", "horizon", "split", "resolution", "decoding", "seed", "driven_by")
"""What every protocol must state; other keys (dataset, checkpoint, command, hardware) may be added."""

DECODING = ("stochastic", "deterministic")
DRIVEN_BY = ("sampled", "deterministic prior", "inferred latent actions")
"""What drives a rollout. ``"inferred latent actions"`` have seen the true future: not a prediction score."""

DIRECTIONS = {"psnr": "↑", "ssim": "↑", "lpips": "↓"}


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% confidence interval. ``low`` and ``high`` are NaN if ``n`` is 1."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if self.n < 2 else f"{self.mean:.4g} ± {(self.high - self.low) / 2:.2g}"


def confidence_interval(values: Tensor) -> Interval:
    r"""Mean of independent numbers and its 95% Student t interval.

    .. math:: \bar v \pm t_{0.975, n - 1} \, s / \sqrt n

    Args:
        values: One number per clip, ``[n]``.
    Raises:
        ShapeError: if there is no value or more than one axis.
    Example:
        >>> import torch
        >>> print(confidence_interval(torch.tensor([1.0, 2.0, 3.0])))
        2 ± 2.5
    """
    n = check_shape(values, "n", name="values")["n"]
    if n == 0:
        raise ShapeError("values is empty: a mean needs at least one clip")
    values = values.double()
    mean = values.mean().item()
    half = _t_quantile(n - 1) * values.std().item() / math.sqrt(n) if n > 1 else math.nan
    return Interval(mean, mean - half, mean + half, n)


class Report:
    """Scores per clip and predicted frame of a model and its baselines, with the protocol.

    The confidence interval is over clips: frames are averaged inside each clip first, because frames of one clip are
    not independent. It says nothing about other training seeds.

    Args:
        scores: Method name -> metric name -> ``[n, H]`` (n clips, H predicted frames), as `score_predictions` returns
            them; the model first, then baselines. All tensors have the same shape.
        protocol: How the numbers came about. Required: ``context_frames``, ``horizon`` (= H), ``split``,
            ``resolution``, ``decoding`` ("stochastic" or "deterministic"), ``seed``, ``driven_by`` ("sampled",
            "deterministic prior" or "inferred latent actions"). More entries are kept and shown. ``n`` is added.
    Raises:
        ConfigError: if the protocol lacks an entry, has an unknown value, or contradicts the scores.
        ShapeError: if the scores are empty or differ in shape.
        DataError: if a score is NaN or infinite; names the method, metric and first such clip.
    Example:
        >>> import torch
        >>> protocol = dict(context_frames=4, horizon=2, split="test", resolution="64x64", decoding="stochastic",
        ...                 seed=0, driven_by="sampled")
        >>> report = Report({"model": {"psnr": torch.tensor([[30.0, 28.0], [32.0, 30.0]])}}, protocol)
        >>> report.summary("model", "psnr").mean
        30.0
    """

    def __init__(self, scores: Mapping[str, Mapping[str, Tensor]], protocol: Mapping[str, Any]):
        self.scores = {m: {k: v.detach().cpu().double() for k, v in s.items()} for m, s in scores.items()}
        shape = _check_scores(self.scores)
        self.protocol: dict[str, Any] = dict(protocol) | {"n": shape[0]}
        _check_protocol(protocol, *shape)

    def summary(self, method: str, metric: str) -> Interval:
        """Mean over clips and frames, with its interval over clips."""
        return confidence_interval(self.scores[method][metric].mean(1))

    def curve(self, method: str, metric: str) -> list[Interval]:
        """The same for every predicted frame alone, from the first to the last."""
        return [confidence_interval(column) for column in self.scores[method][metric].unbind(1)]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(header, rows) of text: one row per method, one column per metric."""
        metrics = list(dict.fromkeys(metric for values in self.scores.values() for metric in values))
        header = ["method", *(f"{m.upper()} {DIRECTIONS.get(m, '')}".strip() for m in metrics)]
        rows = [
            [method, *(str(self.summary(method, m)) if m in values else "-" for m in metrics)]
            for method, values in self.scores.items()
        ]
        return header, rows

    def print(self) -> None:
        """Show the table and the protocol on the terminal."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        header, rows = self.table()
        table = Table(box=box.SIMPLE_HEAD)
        for column, name in enumerate(header):
            table.add_column(name, justify="right" if column else "left", no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row))
        console = Console()
        console.print(table)
        console.print(Text(self._footer()), soft_wrap=True)

    def to_markdown(self) -> str:
        """A table in GitHub's Markdown with the protocol below it."""
        header, rows = self.table()
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"{text}\n\n{self._footer()}\n"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values: protocol, and mean, interval and curve of each method and metric."""

        def plain(interval: Interval) -> dict[str, Any]:
            low, high = (None if math.isnan(v) else v for v in (interval.low, interval.high))
            return {"mean": interval.mean, "low": low, "high": high, "n": interval.n}

        def entry(method: str, metric: str) -> dict[str, Any]:
            return plain(self.summary(method, metric)) | {"per_frame": [plain(i) for i in self.curve(method, metric)]}

        results = {method: {m: entry(method, m) for m in values} for method, values in self.scores.items()}
        return {"protocol": self.protocol, "interval": "95% Student t over clips", "results": results}

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` as JSON; replaces the file in one step."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False, default=str) + "\n", "utf-8")
        temporary.replace(path)

    def _footer(self) -> str:
        facts = "; ".join(f"{key} {value}" for key, value in self.protocol.items())
        note = f"Mean over predicted frames and clips ± half of the 95% Student t interval over n clips. {facts}."
        if self.protocol["driven_by"] == "inferred latent actions":
            note += " The latent actions were inferred from the true future: reconstruction scores, not predictions."
        return note


def _check_scores(scores: Mapping[str, Mapping[str, Tensor]]) -> tuple[int, int]:
    if not scores or not all(scores.values()):
        raise ShapeError("scores must hold at least one method with at least one metric")
    sizes: dict[str, int] = {}
    for method, values in scores.items():
        for metric, value in values.items():
            sizes = check_shape(value, "n h", name=f"scores of {method}, {metric}", **sizes)
            if value.numel() == 0:
                raise ShapeError(f"scores of {method}, {metric} are empty: {list(value.shape)}")
            bad = (~value.isfinite()).any(1).nonzero()
            if len(bad):
                first = int(bad[0])
                raise DataError(f"{metric} of {method} is NaN or infinite for {len(bad)} clips, first clip {first}")
    return sizes["n"], sizes["h"]


def _check_protocol(protocol: Mapping[str, Any], n: int, horizon: int) -> None:
    missing = [key for key in PROTOCOL_KEYS if key not in protocol]
    if missing:
        raise ConfigError(f"the protocol lacks {', '.join(missing)}; it must state {', '.join(PROTOCOL_KEYS)}")
    for key, allowed in (("decoding", DECODING), ("driven_by", DRIVEN_BY)):
        if protocol[key] not in allowed:
            raise ConfigError(f"protocol['{key}'] must be one of {', '.join(allowed)}, got {protocol[key]!r}")
    for key, actual in (("horizon", horizon), ("n", n)):
        if protocol.get(key, actual) != actual:
            raise ConfigError(f"protocol['{key}'] is {protocol[key]}, but the scores have {actual}")


@functools.cache
def _t_quantile(freedom: int) -> float:
    """0.975 quantile of Student's t, by bisection on `_t_two_sided`."""
    low, high = 1.9, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_two_sided(middle, freedom) < 0.95 else (low, middle)
    return (low + high) / 2


def _t_two_sided(t: float, freedom: int) -> float:
    """P(|T| < t) for whole degrees of freedom; Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    odd, cosine = freedom % 2, math.cos(angle)
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
