"""Several models side by side: the same clips, one protocol, paired intervals, rollouts to look at."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .. import __version__
from ..batch import to_float_video
from ..data import ClipDataset, collate
from ..data.decided import FOR_A_MODEL, refuse_decided
from ..errors import ConfigError, DataError
from ..files import write_atomically
from ..metrics import ImageFeatures, Protocol, Report, VideoFeatures, paired_difference
from ..metrics.points import PointTracker
from ..metrics.report import WORDS, starred, title
from ..model import ComposedWorldModel
from ..storage.folders import TRAINED_ON
from ..viz import HtmlReport, animate_rollout, rollout_strip
from .evaluation import DRIVERS, ENCODED, choose_clips, evaluate, mean_image, predict
from .figures import COLUMNS, INFERRED_NOTE
from .latent_scores import ProbeError, latent_scorers, probe_column
from .protocols import BY_HAND
from .recipes import open_clips, resize_note

CONSTANT = ("paired", "fg_ari_video")
"""Metrics of a whole clip, which have no curve."""
_CAPTIONS = {**COLUMNS, "encoded": "the true frames, reconstructed"}
"""What drives a rollout -> what its picture is called."""
OF_ONE_MODEL = ("name", "weights", "step", TRAINED_ON, "tracking")
"""Entries of a report's protocol that say which model it is, and how its objects were followed."""


