"""``worldkit plan``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from ..loading import data_of, load
from ..options import (
    SPLITS,
    Commands,
    check_device,
    check_place,
    command,
    data_argument,
    data_options,
    device_argument,
    natural,
    positive,
)
from ..output import console, print_json, table_of

_HELP = """The model is asked for actions after which it predicts the goal: a later frame of the clip, or a picture.
Writes plan.png and plan.gif (what it imagines, beside the goal) and considered.png (candidates, best to worst).

costs: pixels, objects (each paired with one of the goal), nearest-objects (where several particles draw one thing),
latent, reward (of a model with that head), effort; a weighted sum: --cost objects,effort=0.01

examples:
  worldkit plan lpwm-push-mini                                       get where the clip is 10 frames later
  worldkit plan lpwm-push-mini --clip 3 --context 1 --horizon 5
  worldkit plan lpwm-push-mini --goal wanted.png --cost objects
  worldkit plan runs/a --data PATH --planner icem --candidates 300 --iterations 30
  worldkit plan runs/a --data PATH --planner mppi -o planner.temperature=0.01"""


def add(commands: Commands) -> None:
    """Its arguments."""
    p = command(commands, "plan", "Find actions after which the model predicts a goal.", _HELP)
    p.add_argument("model", help="preset with weights, model folder, run folder or hub:org/name")
    data_argument(p)
    p.add_argument("-o", "--override", action="append", default=[], metavar="data.OPTION=VALUE",
                   help="option of the data, or of the planner: planner.elites=20")
    p.add_argument("--clip", type=natural, default=0, help="which clip of the split (default: 0)")
    p.add_argument("--split", default="test", choices=SPLITS, help="default: test")
    p.add_argument("--context", type=positive(int), help="frames given (default: the preset's)")
    p.add_argument("--horizon", type=positive(int), help="actions to plan (default: the preset's)")
    p.add_argument("--goal", metavar="N or FILE", help="frame N after the last given one, or a picture (default: the "
                                                       "frame that the horizon ends at)")
    p.add_argument("--cost", default="pixels", help="default: pixels")
    p.add_argument("--planner", help="cem, icem, mppi, gradient, planet-cem, predictive-sampling; for choices "
                                     "categorical-cem (default: the CEM of the actions)")
    p.add_argument("--candidates", type=positive(int), help="plans tried in every round (default: 200)")
    p.add_argument("--iterations", type=positive(int), help="rounds (default: 10)")
    for bound in ("low", "high"):
        p.add_argument(f"--{bound}", nargs="+", type=float, metavar="X",
                       help=f"{'lowest' if bound == 'low' else 'highest'} action, one number or one for each of an "
                            "action (default: in the data)")
    p.add_argument("--seed", type=natural, default=0)
    p.add_argument("--out", default="plan", help="folder to write (default: plan)")
    p.add_argument("--json", action="store_true", help="print JSON")
    device_argument(p)
    p.set_defaults(function=run_plan)


def run_plan(options: Namespace) -> int | None:
    """``worldkit plan``."""
    import torch

    from ...planning import Round, considered_picture
    from ...progress import Meter
    from ...viz import save_animation, save_png
    from ..plan.answer import answer_of
    from ..plan.ask import ask, check_words

    check_device(options.device)
    out = check_place(options.out, "--out")
    given = data_options(options, besides=("planner",))
    check_words(options)
    loaded = load(options.model)
    asked, rounds = ask(loaded, data_of(options, loaded), options, given), list[Round]()
    generator = torch.Generator(options.device).manual_seed(options.seed)
    total = asked.planner.iterations
    with Meter("planning", total=total, noun="round", enabled=not options.json, keep=False) as meter:

        def watch(considered: Round) -> None:
            rounds.append(considered)
            meter.update(min(len(rounds), total))

        plan = asked.planner.solve(asked.task, asked.horizon, generator=generator, watch=watch)
    answer = answer_of(asked, plan, rounds)
    out.mkdir(parents=True, exist_ok=True)
    save_png(answer.strip, out / "plan.png")
    save_animation(answer.film, out / "plan.gif", fps=3)
    save_png(considered_picture(asked.task, rounds), out / "considered.png")
    if options.json:
        return print_json(answer.facts())
    _tell(asked, answer)
    console.print(f"{out / 'plan.png'}, {out / 'plan.gif'}: what the model imagines; {out / 'considered.png'}: what "
                  "was considered", soft_wrap=True)
    return None


def _tell(asked: Any, answer: Any) -> None:
    for line in (*asked.facts, *([f"goal: {asked.wanted}"] if asked.wanted else []), f"planner: {asked.planner}"):
        console.print(line, soft_wrap=True)
    rows = table_of("", "step", "action")
    for step, action in enumerate(answer.actions):
        rows.add_row(str(step + 1), ", ".join(f"{x:.3f}" if isinstance(x, float) else str(x) for x in action))
    console.print(rows)
    rows = table_of("", "", "cost")
    for name, cost in answer.costs.items():
        rows.add_row(name, f"{cost:.4g}")
    console.print(rows)
