"""How well agents act that learned by acting, and how right the rewards are that they imagine.

``python benchmarks/acting.py RUN [RUN ...]`` scores run folders of ``worldkit train-agent``; runs of one preset in one
environment are one row, each with another seed. ``--train PRESET --env ENV --seeds 0,1,2 --seconds 1200 -o ...`` trains
them first, by that command, one after the other, into ``--runs``.

Returns: the best agent of every run plays held-out episodes, random actions the same ones; interquartile mean, 95%
interval of a bootstrap within each seed. Imagined rewards: the model filters held-out episodes of its agent, and from
every tenth frame on it imagines ten steps with the actions that were done, seeing nothing; Pearson's correlation of the
expected with the real rewards, mean over seeds, interval of a bootstrap over episodes. Beside it that of "the newest
reward goes on". Written are ``acting.md``, ``acting.json`` and a picture of every row.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldkit.agents import Acting
from worldkit.cli import main as worldkit
from worldkit.collecting import play_episode
from worldkit.control import ControlProtocol, evaluate_control
from worldkit.control.report import text_of
from worldkit.metrics.report import Interval
from worldkit.online.acting import ActingAgent, load_acting
from worldkit.progress import track
from worldkit.storage.folders import read_json
from worldkit.viz.images import enlarge, labelled_rows, save_png, to_uint8

HELD_OUT, IMAGINED_FROM = 2_000_000, 3_000_000
"""Seeds of scored episodes, and of those that are imagined; training and its evaluations use smaller ones."""
EVERY, SAMPLES, SHOWN = 10, 8, 6


def imagined_rewards(acting: ActingAgent, seed: int, episodes: int, horizon: int) -> list[np.ndarray]:
    """Expected, real and persisting rewards of every episode, ``[3, n]`` each."""
    found = []
    model, generator = acting.agent.model.eval(), torch.Generator().manual_seed(seed)
    with acting.make() as env:
        for number in range(episodes):
            entries = play_episode(env, Acting(acting.agent, env), seed=seed + number, max_steps=acting.budget)
            reward = np.asarray(entries["state"]["reward"], np.float64)[:-1]
            starts = np.arange(EVERY // 2, len(reward) - horizon + 1, EVERY)
            if not len(starts):
                continue
            states, action = _states(acting, entries), torch.from_numpy(entries["action"])
            ahead = torch.from_numpy(starts[:, None] + np.arange(horizon + 1))
            z = states.map(lambda x, at=starts: x[0, at][:, None])
            said = [model.rollout(z, horizon, conditions={"action": action[ahead]}, generator=generator, decode=False)
                    .predictions["reward"].numpy() for _ in range(SAMPLES)]
            real = reward[starts[:, None] + np.arange(horizon)]
            stays = np.repeat(reward[starts - 1][:, None], horizon, 1)
            found.append(np.stack([np.mean(said, 0).ravel(), real.ravel(), stays.ravel()]))
    return found


@torch.no_grad()
def _states(acting: ActingAgent, entries: Any) -> Any:
    """What the model takes the frames of an episode for, ``[1, T]``."""
    from worldkit.batch import Batch
    from worldkit.data.vectors import as_vector

    model = acting.agent.model
    vectors = {name: as_vector(entries["state"][column.column.removeprefix("state.")], name, column, "episode")[None]
               for name, column in acting.agent.wants_vectors.items()}
    video = torch.from_numpy(entries["video"])[None] if "video" in entries else None
    if video is None or acting.agent.frame_shape[1:] == (0, 0):
        video = torch.zeros(1, len(entries["action"]), 3, 0, 0)
    action = torch.from_numpy(entries["action"])[None]
    return model.perceive(Batch(video, {"action": action}, vectors=vectors)).latent


def correlation(pairs: Sequence[np.ndarray], row: int = 0) -> float:
    """Pearson's correlation of a row with the real rewards, over all episodes; 0 if one of them is constant."""
    said, real = np.concatenate(pairs, 1)[[row, 1]]
    return float(np.corrcoef(said, real)[0, 1]) if said.std() > 1e-9 and real.std() > 1e-9 else 0.0


def interval(by_seed: Sequence[Sequence[np.ndarray]], row: int = 0, resamples: int = 1000) -> Interval:
    """Mean of the seeds' correlations; bootstrap over the episodes of each."""
    random = np.random.default_rng(0)
    drawn = [np.mean([correlation([one[i] for i in random.integers(0, len(one), len(one))], row) for one in by_seed])
             for _ in range(resamples)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(np.mean([correlation(one, row) for one in by_seed])), float(low), float(high),
                    sum(map(len, by_seed)))


