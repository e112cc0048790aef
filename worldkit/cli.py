"""The ``worldkit`` command: argparse in, rich out, no logic of its own.

PyTorch is imported by the commands that need it, not by ``worldkit --help``.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence

from . import __version__
from .errors import WorldkitError

EXAMPLES = """examples:
  worldkit demo                                              five minutes: train, evaluate, report.html
  worldkit list 'lpwm*'                                      what there is
  worldkit train lpwm-mini --data my_video.mp4               train on your own footage
  worldkit train lpwm-sketchy --data PATH -o dynamics.num_layers=4 -o train.lr=1e-4
  worldkit rollout runs/lpwm-mini --data my_video.mp4        predict, as GIF and latents
  worldkit eval runs/lpwm-mini --data my_video.mp4           PSNR, SSIM beside the baselines
  worldkit eval runs/a runs/b --data PATH                    two models on the same clips, paired intervals
  worldkit ablate lpwm-balls-mini --swap latent_action=gaussian,none --budget 120
  worldkit data validate recordings/                         what is wrong with my data
  worldkit convert lpwm best.pth --hparams hparams.json --out my-model
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="worldkit", description="Learned simulators of video: train, predict, evaluate, take apart.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"worldkit {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, summary: str, epilog: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=summary, description=summary, epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    p = add("list", "List models and components that match a pattern.")
    p.add_argument("pattern", nargs="?", default="*", help="shell-style pattern, for example 'lpwm*'")

    p = add("info", "Show what a model is: source, parts, parameters, training defaults.")
    p.add_argument("model", help="preset, model folder, run folder or hub:org/name[@revision]")

    p = add("train", "Train a model, or go on with an interrupted run.", _TRAIN_HELP)
    p.add_argument("preset", help="model to train, see worldkit list")
    _data_argument(p)
    p.add_argument("--run", "--out", dest="run",
                   help="run folder (default: runs/PRESET); say --out under torchrun, whose options begin with --run")
    p.add_argument("-o", "--override", action="append", default=[], metavar="PATH=VALUE",
                   help="model option (dynamics.num_layers=4, encoder=slot), train.OPTION or data.OPTION")
    p.add_argument("--steps", type=int, help="stop after so many steps (short for -o train.steps=N)")
    p.add_argument("--seconds", type=float, help="stop after so much training time (short for -o train.seconds=S)")
    p.add_argument("--seed", type=int, help="short for -o train.seed=N")
    p.add_argument("--keep", type=int, help="newest checkpoints that stay (short for -o train.keep=N)")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.add_argument("--dry-run", action="store_true",
                   help="print the plan (run folder, parameters, memory, steps, shapes of the first batch) and stop; "
                        "only the data cache may be filled")

    p = add("rollout", "Predict clips: writes GIF or MP4 pictures and the latents.")
    p.add_argument("model", help="preset with weights, model folder, run folder or hub:org/name")
    _data_argument(p)
    _data_options(p)
    _protocol_arguments(p)
    p.add_argument("--window", default="exact", choices=("exact", "streaming"),
                   help="beyond the training window; streaming is faster and approximate")
    p.add_argument("--out", default="rollouts", help="folder to write (default: rollouts)")
    p.add_argument("--clips", type=int, default=2, help="how many clips (default: 2)")
    p.add_argument("--format", choices=("gif", "mp4"), default="gif")
    p.add_argument("--seed", type=int, default=0)

    p = add("eval", "Score predictions, of one model or of several side by side, and draw them.", _EVAL_HELP)
    p.add_argument("model", nargs="+",
                   help="preset with weights, model folder, run folder or hub:org/name; several are compared")
    _data_argument(p)
    p.add_argument("--protocol", metavar="NAME", help="a paper's or a preset's (default: the first model's preset)")
    p.add_argument("--context", type=int, help="frames given (default: the protocol's)")
    p.add_argument("--horizon", type=int, help="frames to predict (default: the protocol's)")
    p.add_argument("--split", choices=("train", "val", "test"), help="default: the protocol's, which is test")
    p.add_argument("--driven-by", action="append", choices=("prior", "sampled", "inferred"),
                   help="what drives the rollout; repeatable (default: prior). 'inferred' saw the true future")
    p.add_argument("--samples", type=int, help="rollouts per clip with --driven-by sampled; the best have a table")
    p.add_argument("--metrics", metavar="NAME,...",
                   help="psnr, ssim, lpips, fvd, fid, med10, pck, ari, fg_ari, fg_ari_video, miou")
    p.add_argument("--max-clips", type=int, help="clips scored at most (default: the protocol's, or 100)")
    _data_options(p)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    p.add_argument("--lpips-backbone", metavar="FILE", help="VGG16 weights, for LPIPS")
    p.add_argument("--lpips-heads", metavar="FILE", help="LPIPS linear heads")
    p.add_argument("--i3d", metavar="FILE", help="i3d_torchscript.pt, for FVD")
    p.add_argument("--inception", metavar="FILE", help="inception-2015-12-05.pt, for FID")
    p.add_argument("--pictures", type=int, default=2, help="clips drawn in the HTML file (default: 2)")
    p.add_argument("--out", help="folder for JSON, Markdown and HTML (default: next to the model; several: evaluation)")

    p = add("ablate", "Train combinations of parts and options alike, and compare their predictions in one table.",
            _ABLATE_HELP)
    p.add_argument("preset", help="the baseline, see worldkit list")
    p.add_argument("--data", help="data source as for worldkit train (default: the preset's own, if it names one)")
    p.add_argument("--swap", action="append", default=[], metavar="PART=NAME,...",
                   help="components to compare; repeatable; none removes a part. PART: encoder, decoder, dynamics, "
                        "latent_action, objective, conditioners.FIELD")
    p.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE,...", dest="settings",
                   help="values to compare of a model option or of train.OPTION; repeatable")
    p.add_argument("--seeds", type=int, default=2, help="trainings of each combination (default: 2)")
    p.add_argument("--budget", required=True, metavar="AMOUNT",
                   help="training of each cell: 120 (seconds), 10min, 2h, 500steps or 8000samples (training clips)")
    p.add_argument("-o", "--override", action="append", default=[], metavar="PATH=VALUE",
                   help="option of all cells, the baseline included: model option, train.OPTION or data.OPTION")
    _protocol_arguments(p)
    p.add_argument("--clips", type=int, default=100, help="clips that are scored at most (default: 100)")
    p.add_argument("--out", help="folder (default: runs/ablations/PRESET)")
    p.add_argument("--retry", action="store_true", help="try failed cells again")
    p.add_argument("--quiet", action="store_true", help="only the table")

    _data_commands(add("data", "Look at data, check it, convert it.", _DATA_HELP))

    p = add("convert", "Turn an official checkpoint into a worldkit model folder.")
    p.add_argument("kind", choices=("lpwm",), help="which project the checkpoint comes from")
    p.add_argument("checkpoint", help="the .pth file")
    p.add_argument("--hparams", required=True, help="hparams.json of the same run")
    p.add_argument("--out", required=True, help="folder to write")

    p = add("push", "Share a model: upload it to the Hugging Face hub, or write a folder ready to be shared.",
            "A run folder brings its best model, its newest pictures and those results of worldkit eval that scored\n"
            "that model into the model card. A folder that holds anything else is never replaced.")
    p.add_argument("model", help="run folder, model folder or hub:org/name[@revision]")
    p.add_argument("target", help="hub:org/name[@branch], or dir:/path")
    p.add_argument("--licence", help="of the weights, as the hub spells it, for example mit")
    p.add_argument("--private", action="store_true", help="if the repository has to be made")

    p = add("demo", "Make data, train a small LPWM from scratch, evaluate it, write report.html. No GPU, no download.")
    p.add_argument("--seconds", type=float, default=240, help="training time (default: 240)")
    p.add_argument("--out", default="worldkit-demo", help="folder to write (default: worldkit-demo)")
    p.add_argument("--seed", type=int, default=0)
    return top