@dataclass(frozen=True)
class Comparison:
    """Results of one or several models; what `compare` returns.

    Attributes:
        protocol: What was asked for.
        changed: Where it departs from the protocol of that name.
        reports: What drives the rollouts -> model -> report. These are never mixed in one table.
        notes: What else is to say.
        pictures: Caption, animation ``[T, 3, h, w]`` and still strip ``[3, h, w]``: the truth beside every model.
    """

    protocol: Protocol
    changed: Mapping[str, Any]
    reports: Mapping[str, Mapping[str, Report]]
    notes: Sequence[str] = ()
    pictures: Sequence[tuple[str, Tensor, Tensor]] = field(default=(), repr=False)

    def table(self, driver: str) -> tuple[list[str], list[list[str]]]:
        """(header, rows) of text: every model, the baselines, differences to the first model or to the baselines."""
        reports = self.reports[driver]
        first, *others = reports
        metrics = list(dict.fromkeys(metric for report in reports.values() for metric in report.metrics))
        rows = [[name, *report.cells("model", metrics)] for name, report in reports.items()]
        rows += [[name, *report.cells(row, metrics)] for name, report, row in _baselines(reports)]
        for name in others:
            rows.append([f"{name} − {first}", *(self._difference(driver, name, metric) for metric in metrics)])
        if not others:
            rows += reports[first].margin_rows(metrics, first)
        return ["model" if others else "method", *map(title, metrics)], rows

    def _difference(self, driver: str, name: str, metric: str) -> str:
        first, other = next(iter(self.reports[driver].values())), self.reports[driver][name]
        if any(metric not in report.scores["model"] for report in (first, other)):
            return "-"
        return starred(paired_difference(first, other, metric))

    def legend(self, driver: str) -> str:
        """What the numbers of a table mean."""
        reports = list(self.reports[driver].values())
        footer = reports[0].footer(without=OF_ONE_MODEL if len(reports) > 1 else ())
        return "\n\n".join([footer, *(r.facts_line(OF_ONE_MODEL) for r in reports if len(reports) > 1)])

    def heading(self, driver: str) -> str:
        """Name of what drives the rollouts."""
        return f"driven by: {DRIVERS[driver]}"

    def print(self) -> None:
        """Show the tables on the terminal."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console()
        console = console if console.is_terminal else Console(width=max(console.width, 160))
        for driver in self.reports:
            header, rows = self.table(driver)
            table = Table(box=box.SIMPLE_HEAD, title=self.heading(driver), title_justify="left")
            for column, name in enumerate(header):
                table.add_column(name, justify="right" if column else "left", overflow="fold")
            for row in rows:
                table.add_row(*map(Text, row))
            console.print(table)
            console.print(Text(self.legend(driver)), soft_wrap=True)
        for line in self.notes:
            console.print(Text(line), soft_wrap=True)

    def to_markdown(self) -> str:
        """Tables in GitHub's Markdown."""
        parts = [f"# Evaluation: {self.protocol.name}", self._about()]
        for driver in self.reports:
            header, rows = self.table(driver)
            lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
            table = "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)
            parts += [f"## {self.heading(driver)}", table, self.legend(driver)]
        return "\n\n".join([*parts, *self.notes]) + "\n"

    def to_dict(self, driver: str) -> dict[str, Any]:
        """Everything about one kind of rollout as plain values; of a single model, its report."""
        stored = {"evaluation": {"protocol": self.protocol.to_dict(), "changed": dict(self.changed)},
                  "notes": list(self.notes)}
        reports = self.reports[driver]
        first, *others = reports
        if not others:
            return reports[first].to_dict() | stored
        shared = [m for m in reports[first].scores["model"]
                  if all(m in report.scores["model"] for report in reports.values())]
        differences = {
            f"{name} - {first}": {m: paired_difference(reports[first], reports[name], m).to_dict() for m in shared}
            for name in others
        }
        return {"models": {name: report.to_dict() for name, report in reports.items()},
                "paired differences": differences} | stored

    def page(self) -> HtmlReport:
        """Tables, curves over the predicted frames, and rollouts, in one file."""
        page = HtmlReport(f"Evaluation: {self.protocol.name}").text(self._about())
        for driver, reports in self.reports.items():
            page.heading(self.heading(driver)).table(*self.table(driver)).text(self.legend(driver))
            for metric in next(iter(reports.values())).metrics:
                series = _curves(reports, metric)
                if series and metric not in CONSTANT:
                    page.curve(series, x_label="predicted frame", y_label=title(metric),
                               caption="mean over clips and its 95% interval")
        for line in self.notes:
            page.text(line)
        if self.pictures:
            green = "the rest, reconstructed, too" if [*self.reports] == ["encoded"] else "predicted"
            page.heading("Rollouts").text(f"Red: the truth; blue: given frames, reconstructed; green: {green}.")
        for caption, frames, still in self.pictures:
            page.gif(frames, still=still, fps=4, caption=caption)
        return page

    def write(self, folder: str | Path) -> list[Path]:
        """Write ``eval-PROTOCOL-SPLIT-DRIVER.json``, ``eval-PROTOCOL-SPLIT.md`` and ``.html``; returns the paths.

        A protocol made by hand leaves its name out.
        """
        folder = Path(folder)
        parts = () if self.protocol.name == BY_HAND else (re.sub("[^A-Za-z0-9._-]+", "-", self.protocol.name),)
        stem = "-".join(["eval", *parts, self.protocol.split])
        folder.mkdir(parents=True, exist_ok=True)
        texts = {f"{stem}.md": self.to_markdown(), f"{stem}.html": self.page().to_html()}
        for driver in self.reports:
            content = json.dumps(self.to_dict(driver), indent=2, ensure_ascii=False, default=str)
            texts[f"{stem}-{driver.replace(' ', '-')}.json"] = content + "\n"
        for name, text in texts.items():
            write_atomically(folder / name, lambda temporary, text=text: temporary.write_text(text, "utf-8"))
        return [folder / name for name in texts]

    def _about(self) -> str:
        text = f"Protocol {self.protocol.name}: {self.protocol.summary}. Source: {self.protocol.source}."
        if self.changed:
            changes = "; ".join(f"{WORDS.get(name, name)}: {_in_words(value)}" for name, value in self.changed.items())
            text += f"\n\nNot as the protocol says: {changes}."
        return text


