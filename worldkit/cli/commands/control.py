"""``worldkit imitate`` and ``worldkit control``: a few calls into `worldkit.agents` and `worldkit.control`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..options import Commands, check_place, command, natural, positive
from ..output import console, table_of

_IMITATE_HELP = """examples:
  worldkit collect pusht --out pusht --episodes 300 --policy scripted --size 32
  worldkit imitate cloning --data pusht --goals 20 --out agents/cloning
  worldkit train lpwm-balls-mini --data pusht -o data.goals=20 -o conditioners.goal_image=goal-image
  worldkit imitate imitation --model runs/lpwm-balls-mini --data pusht --goals 20 --out agents/imitation

cloning: a small network from frame and goal to action. imitation: as in the LPWM paper, a network that tells what the
latent actions of a frozen world model mean. OUT is a folder with config.json, agent.safetensors, and the model."""

_CONTROL_HELP = """examples:
  worldkit control pusht --agent agents/cloning --baselines random,scripted --goals reach --out control
  worldkit control games/catch --baselines random,scripted --size 32
  worldkit control pusht --agent cloning=a/0,a/1,a/2 --seeds 0,1,2      agents of three trainings, one a seed
  worldkit control pusht --plan runs/pusht -o plan.horizon=8 -o plan.cost=objects   plan in a model told actions