_TRAIN_HELP = """DATA is recognised: a video file, a folder of videos or of frame folders, an HDF5 file of the Balls
layout, or generated data by name: balls (64 px), balls-32, shapes.

Several processes: torchrun --nproc-per-node 2 -m worldkit train ... --out RUN   (-o train.strategy=fsdp shards weights)

The run folder holds run.json, log.jsonl, checkpoints/, best/ and figures/. The same command goes on where an
interrupted run stopped, to the same numbers."""


_EVAL_HELP = """Given frames, horizon, split, metrics and more come from a protocol, which is stored in the result.
Options change single entries of it, and the result says so. worldkit list shows the protocols of papers.

examples:
  worldkit eval runs/lpwm-mini --data my_video.mp4
  worldkit eval lpwm-balls-mini --data balls-32 --protocol balls-med10 -o data.num_episodes=50
  worldkit eval runs/a runs/b --data PATH --driven-by prior --driven-by inferred      paired intervals of b - a
  worldkit eval runs/a --data PATH --driven-by sampled --samples 20                   and the best of 20
  worldkit eval runs/a --data PATH --protocol lpwm-sketchy-fvd --i3d i3d_torchscript.pt"""


_ABLATE_HELP = """All values of all --swap and --set are combined; the unchanged preset is always among the rows.
The same command goes on where an interrupted one stopped; more values or seeds only add cells.

examples:
  worldkit ablate lpwm-balls-mini --swap latent_action=gaussian,none --budget 120
  worldkit ablate lpwm-balls-mini --swap encoder=particle,patch,slot --swap dynamics=pint,gru,diffusion --budget 120
  worldkit ablate lpwm-balls-mini --set dynamics.num_layers=2,4 --set train.lr=6e-4,2e-4 --seeds 3 --budget 1000steps
  worldkit ablate lpwm-mini --data my_video.mp4 --swap 'encoder=particle,{"name":"slot","num_slots":4}' --budget 10min

The folder then holds table.md, table.json and report.html (with example rollouts)."""