def compare(
    models: Mapping[str, ComposedWorldModel],
    data: str,
    protocol: Protocol,
    *,
    changed: Mapping[str, Any] | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    data_options: Mapping[str, Any] | None = None,
    perceptual: Any = None,
    networks: Mapping[str, VideoFeatures | ImageFeatures] | None = None,
    tracker: PointTracker | None = None,
    seed: int = 0,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    pictures: int = 2,
) -> Comparison:
    """Evaluate models on the same clips.

    Args:
        models: Name -> model; differences are to the first one.
        data: What `worldkit.data.open_dataset` recognises.
        protocol: What to do; `find_protocol` finds one by name.
        changed: What of it is not as the protocol of that name says, for the record.
        facts: Name -> what the results say of a model besides, as `worldkit.storage.folders.provenance` tells it:
            without its ``"weights"``, ``worldkit push`` does not know whose results these are.
        data_options: Options of the data format.
        perceptual: LPIPS network, needed if the protocol has LPIPS.
        networks: ``"fvd"`` -> `VideoFeatures`, ``"fid"`` -> `ImageFeatures`, likewise.
        tracker: What follows points for ``point_pck``; None: `worldkit.metrics.MatchTracker`.
        seed: Of sampled rollouts.
        batch_size: Clips at a time.
        device: Where to compute.
        pictures: Clips to draw.
    Raises:
        ConfigError: the models have images of different sizes, or lack what a metric needs.
        DataError: the data lack what a metric needs, or have no clip that is long enough.
    """
    sizes = {name: f"{m.config.obs.height}x{m.config.obs.width}" for name, m in models.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ConfigError(f"models of different image sizes cannot be compared by these metrics: {found}")
    resolution = next(iter(sizes.values()))
    if protocol.resolution not in (None, resolution):
        changed = {**(changed or {}), "resolution": resolution}
    protocol, _ = protocol.changed(resolution=resolution)
    if "lpips" in protocol.metrics and perceptual is None:
        raise ConfigError("the protocol has LPIPS: pass perceptual=load_lpips(...), or leave it out of the metrics")
    first, options = next(iter(models.values())), dict(data_options or {})
    refuse_decided(options, FOR_A_MODEL, typed="-o data.{}")
    protocol, skipped = protocol.changed(frame_skip=options.pop("frame_skip", None))
    changed = {**(changed or {}), **skipped}
    mode = "slide" if protocol.windows == "slide" else "tile"
    learned_from = partial(open_clips, first, data, split="train", frame_skip=protocol.frame_skip,
                           conditions=_columns(models), **options)
    vectors = _vectors(models)
    if "probe_error" in protocol.metrics:
        vectors |= {ProbeError.COLUMN: probe_column(learned_from, vectors)}
    clips = open_clips(first, data, split=protocol.split, num_frames=protocol.context_frames + protocol.horizon,
                       mode=mode, frame_skip=protocol.frame_skip, conditions=_columns(models),
                       vectors=vectors, **options)
    try:
        training = mean_image(
            open_clips(first, data, split="train", num_frames=1, conditions={}, vectors={}, **options))
    except DataError:
        training = None  # a test set alone: no mean training frame
    fitting = clips.source.fitting
    pixels: dict[str, Any] = {"pixels": str(fitting)} if fitting is not None and fitting.matters else {}
    pixels |= {"frame skip": protocol.frame_skip} if protocol.frame_skip > 1 else {}
    reports: dict[str, dict[str, Report]] = {}
    notes = []
    for name, model in models.items():
        if note := resize_note(name, (facts or {}).get(name, {}), clips):
            notes.append(note)
        drivers, missing = _possible(name, model, protocol.driven_by)
        notes += missing
        scorers = latent_scorers(model.to(device).eval(), protocol.metrics, learned_from, horizon=protocol.horizon,
                                 seed=seed, tracker=tracker)
        found = evaluate(
            model, clips, context_frames=protocol.context_frames, driven_by=drivers,
            training_mean=training, perceptual=perceptual, max_clips=protocol.max_clips, batch_size=batch_size,
            seed=seed, device=device, samples=protocol.samples, metrics=protocol.metrics, networks=networks,
            starts=protocol.windows == "start", scorers=scorers, split=protocol.split, data=data,
            evaluation=protocol.name, name=name, **(facts or {}).get(name, {}),
            **({"data options": options} if options else {}), **pixels,
            worldkit=__version__,
        )
        for driver, report in found.items():
            reports.setdefault(driver, {})[name] = report
    if not reports:
        raise ConfigError(f"nothing can be evaluated: {' '.join(notes)}")
    order = [driver for driver in (*protocol.driven_by, "best of n") if driver in reports]
    drawn = "prior" if "prior" in order else order[0]
    return Comparison(
        protocol, dict(changed or {}), {driver: reports[driver] for driver in order}, notes,
        _pictures(models, clips, protocol, drawn, seed, device, pictures if first.config.obs.height else 0),
    )


@torch.no_grad()
def _columns(models: Mapping[str, ComposedWorldModel]) -> dict[str, str]:
    """Condition -> column of the data, of all models together."""
    found: dict[str, str] = {}
    for name, model in models.items():
        for condition, column in model.config.columns.items():
            if found.setdefault(condition, column) != column:
                other = f"{found[condition]} and {column} ({name})"
                raise ConfigError(f"the models feed '{condition}' from different columns, {other}: evaluate them apart")
    return found


def _vectors(models: Mapping[str, ComposedWorldModel]) -> dict[str, Any]:
    """Vector beside the video -> column of the data, of all models together."""
    found: dict[str, Any] = {}
    for name, model in models.items():
        for vector, column in model.config.vectors.items():
            if found.setdefault(vector, column) != column:
                raise ConfigError(f"the models observe '{vector}' differently, {tuple(found[vector])} and "
                                  f"{tuple(column)} ({name}): evaluate them apart")
    return found


def _pictures(
    models: Mapping[str, ComposedWorldModel], clips: ClipDataset, protocol: Protocol, driver: str, seed: int,
    device: torch.device | str, count: int,
) -> list[tuple[str, Tensor, Tensor]]:
    drawn = []
    for index in choose_clips(clips, count, starts=protocol.windows == "start") if count else []:
        item = clips[index]
        batch = collate([item]).to(device)
        rollouts = {}
        for name, model in models.items():
            if driver not in _possible(name, model, [driver])[0] or model.decoder is None:
                continue
            rollout = predict(model, batch, context_frames=protocol.context_frames, driven_by=driver,
                              generator=torch.Generator(device=device).manual_seed(seed))
            both = torch.cat([rollout.context_video, rollout.video], -4)
            rollouts[f"{name}: {_CAPTIONS[driver]}"] = _one_picture(both).clamp(0, 1).cpu()
        truth = _one_picture(to_float_video(batch.video)).cpu()
        shown = {"context_frames": protocol.context_frames, "note": INFERRED_NOTE if driver == "inferred" else ""}
        drawn.append((
            f"{clips.source.episode_name(item['episode'])}, from frame {item['start']}",
            animate_rollout(truth, rollouts, **shown, cell=128), rollout_strip(truth, rollouts, **shown),
        ))
    return drawn


def _possible(name: str, model: ComposedWorldModel, drivers: Sequence[str]) -> tuple[list[str], list[str]]:
    """What of these can drive the model, and notes on the rest."""
    found, notes = list(drivers), []
    if model.dynamics is None:
        found = [driver for driver in found if driver == "encoded"]
        if len(found) < len(drivers):
            notes.append(f"{name} has no dynamics and predicts nothing: --driven-by encoded scores how it reconstructs "
                         "the true frames.")
    elif model.latent_action is None and "inferred" in found:
        found.remove("inferred")
        notes.append(f"{name} has no latent actions to infer: no row for it there.")
    return found, notes


def _one_picture(video: Tensor) -> Tensor:
    """``[1, (V,) T, C, H, W]`` -> ``[T, C, (V) H, W]``: views below one another."""
    return video[0] if video.ndim == 5 else rearrange(video[0], "v t c h w -> t c (v h) w")


def _baselines(reports: Mapping[str, Report]) -> list[tuple[str, Report, str]]:
    """(name, report, its row) of everything but the models; what a model has a share in once for each of them."""
    several, first, found = len(reports) > 1, next(iter(reports)), []
    for row in reports[first].scores:
        if row == ENCODED and several:
            found += [(f"{name}: {row}", report, row) for name, report in reports.items() if row in report.scores]
        elif row != "model":
            found.append((row, reports[first], row))
    return found


def _in_words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _curves(reports: Mapping[str, Report], metric: str) -> dict[str, Any]:
    """Name -> (frame, mean, low, high) of the models and, once, of the baselines."""
    rows = {name: (report, "model") for name, report in reports.items()}
    rows |= {name: (report, row) for name, report, row in _baselines(reports)}
    series = {}
    for name, (report, method) in rows.items():
        if metric not in report.scores[method]:
            continue
        points = [(t, i) for t, i in enumerate(report.curve(method, metric), 1) if i.n]
        if points:
            known = all(i.n > 1 for _, i in points)
            columns = [[t for t, _ in points], [i.mean for _, i in points]]
            bounds = [[i.low for _, i in points], [i.high for _, i in points]] if known else []
            series[name] = (*columns, *bounds)
    return series
