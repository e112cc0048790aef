"""``worldkit whatif``."""

from __future__ import annotations

import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

from ..loading import data_of, load
from ..options import (
    SPLITS,
    Commands,
    check_device,
    check_place,
    command,
    data_argument,
    data_option,
    data_options,
    device_argument,
    natural,
    positive,
)
from ..output import console, table_of

_HELP = """Say which thing, and what becomes of it, in every given frame; positions are Y X, from -1 -1 (top left) to
1 1. With neither, the things of the clip are listed, with a picture. Writes report.html, what-if.gif and what-if.png.

examples:
  worldkit whatif lpwm-balls-mini                                     what is there?
  worldkit whatif lpwm-balls-mini --at 0.6 0 --move -0.4 0.4          what if it lay higher and further right?
  worldkit whatif lpwm-balls-mini --at 0.6 0 --remove
  worldkit whatif lpwm-balls-mini --at 0.6 0 --swap-look -0.6 -0.6    each with the look of the other
  worldkit whatif runs/a --data my_video.mp4 --clip 3 --mask ball.png --scale 1.5
  worldkit whatif slotformer-balls-mini --at 0.6 0 --remove           slots: by place or mask"""


def add(commands: Commands) -> None:
    """Its arguments."""
    p = command(commands, "whatif", "Change one thing in the given frames, and compare what is predicted then.", _HELP)
    p.add_argument("model", help="preset with weights, model folder, run folder or hub:org/name")
    data_argument(p)
    data_option(p)
    p.add_argument("--clip", type=natural, default=0, help="which clip of the split (default: 0)")
    p.add_argument("--split", default="test", choices=SPLITS, help="default: test")
    p.add_argument("--context", type=positive(int), help="frames given (default: the preset's)")
    p.add_argument("--horizon", type=positive(int), help="frames to predict (default: the preset's)")
    which = p.add_argument_group("which thing").add_mutually_exclusive_group()
    which.add_argument("--at", nargs=2, type=float, metavar=("Y", "X"), help="what lies there, all its particles")
    which.add_argument("--mask", metavar="FILE", help="picture or .npy, not black (0) where the thing is")
    which.add_argument("--particle", nargs="+", type=natural, metavar="K",
                       help="these particles (slots, patches), and no others, in every frame")
    p.add_argument("--frame", type=int, default=-1, help="given frame in which it is picked (default: -1, the last)")
    what = p.add_argument_group("what becomes of it")
    what.add_argument("--move", nargs=2, type=float, metavar=("DY", "DX"), help="lies so much lower and further right")
    what.add_argument("--remove", action="store_true", help="is not there")
    what.add_argument("--swap-look", nargs="+", type=float, metavar="OTHER",
                      help="changes looks with another: Y X, or the number of a particle")
    what.add_argument("--scale", type=positive(float), metavar="FACTOR", help="is so many times as large")
    p.add_argument("--via", default="auto", choices=("auto", "latents", "pictures"),
                   help="predict from the edited latents, or from what they draw (default: pictures where particles "
                        "keep to places, as LPWM's do, else latents)")
    p.add_argument("--out", default="whatif", help="folder to write (default: whatif)")
    device_argument(p)
    p.set_defaults(function=run_whatif)


def run_whatif(options: Namespace) -> None:
    """``worldkit whatif``."""
    from ...scene import things
    from ...viz import save_animation, save_png
    from ..whatif.ask import ask, check, open_scene
    from ..whatif.things import picture

    check_device(options.device)
    out, asks = check_place(options.out, "--out"), check(options)
    loaded = load(options.model)
    scene, clip = open_scene(loaded, data_of(options, loaded), options, data_options(options))
    there = things(scene)
    if not asks:
        _list(scene, there, clip.name, out)
        return
    answer = ask(scene, clip, options)
    out.mkdir(parents=True, exist_ok=True)
    save_animation(answer.film(), out / "what-if.gif", fps=3)
    save_png(answer.still(), out / "what-if.png")
    facts = [f"model: {options.model}", f"clip: {clip.name}", f"{scene.z.shape[1]} frames given, {answer.predicted} "
             "predicted", f"command: worldkit {shlex.join(options.typed)}"]
    answer.page(there, picture(scene, there), facts).write(out / "report.html")
    for line in (answer.question, *answer.listing(), *answer.notes, answer.result()):
        console.print(line, soft_wrap=True)
    console.print(f"open this in a browser: {(out / 'report.html').resolve()}; beside it what-if.gif, what-if.png",
                  soft_wrap=True)


def _list(scene: Any, there: Any, name: str, out: Path) -> None:
    """What there is to choose from: a table, and a picture with numbers."""
    from ...viz import save_png
    from ..whatif.answer import table
    from ..whatif.things import picture

    if not there:
        console.print(f"{name}, frame {scene.frame}: no {scene.noun} shows a thing", soft_wrap=True)
        return
    console.print(f"{name}, frame {scene.frame}: what shows most first", soft_wrap=True)
    rows = table_of("", "thing", scene.nouns, "at (y, x)")
    for row in table(there):
        rows.add_row(*row)
    console.print(rows)
    out.mkdir(parents=True, exist_ok=True)
    save_png(picture(scene, there), out / "things.png")
    y, x = there[0].place
    console.print(f"{out / 'things.png'} shows them. Then, for example: --at {y:.2f} {x:.2f} --remove", soft_wrap=True)
