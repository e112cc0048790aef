"""``worldkit data inspect | validate | convert | preview``: a few calls into `worldkit.data`, and printing."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from ...config import parse_assignments
from ...errors import DataError
from ...progress import Meter
from ..options import SPLITS, Commands, check_place, command, positive
from ..output import console, print_json
from ..spelling import as_typed

_DATA_HELP = """examples:
  worldkit data inspect recordings/                          episodes, lengths, frame size, actions, splits
  worldkit data validate recordings/                         every fault with its path and frame; exit code 1 if any
  worldkit data convert recordings/ out/ --to lerobot        keeps the splits; nothing half-written
  worldkit data convert my.mp4 small.hdf5 --size 64 --split train
  worldkit data preview recordings/                          preview.png and preview.gif"""


def add(commands: Commands) -> None:
    """Their arguments."""
    p = command(commands, "data", "Look at data, check it, convert it.", _DATA_HELP)
    actions = p.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, summary: str, run: Callable[[Namespace], int]) -> ArgumentParser:
        p = actions.add_parser(name, help=summary, description=summary)
        p.add_argument("path", help="video file, folder, HDF5 file, LeRobot data set, ..., or balls, push, shapes")
        p.add_argument("--format", help="name of the format, if it should not be recognised")
        p.add_argument("-o", "--override", action="append", default=[], metavar="OPTION=VALUE",
                       help="option of the format, for example cameras=front")
        p.add_argument("--json", action="store_true", help="print JSON")
        p.set_defaults(function=run)
        return p

    action("inspect", "What is in a data set.", run_inspect)
    action("validate", "Read all of a data set and tell every fault with its path and frame.", run_validate)
    convert = action("convert", "Write a data set in another format.", run_convert)
    convert.add_argument("out", help="folder or file to write")
    convert.add_argument("--to", metavar="FORMAT",
                         help="video, frames, npz, hdf5, columns, lerobot, lerobot-v2.1 (default: by OUT's suffix)")
    convert.add_argument("-w", "--write", action="append", default=[], metavar="OPTION=VALUE",
                         help="option of the written format, for example lossless=true")
    convert.add_argument("--overwrite", action="store_true", help="replace OUT")
    preview = action("preview", "Draw a contact sheet (PNG) and an animation (GIF).", run_preview)
    preview.add_argument("--out", default="preview", help="name of the pictures, without suffix (default: preview)")
    preview.add_argument("--clips", type=positive(int), default=6, help="episodes to show (default: 6)")
    preview.add_argument("--frames", type=positive(int), default=8, help="frames per episode (default: 8)")
    for p in (convert, preview):
        p.add_argument("--split", choices=SPLITS,
                       help="only this split (preview: default train); all: everything as one, undivided")
        p.add_argument("--size", type=positive(int), metavar="PIXELS",
                       help="height and width (default: the data's; preview of videos: 64)")
        p.add_argument("--fps", type=positive(float), help="frames per second (default: the data's, or 10)")


def run_inspect(options: Namespace) -> int:
    """``worldkit data inspect``: what is in it."""
    from rich.table import Table

    from ...data import describe
    from ...data.formats.video import DEFAULT_SIZE

    about = describe(options.path, format=options.format, **_format_options(options))
    if options.json:
        return print_json(about)
    size = about["bytes"]
    table = Table(title=f"{options.path}: {about['format']}", title_justify="left", show_edge=False)
    table.add_column("")
    for split in about["splits"]:
        table.add_column(split)
    for name in ("episodes", "frames"):
        table.add_row(name, *(f"{s[name]:,}" for s in about["splits"].values()))
    table.add_row("frames per episode", *(_lengths(s["lengths"]) for s in about["splits"].values()))
    for title, name in (("frames in the files", "frame_sizes"), ("frames per second", "frame_rates")):
        if any(s.get(name) for s in about["splits"].values()):
            table.add_row(title, *(_counted(s.get(name) or {}) for s in about["splits"].values()))
    table.add_row("frame", *(_times(s["resolution"]) for s in about["splits"].values()))
    table.add_row("cameras", *(str(s["views"]) for s in about["splits"].values()))
    for name in dict.fromkeys(name for s in about["splits"].values() for name in s["entries"]):
        table.add_row(name, *(_entry(s["entries"].get(name)) for s in about["splits"].values()))
    console.print(table)
    if size is not None:
        console.print(f"on disk: {size / 1e6:,.1f} MB")
    if "native_resolution" in about:
        console.print(f"frames are read at {DEFAULT_SIZE} by default")
    for text, splits in _told({name: s["pixels"] for name, s in about["splits"].items()}).items():
        console.print(f"pixels of {splits}: {text}", soft_wrap=True)
    for note in about["notes"]:
        console.print(f"note: {as_typed(note, 'data')}", soft_wrap=True)
    for split, problem in about["problems"].items():
        console.print(f"no {split}: {as_typed(problem, 'data')}", soft_wrap=True)
    return 0


def run_validate(options: Namespace) -> int:
    """``worldkit data validate``: what is wrong with it. Returns 1 if anything is."""
    from ...data import validate

    with _bar("Reading") as advance:
        found = validate(
            options.path, format=options.format, progress=advance, **_format_options(options)
        )
    if options.json:
        print_json(found.to_dict())
        return int(bool(found.faults))
    for finding in found.findings:
        kind = "warning" if finding.warning else "fault  "
        console.print(f"{kind} {as_typed(str(finding), 'data')}", highlight=False, soft_wrap=True)
    console.print(
        f"{found.format}: {found.episodes} episodes, {found.frames} frames: "
        f"{len(found.faults)} faults, {len(found.warnings)} warnings"
    )
    return int(bool(found.faults))


def run_convert(options: Namespace) -> int:
    """``worldkit data convert``: from any format to any that can be written."""
    from ...data import write_dataset

    target, writing = _target_format(options), _writer_options(options)
    check_place(Path(options.out).expanduser().parent, "the folder of OUT,")
    height, width = _size(options)
    sources = _sources(options, height=height, width=width)
    chosen: Any = sources if options.split is None else sources[options.split]
    _check_source_survives(options)
    rate = options.fps or _common_rate(options) or next(iter(sources.values())).summary.get("fps")
    with _bar(f"Writing {Path(options.out).name}") as advance:
        written = write_dataset(
            chosen, options.out, target, fps=rate, overwrite=options.overwrite, progress=advance, **writing
        )
    counts = {name: s.num_episodes for name, s in sources.items()}
    pixels = {name: str(s.fitting) if s.fitting else None for name, s in sources.items()}
    if options.json:
        return print_json({"path": str(written), "format": target, "episodes": counts, "pixels": pixels})
    told = ", ".join(f"{count} {split}" for split, count in counts.items())
    console.print(f"{told} episodes: {written} ({target})", soft_wrap=True)
    for text, splits in _told(pixels).items():
        console.print(f"pixels of {splits}: {text}", soft_wrap=True)
    if note := _rate_note(target, rate):
        console.print(note, soft_wrap=True)
    return 0


def _rate_note(target: str, rate: float | None) -> str | None:
    """What to say of frames per second that were assumed, or are lost."""
    from ...data.writers import DEFAULT_FPS

    if target in ("video", "lerobot", "lerobot-v2.1") and rate is None:
        return f"frames per second: {DEFAULT_FPS:g}, as the data state none; --fps gives others"
    if target in ("npz", "hdf5", "columns", "frames") and rate is not None:
        return f"frames per second: {rate:.4g}; '{target}' has no place for it (converting back: --fps {rate:.4g})"
    return None


def _sources(options: Namespace, **how: Any) -> dict[str, Any]:
    """Split -> source of the split that is asked for, or of all there are."""
    from ...data import open_source, open_splits

    how |= {"format": options.format, **_format_options(options)}
    if options.split == "all":
        return {"all": open_source(options.path, split="all", **how)}
    sources, problems = open_splits(options.path, **how)
    if options.split is None:
        return sources
    if options.split not in sources:
        raise DataError(problems[options.split])
    return {options.split: sources[options.split]}


def _format_options(options: Namespace) -> dict[str, Any]:
    """What ``-o`` says of the format that is read."""
    from ...data.decided import FOR_LOOKING, refuse_decided

    given = parse_assignments(options.override)
    refuse_decided(given, FOR_LOOKING, typed="-o {}")
    return given


def _writer_options(options: Namespace) -> dict[str, Any]:
    """What ``-w`` says of the format that is written."""
    from ...data.decided import FOR_WRITING, refuse_decided

    given = parse_assignments(options.write)
    refuse_decided(given, FOR_WRITING, typed="-w {}")
    return given


def run_preview(options: Namespace) -> int:
    """``worldkit data preview``: a contact sheet and an animation to look at, as a model would see the data."""
    import numpy as np

    from ...viz import save_gif, save_png
    from ..preview import GIF_FPS, animation, contact_sheet

    check_place(Path(options.out).parent, "the folder of --out,")
    _check_not_inside(options)
    split, source = next(iter(_sources(options, height=options.size, peek=True).items()))
    chosen = np.linspace(0, source.num_episodes - 1, min(options.clips, source.num_episodes)).round().astype(int)
    sheet, moving = contact_sheet(source, chosen.tolist(), options.frames), animation(source, chosen.tolist())
    picture, film = Path(f"{options.out}.png"), Path(f"{options.out}.gif")
    save_png(sheet, picture)
    save_gif(moving, film, fps=options.fps or min(source.summary.get("fps") or 10, GIF_FPS))
    pixels = None if source.fitting is None else str(source.fitting)
    if options.json:
        told = {"png": str(picture), "gif": str(film), "split": split, "episodes": chosen.tolist(), "pixels": pixels}
        return print_json(told | {"names": [source.episode_name(i) for i in chosen]})
    console.print(f"{picture}, {film}: {len(chosen)} episodes of split '{split}'", soft_wrap=True)
    if pixels is not None:
        console.print(f"pixels: {pixels}", soft_wrap=True)
    return 0


def _target_format(options: Namespace) -> str:
    """The format to write: named, or told by the suffix of the target."""
    from ...data import list_writers
    from ...data.writers import suffix_writers

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
    _check_not_inside(options)


def _check_not_inside(options: Namespace) -> None:
    """What is written must not lie among the data, which would then hold it, too."""
    source, out = Path(options.path).expanduser().resolve(), Path(options.out).expanduser().resolve()
    if source.is_dir() and out.is_relative_to(source):
        raise DataError(f"{out} would lie inside the data, {source}, and be read with them: give another place")


def _common_rate(options: Namespace) -> float | None:
    """Frames per second of videos, which must agree, as the written data set has one number; None: the source tells."""
    from ...data.formats.video import frame_rates
    from ...data.registry import find_format

    if find_format(options.path, options.format).name != "video":
        return None
    rates = frame_rates(options.path, _format_options(options).get("series"))
    if len(rates) > 1:
        found = ", ".join(f"{rate:g} ({clip})" for rate, clip in rates.items())
        raise DataError(f"the clips of {options.path} differ in frames per second: {found}. Say which to write: --fps")
    return next(iter(rates), None)


def _size(options: Namespace) -> tuple[int | None, int | None]:
    """Height and width asked for; for videos and images, else their own (not the default, which is for training)."""
    from ...data.formats.video import native_size
    from ...data.registry import find_format

    if options.size is not None:
        return options.size, options.size
    if find_format(options.path, options.format).name == "video":
        return native_size(options.path, _format_options(options).get("series"))
    return None, None


@contextmanager
def _bar(title: str) -> Iterator[Any]:
    """A meter on standard error that disappears at the end; gives ``advance(done, total)``."""
    with Meter(title, noun="", console=Console(stderr=True), keep=False) as meter:
        yield lambda done, total: meter.update(done, total=total)


def _times(size: list[int]) -> str:
    return "x".join(map(str, size))


def _counted(values: dict[str, int]) -> str:
    """Values, and where there are several, how many clips have each."""
    if len(values) == 1:
        return next(iter(values))
    return "\n".join(f"{value} ({count} clip{'s' * (count > 1)})" for value, count in values.items()) or "-"


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


def _told(pixels: dict[str, str | None]) -> dict[str, str]:
    """What happens to pixels, if anything can -> the splits it happens in; given for every split."""
    return {text: ", ".join(name for name, told in pixels.items() if told == text)
            for text in dict.fromkeys(pixels.values()) if text is not None}


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
