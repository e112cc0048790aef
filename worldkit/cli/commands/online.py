"""``worldkit train-agent``, ``worldkit play-agent``, ``worldkit eval-agent``: a few calls into `worldkit.online`."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

from ..options import Commands, check_device, check_place, command, device_argument, natural, positive
from ..output import console, table_of

_TRAIN_HELP = """examples:
  worldkit train-agent dreamer-v3-mini --env games/catch -o env.grid=8 --run runs/catch
  worldkit train-agent dreamer-v3-mini --env games/catch -o env.grid=8 --seconds 600 --seed 1
  worldkit train-agent dreamer-v3-mini-pendulum --env Pendulum-v1
  worldkit train-agent dreamer-v3-size12m --env dmc/walker-walk

-o: online.OPTION (train_ratio, num_envs, prefill, eval_every, ...), train.OPTION (batch_size, seed, ...),
agent.OPTION, env.OPTION (of the environment, such as repeat), or an option of the model.

The run folder holds run.json, log.jsonl, data/ (the episodes, an ordinary data set), checkpoints/, best/ (the agent
that acted best), figures/ and curve.html. The same command goes on where an interrupted run stopped, to the same
numbers."""

_EVAL_HELP = """examples:
  worldkit eval-agent runs/catch --episodes 20
  worldkit eval-agent runs/catch --baselines random,scripted --out scores