def score(runs: Sequence[Path], episodes: int, horizon: int, out: Path) -> dict[str, Any]:
    """Everything of one row."""
    agents = [load_acting(run) for run in runs]
    records = [read_json(run / "run.json") for run in runs]
    first = agents[0]
    _, height, width = first.agent.frame_shape
    protocol = ControlProtocol.parse({
        "env": first.env, "env_options": dict(first.env_options), "size": [height or 1, width or 1],
        "budget": first.budget, "episodes": episodes, "seeds": [HELD_OUT + i for i in range(len(runs))],
        "deterministic": first.agent.eval_by_mode})
    results = evaluate_control({"random": "random", "agent": [a.agent for a in agents]}, protocol, make=first.make,
                               show_progress=True)
    by_seed = [imagined_rewards(acting, IMAGINED_FROM + 1000 * i, episodes, horizon)
               for i, acting in enumerate(track(agents, "imagining"))]
    by_seed = [one for one in by_seed if one]
    facts = [acting.agent.facts for acting in agents]
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in runs]
    seeds = [record["train"]["seed"] for record in records]
    name = f"{records[0]['facts']['preset']}-{first.env.replace('/', '-')}"
    if height:
        save_png(picture(first), out / f"{name}.png")
    return {
        "preset": records[0]["facts"]["preset"], "env": first.env, "command": records[0]["command"], "seeds": seeds,
        "agent": results.interval("agent", "return").to_dict(), "picture": f"{name}.png",
        "random": results.interval("random", "return").to_dict(),
        "difference": results.difference("agent", "random", "return").to_dict(),
        "each seed": [float(np.mean(list(e.values()))) for e in results.of("agent", "return").values()],
        "imagined": interval(by_seed).to_dict() if by_seed else None, "horizon": horizon,
        "imagined, each seed": [correlation(one) for one in by_seed],
        "newest reward goes on": interval(by_seed, row=2).to_dict() if by_seed else None,
        "best at step": [fact["step"] for fact in facts],
        "steps": [log[-1]["step"] for log in logs], "updates": [log[-1]["updates"] for log in logs],
        "minutes": [round(log[-1]["seconds"] / 60, 1) for log in logs],
        "cpu minutes": [round(log[-1]["cpu"] / 60, 1) if "cpu" in log[-1] else None for log in logs]}


def picture(acting: ActingAgent) -> Any:
    """A real episode, and what the model makes of its first frames and its actions; above the reward (as imagined)."""
    with acting.make() as env:
        entries = play_episode(env, Acting(acting.agent, env), seed=IMAGINED_FROM, max_steps=acting.budget)
    states, action = _states(acting, entries), torch.from_numpy(entries["action"])[None]
    start, last = min(EVERY // 2, len(entries["action"]) - 3), len(entries["action"]) - 1
    horizon = min(2 * EVERY, last - start)
    z = states.map(lambda x: x[:, start : start + 1])
    out = acting.agent.model.rollout(z, horizon, conditions={"action": action[:, start : start + horizon + 1]},
                                     deterministic=True)
    at = np.unique(np.linspace(0, horizon - 1, SHOWN).round().astype(int))
    real = torch.from_numpy(entries["video"])[start + 1 + at]
    said, given = out.predictions["reward"][0][at].tolist(), entries["state"]["reward"][start + at].tolist()
    rows = {"real": real, "imagined": to_uint8(out.video[0][at].clamp(0, 1))}
    rows = {name: enlarge(x.expand(-1, 3, -1, -1), 128)[0] for name, x in rows.items()}
    titles = [f"+{k + 1}: {b:.3g} ({a:.3g})" for k, a, b in zip(at, said, given, strict=True)]
    return labelled_rows(rows, titles)


def shown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    def told(value: dict[str, Any] | None) -> str:
        keys = ("mean", "low", "high", "n")
        return "-" if value is None else text_of(Interval(*(math.nan if value[k] is None else value[k] for k in keys)))

    def span(values: Sequence[Any]) -> str:
        known = [v for v in values if v is not None]
        return "-" if not known else f"{min(known):g}" if len({*known}) == 1 else f"{min(known):g} to {max(known):g}"

    head = ["preset, environment", "seeds", "return of the best agent", "random", "difference", "n",
            "imagined rewards, r", "newest goes on, r", "steps", "updates", "minutes", "CPU minutes"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append([f"{row['preset']}, {row['env']}", ", ".join(map(str, row["seeds"])), told(row["agent"]),
                      told(row["random"]), told(row["difference"]), str(row["agent"]["n"]), told(row["imagined"]),
                      told(row["newest reward goes on"]), span(row["steps"]), span(row["updates"]),
                      span(row["minutes"]), span(row["cpu minutes"])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def train(options: argparse.Namespace) -> list[Path]:
    """The documented command, for every seed."""
    runs = []
    for seed in options.seeds.split(","):
        run = options.runs / f"{options.train}-{options.env.replace('/', '-')}-{seed}"
        more = [part for text in options.override for part in ("-o", text)]
        limit = ["--seconds", str(options.seconds)] if options.seconds else []
        if worldkit(["train-agent", options.train, "--env", options.env, "--seed", seed, "--run", str(run), *limit,
                     *more]):
            raise SystemExit(f"training of seed {seed} failed")
        runs.append(run)
    return runs


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", nargs="*", type=Path, help="run folders of worldkit train-agent")
    p.add_argument("--train", metavar="PRESET", help="train this preset first")
    p.add_argument("--env", help="of --train")
    p.add_argument("--seeds", default="0,1,2", help="of --train (default: 0,1,2)")
    p.add_argument("--seconds", type=float, help="of --train, each seed")
    p.add_argument("-o", "--override", action="append", default=[], help="of --train, as worldkit train-agent has it")
    p.add_argument("--runs", type=Path, default=Path("runs"), help="where --train puts runs (default: runs)")
    p.add_argument("--episodes", type=int, default=20, help="of each seed (default: 20)")
    p.add_argument("--horizon", type=int, default=10, help="imagined steps (default: 10)")
    p.add_argument("--out", type=Path, default=Path("acting"), help="folder to write (default: acting)")
    options = p.parse_args(arguments)
    runs = [*options.run, *(train(options) if options.train else [])]
    if not runs:
        p.error("give run folders, or --train PRESET --env ENV")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    groups: dict[tuple[str, str], list[Path]] = {}
    for run in runs:
        facts = read_json(run / "run.json")["facts"]
        groups.setdefault((facts["preset"], facts["env"]), []).append(run)
    rows = [score(group, options.episodes, options.horizon, options.out) for group in groups.values()]
    (options.out / "acting.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    (options.out / "acting.md").write_text(shown(rows), encoding="utf-8")
    print(shown(rows))


if __name__ == "__main__":
    main()
