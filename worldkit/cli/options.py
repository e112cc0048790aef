"""Arguments that several commands share, and what they mean."""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import parse_assignments
from ..errors import ConfigError, TrainingError
from ..files import check_writable, reason
from .near_misses import Parser

SPLITS = ("train", "val", "test", "all")

Commands = Any
"""What ``ArgumentParser.add_subparsers`` gives; its class is private to argparse."""


def command(commands: Commands, name: str, summary: str, epilog: str = "") -> Parser:
    """A new command."""
    return commands.add_parser(
        name, help=summary, description=summary, epilog=epilog, formatter_class=RawDescriptionHelpFormatter,
    )


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """For ``type=``: a number above 0, and not infinite."""

    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError(text)
        return value

    parse.__name__ = f"{'whole ' if kind is int else ''}number above 0"  # argparse: "invalid NAME value"
    return parse


def natural(text: str) -> int:
    """For ``type=``: a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


natural.__name__ = "whole number of at least 0"


def check_place(folder: str | Path, option: str) -> Path:
    """The folder that a command is going to write, if it can be written; checked before the work begins.

    Args:
        folder: Where; it need not exist, and it is not made.
        option: What the user typed to name it: ``"--out"``.
    Raises:
        ConfigError: naming the option, the folder and the reason.
    """
    try:
        check_writable(Path(folder))
    except OSError as error:
        raise ConfigError(f"{option} {folder} cannot be written: {reason(error)}. Name another place") from error
    return Path(folder)


def data_argument(p: ArgumentParser) -> None:
    """``--data``; without it, `worldkit.cli.loading.data_of` or the settings of a run may say what else."""
    p.add_argument("--data", help="video file, folder, HDF5 file, or balls, balls-32, push, shapes")


def device_argument(p: ArgumentParser, default: str = "cpu") -> None:
    """``--device``; `check_device` looks whether it is there."""
    p.add_argument("--device", default=None if default == "auto" else default,
                   help=f"cpu, cuda, cuda:1 (default: {'the GPU if there is one' if default == 'auto' else default})")


def check_device(name: str | None) -> None:
    """Refuse a device that cannot be computed on, before anything is loaded."""
    if name is not None:
        from ..training.processes import check_device as check

        try:
            check(name)
        except TrainingError as error:
            raise ConfigError(f"--device {name}: {error}") from error


def protocol_arguments(p: ArgumentParser) -> None:
    """Frames given and predicted, and the split."""
    p.add_argument("--context", type=positive(int), help="frames given (default: the preset's)")
    p.add_argument("--horizon", type=positive(int), help="frames to predict (default: the preset's)")
    p.add_argument("--split", default="test", choices=SPLITS, help="default: test; all: everything, undivided")


def data_option(p: ArgumentParser) -> None:
    """``-o data.OPTION=VALUE``; `data_options` reads it."""
    p.add_argument("-o", "--override", action="append", default=[], metavar="data.OPTION=VALUE",
                   help="option of the data, for example data.num_episodes=50 or data.format=sketchy")


def overrides_of(options: Namespace) -> dict[str, Any]:
    """What ``-o`` says, as a nested dict; ``"train"`` and ``"data"`` are tables in it.

    Raises:
        ConfigError: a text without ``=``, or ``-o data=...``.
    """
    overrides = parse_assignments(options.override)
    for name, instead in (("train", "an option has a name, -o train.OPTION=VALUE"),
                          ("data", "the data are --data, an option of theirs is -o data.OPTION=VALUE")):
        if not isinstance(overrides.get(name, {}), dict):
            raise ConfigError(f"-o {name}={json.dumps(overrides[name])} says nothing: {instead}")
    return overrides


def data_options(options: Namespace, besides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Options of the data format; a finished model takes no others.

    ``besides``: tables that the command reads itself.
    """
    from ..data.decided import FOR_A_MODEL, refuse_decided

    overrides = overrides_of(options)
    if unknown := [name for name in overrides if name not in ("data", *besides)]:
        takes = " or ".join(f"{name}.OPTION=VALUE" for name in ("data", *besides))
        raise ConfigError(f"-o of {options.command} takes {takes} only, got {', '.join(unknown)}")
    given = overrides.get("data", {})
    refuse_decided(given, FOR_A_MODEL, typed="-o data.{}")
    return given
