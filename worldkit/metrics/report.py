"""`Report`: the numbers of an evaluation with their uncertainty and the protocol that produced them.

A number without its protocol cannot be compared: scores driven by latent actions inferred from the true future are
reconstruction scores, far above those of real predictions. So a report refuses to exist without that information.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..batch import check_shape
from ..errors import ConfigError, DataError, ShapeError
from ..files import write_atomically

PROTOCOL_KEYS = ("context_frames", "horizon", "split", "resolution", "decoding", "seed", "driven_by")
"""What every protocol must state; other keys (dataset, checkpoint, command, hardware) may be added."""

DECODING = ("stochastic", "deterministic")
DRIVEN_BY = ("sampled", "deterministic prior", "inferred latent actions", "sampled, best of n",
             "true frames, encoded")
"""What drives a rollout. ``"inferred latent actions"`` have seen the true future, the best of n samples was chosen with
its help, and ``"true frames, encoded"`` are the future itself, encoded and decoded: not prediction scores."""

TITLES = {
    "psnr": "PSNR (dB) ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓", "fvd": "FVD ↓", "fid": "FID ↓",
    "med10": "MED10 ↓", "med10_painted": "MED10 (painted) ↓",
    "tracking_error": "distance to objects ↓", "painted_error": "distance to objects (painted) ↓",
    "pck": "PCK@0.1 ↑", "paired": "objects paired ↑",
    "kept": "objects kept ↑",
    "vector_error": "error of vectors ↓",
    "delta_psnr": "ΔPSNR, any latent action (dB) ↑", "delta_psnr_usage": "ΔPSNR, as used (dB) ↑",
    "action_error": "error of found actions ↓", "latent_error": "error of latents, true actions ↓",
    "inverse_error": "error of actions read off ↓", "probe_error": "error of state read off ↓",
    **{f"pck{k}": f"PCK@{k} of points ↑" for k in (5, 10, 20, 40)}, "points_seen": "points seen ↑",
    "ari": "ARI ↑", "fg_ari": "FG-ARI ↑", "fg_ari_video": "FG-ARI (video) ↑", "miou": "mIoU ↑",
}
"""Metric -> column; arrows point to the better side. A metric that is not listed is shown in capitals."""

INCOMPLETE = ("tracking_error", "painted_error", "pck", "kept", "miou", "pck5", "pck10", "pck20", "pck40")
"""Metrics that some frames do not have (no object there, prediction gone): NaN, left out of means."""


DIFFERENCES = ("Differences: paired over the same clips; * = the 95% interval does not hold 0 (one metric at a time, "
               "chance of the clips only: other training seeds may differ).")
"""What a table with differences says below."""

ARROWS = "↑ higher is better, ↓ lower is better."
WORDS = {"context_frames": "frames given", "horizon": "frames predicted", "driven_by": "driven by", "n": "clips",
         "max_clips": "clips at most", "tracking": "objects followed as"}
"""Entry of a protocol -> what it is called below a table."""


def title(metric: str) -> str:
    """Heading of a metric's column."""
    for start, words in (("mse_", "squared error"), ("wrong_", "share wrong")):
        if metric.startswith(start):
            return f"{metric.removeprefix(start)}: {words} ↓"
    return TITLES.get(metric, metric.upper())


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% confidence interval. ``low`` and ``high`` are NaN if ``n`` is 1, all numbers if it is 0."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether all of it lies on one side of 0: a difference beyond chance. False without an interval."""
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, float | None]:
        """For JSON, which has no NaN: None instead."""
        return {name: None if math.isnan(value) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Interval:
        """The interval that `to_dict` stored."""
        return cls(**{name: math.nan if value is None else value for name, value in stored.items()})

    def __str__(self) -> str:
        if self.n == 0:
            return "-"
        return f"{self.mean:.4g}" if self.n < 2 else f"{self.mean:.4g} ± {(self.high - self.low) / 2:.2g}"


def starred(interval: Interval) -> str:
    """A difference as text, with a star if it is beyond chance."""
    return f"{interval}{' *' if interval.excludes_zero else ''}"


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
            "deterministic prior", "inferred latent actions" or "sampled, best of n"). More entries are kept and shown.
            ``n`` is added.
        totals: Method name -> metric name -> one number of the whole set (FVD, MED10), which has no interval.
        clips: Which clips were scored, (episode, first frame), in order; `paired_difference` compares them.
    Raises:
        ConfigError: if the protocol lacks an entry, has an unknown value, or contradicts the scores.
        ShapeError: if the scores are empty or differ in shape.
        DataError: if a score is NaN or infinite (NaN is allowed in `INCOMPLETE`); names the method, metric and clip.
    Example:
        >>> import torch
        >>> protocol = dict(context_frames=4, horizon=2, split="test", resolution="64x64", decoding="stochastic",
        ...                 seed=0, driven_by="sampled")
        >>> report = Report({"model": {"psnr": torch.tensor([[30.0, 28.0], [32.0, 30.0]])}}, protocol)
        >>> report.summary("model", "psnr").mean
        30.0
    """

    def __init__(
        self, scores: Mapping[str, Mapping[str, Tensor]], protocol: Mapping[str, Any], *,
        totals: Mapping[str, Mapping[str, float]] | None = None, clips: Sequence[tuple[int, int]] | None = None,
    ):
        self.totals = {method: dict(values) for method, values in (totals or {}).items()}
        self.clips = None if clips is None else [tuple(clip) for clip in clips]
        self.scores = {m: {k: v.detach().cpu().double() for k, v in s.items()} for m, s in scores.items()}
        shape = _check_scores(self.scores)
        self.protocol: dict[str, Any] = dict(protocol) | {"n": shape[0]}
        _check_protocol(protocol, *shape)

    def summary(self, method: str, metric: str) -> Interval:
        """Mean over clips and frames, with its interval over clips; clips without a number are left out."""
        return _interval(self.per_clip(method, metric))

    def per_clip(self, method: str, metric: str) -> Tensor:
        """Mean over the frames of every clip, ``[n]``; NaN for a clip without a number."""
        return self.scores[method][metric].nanmean(1)

    def curve(self, method: str, metric: str) -> list[Interval]:
        """The same for every predicted frame alone, from the first to the last."""
        return [_interval(column) for column in self.scores[method][metric].unbind(1)]

    @property
    def baselines(self) -> list[str]:
        """What the first method is held against: methods scored by the same first metric."""
        first, *others = self.scores
        metric = next(iter(self.scores[first]))
        return [method for method in others if metric in self.scores[method]]

    def margin(self, metric: str, baseline: str) -> Interval:
        """Mean of (first method - baseline) over the same clips, with its paired interval over clips."""
        first = next(iter(self.scores))
        return _interval(self.per_clip(first, metric) - self.per_clip(baseline, metric))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(header, rows) of text: one row per method, then `margin_rows`; one column per metric."""
        metrics = self.metrics
        rows = [[method, *self.cells(method, metrics)] for method in self.scores]
        return ["method", *map(title, metrics)], rows + self.margin_rows(metrics, next(iter(self.scores)))

    def margin_rows(self, metrics: Sequence[str], name: str) -> list[list[str]]:
        """Rows of text, one per baseline: how far the first method, called ``name``, is from it."""
        scores = next(iter(self.scores.values()))
        return [[f"{name} − {baseline}", *(
            starred(self.margin(m, baseline)) if m in scores and m in self.scores[baseline] else "-" for m in metrics
        )] for baseline in self.baselines]

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics, those of the whole set last."""
        tables = (*self.scores.values(), *self.totals.values())
        return list(dict.fromkeys(metric for values in tables for metric in values))

    def cells(self, method: str, metrics: Sequence[str]) -> list[str]:
        """Numbers of a method as text; ``-`` for those it does not have."""
        scores, totals = self.scores.get(method, {}), self.totals.get(method, {})
        return [str(self.summary(method, m)) if m in scores else
                "-" if math.isnan(totals.get(m, math.nan)) else f"{totals[m]:.4g}" for m in metrics]

    def print(self, *, title: str = "") -> None:
        """Show the table, below a title, and the protocol on the terminal."""
        from rich import box
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        header, rows = self.table()
        table = Table(box=box.SIMPLE_HEAD, title=escape(title), title_justify="left", title_style="bold")
        for column, name in enumerate(header):
            table.add_column(name, justify="right" if column else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        console = Console()
        console.print(table)
        console.print(Text(self.footer()), soft_wrap=True)

    def to_markdown(self) -> str:
        """A table in GitHub's Markdown with the protocol below it."""
        header, rows = self.table()
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"{text}\n\n{self.footer()}\n"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values: protocol, and mean, interval and curve of each method and metric.

        The first method's entries also hold ``"over"``: its margin over each baseline.
        """

        def entry(method: str, metric: str) -> dict[str, Any]:
            frames = [interval.to_dict() for interval in self.curve(method, metric)]
            return self.summary(method, metric).to_dict() | {"per_frame": frames}

        results = {method: {m: entry(method, m) for m in values} for method, values in self.scores.items()}
        for metric, values in results[next(iter(self.scores))].items():
            over = {b: self.margin(metric, b).to_dict() for b in self.baselines if metric in self.scores[b]}
            values |= {"over": over} if over else {}
        for method, values in self.totals.items():
            whole = {m: {"total": None if math.isnan(v) else v} for m, v in values.items()}
            results[method] = results.get(method, {}) | whole
        everything = {"protocol": self.protocol, "interval": "95% Student t over clips", "results": results}
        return everything if self.clips is None else everything | {"clips": [list(c) for c in self.clips]}

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` as JSON; replaces the file in one step."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, default=str) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))

    def facts_line(self, keys: Iterable[str]) -> str:
        """Entries of the protocol in a line; of the weights' checksum the first digits."""
        found = {key: self.protocol[key] for key in keys if key in self.protocol}
        short = {key: value[:12] if key == "weights" else value for key, value in found.items()}
        return "; ".join(f"{WORDS.get(key, key)} {value}" for key, value in short.items())

    def footer(self, *, without: Sequence[str] = ()) -> str:
        """What the numbers are, and the protocol, in a line.

        Args:
            without: Entries of the protocol to leave out.
        """
        facts = self.facts_line(key for key in self.protocol if key not in without)
        note = f"Mean over predicted frames and clips ± half of its 95% Student t interval. {ARROWS} {facts}."
        if self.protocol["driven_by"] == "inferred latent actions":
            note += " The latent actions were inferred from the true future: reconstruction scores, not predictions."
        if self.protocol["driven_by"] == "sampled, best of n":
            note += " The sample nearest to the truth (PSNR) was chosen for every clip: not what one sample scores."
        if self.protocol["driven_by"] == "true frames, encoded":
            note += " The true frames themselves were encoded and decoded: reconstruction scores, not predictions."
        return f"{note} {DIFFERENCES}" if self.baselines else note