The agent of RUN (best/, else the newest checkpoint) acts in the environment it was trained in, with random actions
beside it: interquartile means with intervals of a bootstrap."""

_PLAY_HELP = """examples:
  worldkit play-agent runs/catch                      films of episodes, as GIFs
  worldkit play-agent runs/catch --episodes 3 --out films"""


def add(commands: Commands) -> None:
    """Their arguments."""
    p = command(commands, "train-agent", "Train an agent by acting, or go on with an interrupted run.", _TRAIN_HELP)
    p.add_argument("preset", help="preset with an agent, such as dreamer-v3-mini; see worldkit list")
    p.add_argument("--env", required=True, help="environment, see worldkit envs")
    p.add_argument("--run", "--out", dest="run", help="run folder (default: runs/PRESET-ENV)")
    p.add_argument("--steps", type=positive(int), help="stop after so many steps (short for -o online.steps=N)")
    p.add_argument("--seconds", type=positive(float),
                   help="stop after so much time of acting and learning (short for -o online.seconds=S)")
    p.add_argument("--seed", type=natural, help="short for -o train.seed=N")
    p.add_argument("-o", "--override", action="append", default=[], metavar="PATH=VALUE",
                   help="online.OPTION, train.OPTION, agent.OPTION, env.OPTION, or an option of the model")
    device_argument(p, "auto")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.set_defaults(function=run_train_agent)
    p = command(commands, "eval-agent", "Score a trained agent, with random actions beside it.", _EVAL_HELP)
    _acting_arguments(p)
    p.add_argument("--baselines", default="random", help="random, scripted, or none (default: random)")
    p.add_argument("--seeds", default="0,1,2", help="runs (default: 0,1,2)")
    p.add_argument("--deterministic", action="store_true", help="policies take means instead of drawing")
    p.add_argument("--out", help="folder to write (default: RUN/eval/STEP of the agent)")
    p.set_defaults(function=run_eval_agent)
    p = command(commands, "play-agent", "Let a trained agent act, and film it.", _PLAY_HELP)
    _acting_arguments(p, episodes=1)
    p.add_argument("--seed", type=natural, default=0)
    p.add_argument("--out", help="folder to write (default: RUN/films)")
    p.set_defaults(function=run_play_agent)


def _acting_arguments(p: Any, episodes: int = 10) -> None:
    p.add_argument("run", help="run folder of worldkit train-agent, or an agent's folder")
    p.add_argument("--env", help="environment (default: the one it was trained in)")
    p.add_argument("--episodes", type=positive(int), default=episodes,
                   help=f"of each seed (default: {episodes})" if episodes > 1 else "how many (default: 1)")
    p.add_argument("--budget", type=positive(int), help="steps of an episode (default: as in training)")
    p.add_argument("-o", "--override", action="append", default=[], metavar="OPTION=VALUE",
                   help="option of the environment")
    device_argument(p)
    p.add_argument("--quiet", action="store_true", help="no progress bar")


def run_train_agent(options: Namespace) -> None:
    """``worldkit train-agent``."""
    from ...config import parse_assignments
    from ...online import make_online_trainer
    from ...presets import resolve_preset

    check_device(options.device)
    preset = resolve_preset(options.preset)
    overrides = parse_assignments(options.override)
    for table, name in (("online", "steps"), ("online", "seconds"), ("train", "seed"), ("train", "device")):
        if getattr(options, name) is not None and isinstance(overrides.setdefault(table, {}), dict):
            overrides[table][name] = getattr(options, name)
    run = check_place(options.run or Path("runs") / _folder_of(preset, options.env), "--run")
    trainer = make_online_trainer(preset, options.env, run=run, overrides=overrides, show_progress=not options.quiet)
    result = trainer.fit()
    state = "finished" if result.finished else "stopped; the same command goes on"
    console.print(f"{state} after {result.steps} steps and {result.updates} updates, {result.seconds:.0f} s of acting "
                  f"and learning: {result.run}", soft_wrap=True)
    best = result.run / "best" if (result.run / "best").exists() else "none yet"
    films = result.run / "figures" if (result.run / "figures").exists() else "none"  # models of vectors draw nothing
    console.print(f"curve: {result.run / 'curve.html'}   films: {films}   best agent: {best}", soft_wrap=True)


def _folder_of(preset: str, env: str) -> str:
    """A name that any file system takes: no ``:`` of ``module:Id``, no ``/``."""
    return f"{preset}-{re.sub(r'[^A-Za-z0-9._-]+', '-', env)}"


def run_eval_agent(options: Namespace) -> None:
    """``worldkit eval-agent``."""
    from ...control import evaluate_control
    from ...control.report import difference_table, main_table, write
    from .control import _about, _seeds

    acting = _acting(options)
    step = acting.agent.facts.get("step", "agent")
    out = check_place(options.out or Path(options.run) / "eval" / f"step-{step}", "--out")
    baselines = {} if options.baselines == "none" else {
        name.strip(): name.strip() for name in options.baselines.split(",")}
    deterministic = options.deterministic or acting.agent.eval_by_mode
    protocol = acting.protocol(episodes=options.episodes, seeds=_seeds(options.seeds), deterministic=deterministic)
    results = evaluate_control({**baselines, "agent": acting.agent}, protocol, out=out, make=acting.make,
                               about={"agent": _about([str(acting.folder)])}, show_progress=not options.quiet)
    for header, rows in filter(None, (main_table(results), difference_table(results))):
        table = table_of("", *header)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"written: {', '.join(map(str, write(results, out)))}", soft_wrap=True)


def run_play_agent(options: Namespace) -> None:
    """``worldkit play-agent``."""
    from ...online.acting import film_episodes

    acting = _acting(options)
    out = check_place(options.out or Path(options.run) / "films", "--out")
    protocol = acting.protocol(episodes=options.episodes, seeds=[options.seed],
                               deterministic=acting.agent.eval_by_mode)
    for path, total, steps in film_episodes(acting, protocol, out):
        console.print(f"{path}: return {total:.4g} in {steps} steps", soft_wrap=True)


def _acting(options: Namespace) -> Any:
    """The agent and its environment."""
    from ...config import parse_assignments
    from ...online.acting import load_acting

    check_device(options.device)
    return load_acting(options.run, env=options.env, env_options=parse_assignments(options.override),
                       budget=options.budget, device=options.device)