_DATA_HELP = """examples:
  worldkit data inspect recordings/                          episodes, lengths, frame size, actions, splits
  worldkit data validate recordings/                         every fault with its path and frame; exit code 1 if any
  worldkit data convert recordings/ out/ --to lerobot        keeps the splits; nothing half-written
  worldkit data convert my.mp4 small.hdf5 --size 64 --split train
  worldkit data preview recordings/                          preview.png and preview.gif"""


def _data_commands(p: argparse.ArgumentParser) -> None:
    """``worldkit data inspect | validate | convert | preview``."""
    actions = p.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        p = actions.add_parser(name, help=summary, description=summary)
        p.add_argument("path", help="video file, folder, HDF5 file, LeRobot data set, ..., or balls, shapes")
        p.add_argument("--format", help="name of the format, if it should not be recognised")
        p.add_argument("-o", "--override", action="append", default=[], metavar="OPTION=VALUE",
                       help="option of the format, for example cameras=front")
        p.add_argument("--json", action="store_true", help="print JSON")
        return p

    add("inspect", "What is in a data set.")
    add("validate", "Read all of a data set and tell every fault with its path and frame.")
    convert = add("convert", "Write a data set in another format.")
    convert.add_argument("out", help="folder or file to write")
    convert.add_argument("--to", metavar="FORMAT",
                         help="video, frames, npz, hdf5, columns, lerobot, lerobot-v2.1 (default: by OUT's suffix)")
    convert.add_argument("-w", "--write", action="append", default=[], metavar="OPTION=VALUE",
                         help="option of the written format, for example lossless=true")
    convert.add_argument("--overwrite", action="store_true", help="replace OUT")
    preview = add("preview", "Draw a contact sheet (PNG) and an animation (GIF).")
    preview.add_argument("--out", default="preview", help="name of the pictures, without suffix (default: preview)")
    preview.add_argument("--clips", type=_positive(int), default=6, help="episodes to show (default: 6)")
    preview.add_argument("--frames", type=_positive(int), default=8, help="frames per episode (default: 8)")
    for p in (convert, preview):
        p.add_argument("--split", choices=("train", "val", "test"), help="only this split (preview: default train)")
        p.add_argument("--size", type=_positive(int), metavar="PIXELS",
                       help="height and width (default: the data's; preview of videos: 64)")
        p.add_argument("--fps", type=_positive(float), help="frames per second (default: the data's, or 10)")


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """For ``type=``: a number above 0, and not infinite."""

    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError(text)
        return value

    parse.__name__ = f"{'whole ' if kind is int else ''}number above 0"  # argparse: "invalid NAME value"
    return parse


def _data_argument(p: argparse.ArgumentParser) -> None:
    p.add_argument("--data", required=True, help="video file, folder, HDF5 file, or balls, balls-32, shapes")


def _protocol_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--context", type=int, help="frames given (default: the preset's)")
    p.add_argument("--horizon", type=int, help="frames to predict (default: the preset's)")
    p.add_argument("--split", default="test", choices=("train", "val", "test"))


def _data_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("-o", "--override", action="append", default=[], metavar="data.OPTION=VALUE",
                   help="option of the data, for example data.num_episodes=50 or data.format=sketchy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. Errors worldkit raises on purpose are shown without a traceback."""
    # Threads that wait by spinning starve each other when the machine is shared (measured: 10 times slower).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = parser().parse_args(arguments)
    from . import commands

    try:
        status = getattr(commands, f"run_{options.command}")(options)
    except WorldkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status or 0



if __name__ == "__main__":
    sys.exit(main())
