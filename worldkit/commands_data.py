"""What ``worldkit data ...`` does: a few calls into `worldkit.data`, and printing."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from .config import parse_assignments
from .data import EpisodeSource, describe, list_writers, open_splits, validate, write_dataset
from .data.registry import find_format
from .data.video import DEFAULT_SIZE, frame_rates, native_size
from .data.writers import suffix_writers
from .errors import DataError
from .viz import grid, save_gif, save_png
from .viz.images import enlarge, text_block

console = Console(markup=False)  # names, paths and instructions may hold brackets
_CELL = 96  # pixels; smaller frames are enlarged to at least this height
_GIF_FRAMES, _GIF_FPS = 120, 50  # a GIF cannot be faster


def run_inspect(options: Namespace) -> int:
    """``worldkit data inspect``: what is in it."""
    about = describe(options.path, format=options.format, **parse_assignments(options.override))
    if options.json:
        return _print_json(about)
    size = about["bytes"]
    table = Table(title=f"{options.path}: {about['format']}", title_justify="left", show_edge=False)
    table.add_column("")
    for split in about["splits"]:
        table.add_column(split)
    for name in ("episodes", "frames"):
        table.add_row(name, *(f"{s[name]:,}" for s in about["splits"].values()))
    table.add_row("frames per episode", *(_lengths(s["lengths"]) for s in about["splits"].values()))
    table.add_row("frame", *(_times(s["resolution"]) for s in about["splits"].values()))
    table.add_row("cameras", *(str(s["views"]) for s in about["splits"].values()))
    for name in dict.fromkeys(name for s in about["splits"].values() for name in s["entries"]):
        table.add_row(name, *(_entry(s["entries"].get(name)) for s in about["splits"].values()))
    console.print(table)
    if size is not None:
        console.print(f"on disk: {size / 1e6:,.1f} MB")
    if "native_resolution" in about:
        console.print(f"frames in the files: {_times(about['native_resolution'])}; read at {DEFAULT_SIZE} by default")
    for split, problem in about["problems"].items():
        console.print(f"no {split}: {problem}", soft_wrap=True)
    return 0


def run_validate(options: Namespace) -> int:
    """``worldkit data validate``: what is wrong with it. Returns 1 if anything is."""
    with _bar("Reading") as advance:
        found = validate(
            options.path, format=options.format, progress=advance, **parse_assignments(options.override)
        )
    if options.json:
        _print_json(found.to_dict())
        return int(bool(found.faults))
    for finding in found.findings:
        kind = "warning" if finding.warning else "fault  "
        console.print(f"{kind} {finding}", highlight=False, soft_wrap=True)
    console.print(
        f"{found.format}: {found.episodes} episodes, {found.frames} frames: "
        f"{len(found.faults)} faults, {len(found.warnings)} warnings"
    )
    return int(bool(found.faults))


def run_convert(options: Namespace) -> int:
    """``worldkit data convert``: from any format to any that can be written."""
    target = _target_format(options)
    height, width = _size(options)
    sources, problems = open_splits(
        options.path, format=options.format, height=height, width=width, **parse_assignments(options.override)
    )
    if options.split is not None and options.split not in sources:
        raise DataError(problems[options.split])
    chosen: Any = sources if options.split is None else sources[options.split]
    _check_source_survives(options)
    with _bar(f"Writing {Path(options.out).name}") as advance:
        written = write_dataset(
            chosen, options.out, target, fps=options.fps or _common_rate(options), overwrite=options.overwrite,
            progress=advance, **parse_assignments(options.write),
        )
    counts = {name: s.num_episodes for name, s in sources.items() if options.split in (None, name)}
    if options.json:
        return _print_json({"path": str(written), "format": target, "episodes": counts})
    told = ", ".join(f"{count} {split}" for split, count in counts.items())
    console.print(f"{told} episodes: {written} ({target})", soft_wrap=True)
    return 0


def run_preview(options: Namespace) -> int:
    """``worldkit data preview``: a contact sheet and an animation to look at, as a model would see the data."""
    sources, problems = open_splits(
        options.path, format=options.format, height=options.size, **parse_assignments(options.override)
    )
    if options.split is not None and options.split not in sources:
        raise DataError(problems[options.split])
    split = options.split or next(iter(sources))
    source = sources[split]
    chosen = np.linspace(0, source.num_episodes - 1, min(options.clips, source.num_episodes)).round().astype(int)
    sheet, moving = contact_sheet(source, chosen.tolist(), options.frames), animation(source, chosen.tolist())
    picture, film = Path(f"{options.out}.png"), Path(f"{options.out}.gif")
    save_png(sheet, picture)
    save_gif(moving, film, fps=options.fps or min(source.summary.get("fps") or 10, _GIF_FPS))
    if options.json:
        return _print_json({"png": str(picture), "gif": str(film), "split": split, "episodes": chosen.tolist()})
    console.print(f"{picture}, {film}: {len(chosen)} episodes of split '{split}'", soft_wrap=True)
    return 0


def contact_sheet(source: EpisodeSource, episodes: list[int], frames: int) -> Tensor:
    """Evenly spaced frames of some episodes, one row each, with a caption and, where there is one, the goal.

    Returns:
        ``[3, h, w]`` uint8.
    """
    rows = []
    for episode in episodes:
        times = np.linspace(0, source.length(episode) - 1, frames).round().astype(int).tolist()
        items = [source.read(episode, t, t + 1) for t in times]
        pictures = torch.cat([_shown(item["video"]) for item in items])
        if "goal_image" in items[0]:
            goal = torch.as_tensor(source.read(episode, 0, source.length(episode))["goal_image"])
            pictures = torch.cat([pictures, _shown(goal.unsqueeze(-4))])
        row = grid(pictures, len(pictures))
        caption = f"episode {episode}, {source.length(episode)} frames"
        caption += f": {items[0]['language']}" if isinstance(items[0].get("language"), str) else ""
        caption += " (last picture: goal)" if "goal_image" in items[0] else ""
        rows.append(torch.cat([text_block(caption, 22, row.shape[-1], align="left"), row], -2))
    return grid(torch.stack(rows), 1, gap=8)


def animation(source: EpisodeSource, episodes: list[int]) -> Tensor:
    """The first frames of some episodes side by side; one that ends waits at its last frame.

    Returns:
        ``[T, 3, h, w]`` uint8.
    """
    clips = []
    for episode in episodes:
        clips.append(_shown(source.read(episode, 0, min(source.length(episode), _GIF_FRAMES))["video"]))
    longest = max(len(clip) for clip in clips)
    columns = int(np.ceil(np.sqrt(len(clips))))
    return torch.stack([
        grid(torch.stack([clip[min(t, len(clip) - 1)] for clip in clips]), columns) for t in range(longest)
    ])


def _shown(video: Any) -> Tensor:
    """Frames ``[T, 3, h, w]``, cameras one above the other, enlarged so that one can see something."""
    video = torch.as_tensor(video)
    if video.ndim == 5:
        video = torch.cat(list(video), -2)
    return enlarge(video, _CELL)[0]


def _target_format(options: Namespace) -> str:
    """The format to write: named, or told by the suffix of the target."""
    if options.to is not None:
        return options.to
    suffix = Path(options.out).suffix
    found = suffix_writers(suffix) if suffix else []
    if not found:
        raise DataError(f"say what to write with --to: {', '.join(list_writers())}")
    return found[0]


def _check_source_survives(options: Namespace) -> None:
    """What would be replaced must not hold what is read."""
    source, out = Path(options.path).expanduser().resolve(), Path(options.out).expanduser().resolve()
    if source.exists() and source.is_relative_to(out):
        raise DataError(f"{options.out} holds the data to convert, {options.path}: write to another path")


def _common_rate(options: Namespace) -> float | None:
    """Frames per second of videos, which must agree, as the written data set has one number; None: the source tells."""
    if find_format(options.path, options.format).name != "video":
        return None
    rates = frame_rates(options.path)
    if len(rates) > 1:
        found = ", ".join(f"{rate:g} ({clip})" for rate, clip in rates.items())
        raise DataError(f"the clips of {options.path} differ in frames per second: {found}. Say which to write: --fps")
    return next(iter(rates), None)


def _size(options: Namespace) -> tuple[int | None, int | None]:
    """Height and width asked for; for videos and images, else their own (not the default, which is for training)."""
    if options.size is not None:
        return options.size, options.size
    if find_format(options.path, options.format).name == "video":
        return native_size(options.path)
    return None, None


@contextmanager
def _bar(title: str) -> Iterator[Any]:
    """A progress bar on a terminal; gives ``advance(done, total)``."""
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(escape(title), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _print_json(value: Any) -> int:
    print(json.dumps(value, indent=2))
    return 0


def _times(size: list[int]) -> str:
    return "x".join(map(str, size))


def _lengths(lengths: dict[str, Any]) -> str:
    """Shortest to longest, and a histogram with a bar per bin."""
    if lengths["min"] == lengths["max"]:
        return str(lengths["min"])
    head = f"{lengths['min']} to {lengths['max']}, median {lengths['median']:g}"
    edges, counts = lengths["edges"], lengths["counts"]
    names = [str(a) if b - a == 1 else f"{a}-{b - 1}" for a, b in zip(edges, edges[1:], strict=False)]
    width, most = max(map(len, names)), max(counts)
    bars = [f"{n:>{width}} {'█' * round(10 * c / most):<10} {c}" for n, c in zip(names, counts, strict=True)]
    return "\n".join([head, *bars])


def _entry(entry: dict[str, Any] | None) -> str:
    """Shape, type and values of an entry."""
    if entry is None:
        return "-"
    text = entry["dtype"] + (f" [{', '.join(map(str, entry['shape']))}]" if entry["shape"] else "")
    if "different" in entry:
        return f"{text}, {entry['different']} different\n" + "\n".join(f"“{t}”" for t in entry["examples"])
    if "min" in entry:
        values = zip(entry["min"], entry["max"], entry["mean"], strict=True)
        return f"{text}\n" + "\n".join(f"{i}: {low:.4g} to {high:.4g}, mean {mean:.4g}"
                                       for i, (low, high, mean) in enumerate(values))
    return text
