"""The command line: argparse in, rich out, no logic of its own.

PyTorch is imported by the commands that need it, not by ``worldkit --help``.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from functools import partial

from .. import __version__
from ..errors import WorldkitError
from ..files import reason
from .commands import (
    ablate,
    bench,
    collect,
    control,
    data,
    demo,
    evaluate,
    export,
    models,
    online,
    plan,
    play,
    probe,
    rollout,
    sample,
    share,
    train,
    whatif,
)
from .near_misses import Parser
from .spelling import as_typed

COMMANDS = (
    models, collect, train, rollout, sample, whatif, play, plan, control, online, evaluate, probe, ablate, bench,
    data, share, export, demo,
)
"""In the order of ``worldkit --help``."""
EXAMPLES = """examples:
  worldkit demo                                              five minutes: train, evaluate, report.html
  worldkit list 'lpwm*'                                      what there is
  worldkit collect games/catch --out catch --episodes 100    play in an environment, and store what happens
  worldkit train lpwm-mini --data my_video.mp4               train on your own footage
  worldkit train lpwm-sketchy --data PATH -o dynamics.num_layers=4 -o train.lr=1e-4
  worldkit rollout runs/lpwm-mini --data my_video.mp4        predict, as GIF and latents
  worldkit sample runs/lpwm-mini                             videos out of nothing
  worldkit whatif lpwm-balls-mini --at 0.6 0 --remove        what if that ball were not there?
  worldkit play lpwm-balls-mini --web                        step inside the dream, in a browser
  worldkit plan lpwm-push-mini                               which actions lead there?
  worldkit eval runs/lpwm-mini --data my_video.mp4           PSNR, SSIM beside the baselines
  worldkit eval runs/a runs/b --data PATH                    two models on the same clips, paired intervals
  worldkit ablate lpwm-balls-mini --swap latent_action=gaussian,none --budget 120
  worldkit bench small-worlds --models ddlp,lpwm             models x tasks x seeds, tables for a paper
  worldkit control pusht --agent agents/cloning --goals reach    agents act, baselines beside them
  worldkit train-agent dreamer-v3-mini --env games/catch     learn to act, by acting
  worldkit data validate recordings/                         what is wrong with my data
  worldkit convert lpwm best.pth --hparams hparams.json --out my-model
  worldkit export lpwm-push-mini --what encode step          ONNX, for a robot or a web page
"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(
        prog="worldkit", description="Learned simulators of video: train, predict, evaluate, take apart.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"worldkit {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. Errors worldkit raises on purpose are shown without a traceback."""
    # Threads that wait by spinning starve each other when the machine is shared (measured: 10 times slower).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = make_parser().parse_args(arguments)
    options.typed = list(sys.argv[1:] if arguments is None else arguments)
    formatted, warnings.formatwarning = warnings.formatwarning, partial(_one_line, options.command)
    try:
        status = options.function(options)
    except WorldkitError as error:
        print(f"error: {as_typed(str(error), options.command)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # what slips through: a full disk, a folder that vanished
        print(f"error: {reason(error)}{_cure(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = formatted
    return status or 0


def _cure(error: OSError) -> str:
    """What to do about an error, where that is known."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ". Make room there, or write to another place; then the same command does it" if full else ""


def _one_line(command: str, message: Warning | str, *where: object, **line: object) -> str:
    """A warning without the line of code that it comes from."""
    return f"warning: {as_typed(str(message), command)}\n"