Every policy meets the same episodes. The protocol is stored with the results, and the same command goes on where an
interrupted one stopped."""


def add(commands: Commands) -> None:
    """Their arguments."""
    p = command(commands, "imitate", "Train an agent on recorded episodes.", _IMITATE_HELP)
    p.add_argument("agent", help="cloning or imitation")
    p.add_argument("--data", required=True, help="episodes with actions, as worldkit collect writes them")
    p.add_argument("--out", required=True, help="folder to write")
    p.add_argument("--model", help="world model that the agent acts through: folder, run folder or preset")
    p.add_argument("--refer", action="store_true", help="refer to the model's folder, instead of putting it into OUT")
    p.add_argument("--env", help="where it acts (default: where the data were collected)")
    p.add_argument("--size", type=positive(int), help="height and width of its frames (default: those of the data)")
    p.add_argument("--goals", type=positive(int), metavar="FRAMES",
                   help="goals: what was reached, at most so many frames later")
    p.add_argument("--steps", type=positive(int), help="optimiser steps (default: 2000)")
    p.add_argument("--batch", type=positive(int), help="clips a step (default: 64)")
    p.add_argument("--lr", type=positive(float), help="learning rate (default: 1e-3)")
    p.add_argument("--seed", type=natural, default=0)
    p.add_argument("-o", "--override", action="append", default=[], metavar="OPTION=VALUE",
                   help="option of the agent, for example state=true")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.set_defaults(function=run_imitate)
    p = command(commands, "control", "Let agents act in an environment, with baselines beside them.", _CONTROL_HELP)
    p.add_argument("env", help="environment, see worldkit envs")
    p.add_argument("--agent", action="append", default=[], metavar="[NAME=]FOLDER[,FOLDER...]",
                   help="an agent's folder; several: one for each seed; may be given more than once")
    p.add_argument("--plan", action="append", default=[], metavar="[NAME=]MODEL",
                   help="plan in this world model; -o plan.OPTION=VALUE: horizon, every, cost, planner, "
                        "planner_options.candidates, ...")
    p.add_argument("--baselines", default="random", help="random, scripted, or none (default: random)")
    p.add_argument("--goals", choices=("own", "reach"), default="own",
                   help="own: the environment's task; reach: what another policy reached from the same start")
    p.add_argument("--goal-steps", type=positive(int), default=10, help="how far it came (default: 10 steps)")
    p.add_argument("--goal-policy", choices=("scripted", "random"), default="scripted")
    p.add_argument("--budget", type=positive(int), default=200, help="steps of an episode (default: 200)")
    p.add_argument("--episodes", type=positive(int), default=10, help="of each seed (default: 10)")
    p.add_argument("--seeds", default="0,1,2", help="runs (default: 0,1,2)")
    p.add_argument("--together", type=positive(int), default=10, help="episodes acted in at once (default: 10)")
    p.add_argument("--size", type=positive(int), help="height and width of frames (default: the agents', or 64)")
    p.add_argument("--deterministic", action="store_true", help="policies take means instead of drawing")
    p.add_argument("-o", "--override", action="append", default=[], metavar="OPTION=VALUE",
                   help="option of the environment, or plan.OPTION")
    p.add_argument("--out", default="control", help="folder to write (default: control)")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.set_defaults(function=run_control)


def run_imitate(options: Namespace) -> None:
    """``worldkit imitate``."""
    from ...agents import create_agent, save_agent, train_agent
    from ...agents.training import AgentTraining
    from ...config import parse_assignments
    from ..loading import load

    out = check_place(options.out, "--out")
    model = None if options.model is None else load(options.model)
    action, environment, frame_shape = _acts(options)
    agent = create_agent(
        options.agent, action=action, environment=environment, model=None if model is None else model.model,
        frame_shape=None if model is not None else frame_shape, seed=options.seed,
        **parse_assignments(options.override))
    given = {"steps": options.steps, "batch_size": options.batch, "lr": options.lr, "goals": options.goals,
             "seed": options.seed}
    config = AgentTraining.parse({name: value for name, value in given.items() if value is not None})
    trained = train_agent(agent, options.data, config=config, show_progress=not options.quiet)
    step, loss, held = trained.losses[-1]
    facts = {"data": options.data, "training": config.to_dict(), "loss": loss, "validation loss": held}
    facts |= {"resize": trained.resize} if trained.resize else {}
    save_agent(agent, out, facts=facts | ({} if model is None else {"model": model.place}),
               model=model.place if options.refer and model is not None else None)
    console.print(f"{out}: agent '{agent.config.name}' after {step} steps, loss {loss:.4g}, on episodes it has not "
                  f"seen {held:.4g}", soft_wrap=True)


def _acts(options: Namespace) -> tuple[Any, str, tuple[int, int, int] | None]:
    """Actions, environment and frames of an agent: of ``--env``, or of where the data come from."""
    from ...agents import ActionSpec
    from ...agents.training import acts_in
    from ...data import open_source
    from ...envs import make_env

    height, width = (options.size, options.size) if options.size else open_source(
        options.data, split="all", peek=True).summary["resolution"]
    if options.env is not None:
        with make_env(options.env, size=(height, width)) as env:
            return ActionSpec.of_space(env.action_space), options.env, (3, height, width)
    found = acts_in(options.data)
    if found is None:
        raise ConfigError(f"{options.data} does not say which environment its actions are of: --env ENV does")
    return *found, (3, height, width)


def run_control(options: Namespace) -> None:
    """``worldkit control``."""
    from ...agents import load_agent
    from ...config import parse_assignments
    from ...control import ControlProtocol, evaluate_control
    from ...control.report import difference_table, main_table, write

    out = check_place(options.out, "--out")
    policies: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for name in [] if options.baselines == "none" else options.baselines.split(","):
        policies[name.strip()] = name.strip()
    for text in options.agent:
        name, folders = _named(text)
        if name in policies:
            raise ConfigError(f"two policies are called '{name}': give one another name, --agent NAME=FOLDER")
        loaded = [load_agent(folder) for folder in folders]
        policies[name] = loaded[0] if len(loaded) == 1 else loaded
        about[name] = _about(folders)
    overrides = parse_assignments(options.override)
    planning = overrides.pop("plan", {})
    for text in options.plan:
        name, (source, *_) = _named(text)
        if name in policies:
            raise ConfigError(f"two policies are called '{name}': give one another name, --plan NAME=MODEL")
        policies[name], about[name] = _planner(options, source, planning, overrides)
    if not policies:
        raise ConfigError("nobody is to act: give --agent FOLDER, --plan MODEL or --baselines random")
    if resize := _resize(policies):
        overrides.setdefault("resize", resize)
    protocol = ControlProtocol.parse({
        "env": options.env, "env_options": overrides, "size": _size(options, policies),
        "goals": options.goals, "goal_steps": options.goal_steps, "goal_policy": options.goal_policy,
        "budget": options.budget, "episodes": options.episodes, "seeds": _seeds(options.seeds),
        "together": options.together, "deterministic": options.deterministic})
    results = evaluate_control(policies, protocol, out=out, about=about, show_progress=not options.quiet)
    for found in filter(None, (main_table(results), difference_table(results))):
        header, rows = found
        table = table_of("", *header)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"written: {', '.join(map(str, write(results, out)))}", soft_wrap=True)


def _planner(options: Namespace, source: str, planning: Any, env_options: dict[str, Any]) -> tuple[Any, dict]:
    """A planner in a world model, and what is noted of it."""
    from ...agents import create_agent
    from ...envs import make_env
    from ..loading import load

    if not isinstance(planning, dict):
        raise ConfigError(f"-o plan={planning} says nothing: an option has a name, -o plan.horizon=5")
    loaded = load(source)
    obs = loaded.model.config.obs
    with make_env(options.env, size=(obs.height, obs.width), **env_options) as env:
        agent = create_agent("planner", env=env, model=loaded.model, **planning)
    return agent, {"model": loaded.place, **loaded.facts, **agent.config.to_dict()}


def _named(text: str) -> tuple[str, list[str]]:
    """Name and folders of ``--agent``."""
    name, equals, folders = text.partition("=")
    places = [place for place in (folders if equals else text).split(",") if place]
    if not places or equals and not name:
        raise ConfigError(f"--agent is a folder, or NAME=FOLDER, got {text!r}")
    return (name if equals else Path(places[0]).resolve().name), places


def _about(folders: list[str]) -> dict[str, Any]:
    """What is noted of an agent: where it lies, and which weights it has."""
    from ...agents.folder import AGENT_FILE
    from ...storage.folders import digest

    return {"folder": ", ".join(folders), "weights": ", ".join(digest(Path(f) / AGENT_FILE)[:16] for f in folders)}


def _size(options: Namespace, policies: dict[str, Any]) -> Any:
    """Of the frames: as asked, else as the first agent sees them."""
    if options.size:
        return options.size
    for policy in policies.values():
        agent = policy[0] if isinstance(policy, list) else policy
        if not isinstance(agent, str):
            _, height, width = agent.frame_shape
            return height if height == width else [height, width]
    return 64


def _resize(policies: dict[str, Any]) -> str | None:
    """What becomes of the environment's pictures: as of those that the first agent, or its world model, learned from.

    None: as environments do, for agents that saw none of another shape.
    """
    for policy in policies.values():
        agent = policy[0] if isinstance(policy, list) else policy
        if isinstance(agent, str):
            continue
        operator = agent.model.operator if agent.needs_model else None
        noted = getattr(agent, "facts", {}).get("resize")
        found = operator.resize if operator is not None and operator.recorded else noted
        return None if found == "stretch" else found
    return None


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds are whole numbers, 0,1,2, got {text!r}") from error
