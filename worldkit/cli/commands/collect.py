"""``worldkit collect`` and ``worldkit envs``: a few calls into `worldkit.envs` and `worldkit.collecting`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ..options import Commands, check_place, command, natural, positive
from ..output import console, print_json, table_of

_COLLECT_HELP = """examples:
  worldkit collect games/catch --out catch --episodes 100 --policy scripted
  worldkit collect CartPole-v1 --out cartpole --episodes 200 --num-envs 4
  worldkit collect ALE/Pong-v5 --out pong --episodes 20 --max-steps 500 --to lerobot
  worldkit collect dmc/reacher-easy --out reacher --episodes 50 -o camera=1
  worldkit collect dmc/walker-walk --out walker --episodes 50 --size 0 -o observation=keys
  worldkit collect games/catch --out better --episodes 100 --policy agents/cloning
  worldkit collect world-model/lpwm-push-mini --out dreams --episodes 20 -o horizon=20
  worldkit train lpwm-mini --data catch -o conditioners.action=action

OUT is a folder of episodes: pixels, actions, rewards, ends, states. Each is stored when it is over: an interruption
loses those at hand, and --append goes on. --num-envs changes the time, not the episodes."""


def add(commands: Commands) -> None:
    """Their arguments."""
    p = command(commands, "collect", "Play episodes in an environment and store them as a data set.", _COLLECT_HELP)
    p.add_argument("env", help="environment, see worldkit envs")
    p.add_argument("--out", required=True, help="folder to write")
    p.add_argument("--episodes", type=positive(int), required=True, help="how many")
    p.add_argument("--policy", default="random",
                   help="random, scripted where there is one, or the folder of an agent (default: random)")
    p.add_argument("--backend", default="auto", help="package of the environment (default: by its name)")
    p.add_argument("--size", type=natural, default=64, metavar="PIXELS",
                   help="height and width (default: 64); 0: no pictures, numbers alone")
    p.add_argument("--max-steps", type=positive(int), help="cut episodes off (default: where they end)")
    p.add_argument("--num-envs", type=positive(int), default=1, metavar="N",
                   help="environments at once, each in a process of its own (default: 1)")
    p.add_argument("--seed", type=natural, default=0)
    p.add_argument("--to", default="npz", metavar="FORMAT",
                   help="npz, or lerobot, hdf5, columns, video, frames, beside OUT.episodes (default: npz)")
    p.add_argument("--append", action="store_true", help="add to the episodes that OUT holds")
    p.add_argument("-o", "--override", action="append", default=[], metavar="OPTION=VALUE",
                   help="option of the environment, for example camera=1")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.set_defaults(function=run_collect)
    p = command(commands, "envs", "List environments and the packages they come from.")
    p.add_argument("backend", nargs="?", help="name its environments (default: the backends)")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(function=run_envs)


def _policy(name: str) -> Any:
    """A policy by its name, or the agent of a folder."""
    if name in ("random", "scripted") or not ("/" in name or Path(name).exists()):
        return name
    from ...agents import Acting, load_agent
    from ...collecting import PerEnvironment

    agent = load_agent(name)
    return PerEnvironment(lambda env: Acting(agent, env))


def run_collect(options: Namespace) -> None:
    """``worldkit collect``."""
    from ...collecting import collect
    from ...config import parse_assignments
    from ...envs import make_env

    out = check_place(options.out, "--out")
    policy = _policy(options.policy)
    env = make_env(options.env, options.backend, size=options.size, **parse_assignments(options.override))
    try:
        found = collect(env, out, policy=policy, episodes=options.episodes, seed=options.seed,
                        append=options.append, max_steps=options.max_steps, num_envs=options.num_envs,
                        to=options.to, enabled=not options.quiet)
    finally:
        env.close()
    mean = sum(found.returns) / len(found.returns)
    cut = len(found.lengths) - found.terminated
    console.print(f"{out}: {len(found.lengths)} episodes, {sum(found.lengths)} frames, mean return {mean:.4g}; "
                  f"{found.terminated} ended by themselves, {cut} were cut off"
                  + (f"; {found.before} were there before" if found.before else ""), soft_wrap=True)


def run_envs(options: Namespace) -> int | None:
    """``worldkit envs``."""
    from ...envs import get_env_backend_spec, list_env_backends, list_envs
    from ...errors import MissingExtraError

    if options.backend:
        names = list_envs(options.backend)
        if options.json:
            return print_json(names)
        print("\n".join(names))
        return None
    rows = []
    for name in list_env_backends():
        spec = get_env_backend_spec(name)
        try:
            rows.append((name, str(len(spec.ids())), spec.description))
        except MissingExtraError:
            rows.append((name, f'needs ".[{spec.extra}]"' if spec.extra else "not installed", spec.description))
    if options.json:
        return print_json([{"backend": name, "environments": count, "description": text} for name, count, text in rows])
    table = table_of("worldkit envs BACKEND names the environments", "backend", "environments", "what")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    return None