def paired_difference(report: Report, other: Report, metric: str, *, method: str = "model") -> Interval:
    """Mean of (other - report) over the same clips, with its 95% interval: a paired t interval.

    What makes a clip hard is the same for both, so this interval is far narrower than those of the two means. One that
    does not hold 0 is a difference beyond chance of the clips; other training seeds it says nothing about.

    Args:
        report, other: Reports of the same clips.
        metric: A metric both have per clip.
        method: Row of both.
    Raises:
        DataError: if the clips are not the same.
    Example:
        >>> import torch
        >>> protocol = dict(context_frames=4, horizon=1, split="test", resolution="64x64", decoding="deterministic",
        ...                 seed=0, driven_by="deterministic prior")
        >>> a, b = (Report({"model": {"psnr": torch.tensor([[20.0], [30.0]]) + d}}, protocol) for d in (0, 1))
        >>> print(paired_difference(a, b, "psnr"))
        1 ± 0
    """
    if report.clips != other.clips or report.protocol["n"] != other.protocol["n"]:
        raise DataError("the reports scored different clips, so they cannot be compared in pairs")
    return _interval(other.per_clip(method, metric) - report.per_clip(method, metric))


def _interval(values: Tensor) -> Interval:
    """`confidence_interval` of those numbers that are there."""
    values = values[~values.isnan()]
    return confidence_interval(values) if len(values) else Interval(math.nan, math.nan, math.nan, 0)


def _check_scores(scores: Mapping[str, Mapping[str, Tensor]]) -> tuple[int, int]:
    if not scores or not all(scores.values()):
        raise ShapeError("scores must hold at least one method with at least one metric")
    sizes: dict[str, int] = {}
    for method, values in scores.items():
        for metric, value in values.items():
            sizes = check_shape(value, "n h", name=f"scores of {method}, {metric}", **sizes)
            if value.numel() == 0:
                raise ShapeError(f"scores of {method}, {metric} are empty: {list(value.shape)}")
            wrong = value.isinf() if metric in INCOMPLETE else ~value.isfinite()
            bad = wrong.any(1).nonzero()
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
