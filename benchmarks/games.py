"""Small worlds of a small game, trained by acting or on recorded play: what each is good for, and what it costs.

    python benchmarks/games.py RUN [RUN ...] --out games

Every RUN is a run folder of ``worldkit train-agent`` (its newest world and its best agent count) or of ``worldkit
train``; runs of one preset are one row, each with another seed. All are scored on the same held-out play, half at
random and half by the game's scripted player: a model sees 4 frames and the actions, and predicts 10.

- *10 frames*: squared error of the mean of 8 dreams, which is what it expects where chance decides, beside copying the
  newest frame and the mean frame of this play. *Before the next ball*: of one dream, on the frames before the first
  reward of a clip, where nothing is chance; the other two on the same frames. Differences are paired.
- *A next ball*: the frames from the next ball on, of one dream, that show a ball, which all of the game's do.
- *Follows the action*: every action is replaced by another (a to a + 1) and the game is played again with these. How
  much of what changes in the dream lies where the game changed (beside the share of the picture that this is), and in
  how many frames the dream is nearer there to the game with the new actions than to the one with the old. Dreams
  without noise, frames before the first reward.
- *Reward*: Pearson's correlation of the rewards that are expected with the real ones, up to the first reward and over
  all ten frames.
- *Cost*: parameters, CPU minutes of training as the log has them, CPU milliseconds of a dreamed frame (of 32 dreams at
  once, pictures and rewards included).
- *Agent*: return on held-out episodes, beside random actions in the same ones.

Intervals are 95 %: Student's t over clips, each averaged over the seeds; bootstrap over clips for correlations and over
episodes within each seed for returns. Written are ``games.md``, ``games.json`` and a GIF of each row.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import worldkit as wk
from worldkit.agents import load_agent
from worldkit.collecting import make_policy, play_episode
from worldkit.control import ControlProtocol, evaluate_control
from worldkit.metrics import confidence_interval
from worldkit.metrics.report import Interval
from worldkit.online.acting import load_acting
from worldkit.online.checkpoint import newest_checkpoint
from worldkit.progress import track
from worldkit.storage.folders import read_json
from worldkit.storage.hub import load_folder, locate
from worldkit.viz import save_gif
from worldkit.viz.animation import animate_rollout

SEEN, AHEAD, DREAMS, EVERY, AT_ONCE = 4, 10, 8, 19, 32
HELD_OUT, SCORED = 4_000_000, 2_000_000
"""Seeds of the play that worlds are scored on, and of agents' episodes; training uses smaller ones."""


@dataclass(frozen=True)
class Clips:
    """Play, ``[N, SEEN + AHEAD]``.

    Attributes:
        video: uint8 ``[N, T, 3, S, S]``.
        action: What was done; index t leads from frame t to t + 1.
        reward: What that gave, ``[N, T]``.
        other: The video of the same game with the actions behind the first frames replaced.
        replaced: These actions.
    """

    video: Tensor
    action: Tensor
    reward: Tensor
    other: Tensor
    replaced: Tensor

    @property
    def before(self) -> Tensor:
        """Which predicted frames lie before the first reward, bool ``[N, AHEAD]``."""
        return (self.reward[:, SEEN - 1 : -1] != 0).cumsum(1) == 0

    @property
    def until(self) -> Tensor:
        """Which predicted transitions give no reward later than the first, bool ``[N, AHEAD]``."""
        got = (self.reward[:, SEEN - 1 : -1] != 0).long()
        return got.cumsum(1) - got == 0


def play(make: Callable[[], Any], episodes: int) -> Clips:
    """Clips of so many episodes at random, and as many by the scripted player."""
    found: list[tuple[Tensor, ...]] = []
    with make() as env:
        count = int(env.action_space.n)
        for name in ("random", "scripted"):
            for number in range(episodes):
                seed = HELD_OUT + number + (name == "scripted") * episodes
                entries = play_episode(env, make_policy(name, env), seed=seed)
                action, video = np.asarray(entries["action"]).astype(np.int64), entries["video"]
                reward = np.asarray(entries["state"]["reward"], np.float32)
                for start in range(number % 7, len(video) - SEEN - AHEAD, EVERY):
                    rows = slice(start, start + SEEN + AHEAD)
                    replaced = action.copy()
                    replaced[start + SEEN - 1 :] = (replaced[start + SEEN - 1 :] + 1) % count
                    steps = iter(replaced[: rows.stop].tolist())
                    other = play_episode(env, lambda seen, info, steps=steps: next(steps), seed=seed,
                                         max_steps=rows.stop)["video"]
                    if len(other) >= rows.stop:
                        found.append(tuple(torch.from_numpy(np.array(x[rows])) for x in (
                            video, action, reward, other, replaced)))
    return Clips(*(torch.stack(column) for column in zip(*found, strict=True)))


@torch.no_grad()
def dream(model: wk.WorldModel, clips: Clips, action: Tensor, seed: int | None) -> tuple[Tensor, Tensor | None]:
    """Predicted frames ``[N, AHEAD, 3, S, S]``, expected rewards ``[N, AHEAD]``; without noise if no seed is given."""
    frames, rewards = [], []
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for video, done in zip(clips.video.split(AT_ONCE), action.split(AT_ONCE), strict=True):
        out = model.rollout(video[:, :SEEN], AHEAD, conditions={"action": done}, deterministic=seed is None,
                            generator=generator)
        frames.append(out.video[:, -AHEAD:].clamp(0, 1))
        if "reward" in out.predictions:
            rewards.append(out.predictions["reward"][:, -AHEAD:].reshape(len(video), AHEAD))
    return torch.cat(frames), torch.cat(rewards) if rewards else None


def errors(said: Tensor, real: Tensor) -> Tensor:
    """Squared errors of pictures, thousandths, ``[N, AHEAD]``."""
    return 1000 * (said - real).square().mean((-3, -2, -1))


def balls(frames: Tensor, real: Tensor) -> Tensor:
    """Which pictures show a ball: half as many white pixels as the game's do, or more, bool ``[N, AHEAD]``."""
    seen, usual = ((x.amin(2) > 0.6).sum((-2, -1)).float() for x in (frames, real))
    return seen >= usual.mean() / 2


def over(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of each clip ``[N]`` over its valid frames; NaN without any."""
    return (values * valid).sum(1) / valid.sum(1)


def measure(model: wk.WorldModel, clips: Clips) -> dict[str, Tensor]:
    """Numbers of every clip ``[N]``, expected rewards ``[N, AHEAD]`` and what a frame costs."""
    real = clips.video.float() / 255
    real, now, other = real[:, SEEN:], real[:, SEEN - 1 : SEEN], clips.other[:, SEEN:].float() / 255
    started = time.process_time()
    dreams = [dream(model, clips, clips.action, seed) for seed in range(DREAMS)]
    spent = time.process_time() - started
    every, before = torch.ones_like(clips.before), clips.before
    mean = (clips.video.float() / 255).mean((0, 1))
    expected = torch.stack([frames for frames, _ in dreams]).mean(0)
    one = dreams[0][0]
    found = {"error": over(errors(expected, real), every), "copy": over(errors(now, real), every),
             "mean": over(errors(mean, real), every), "error before": over(errors(one, real), before),
             "copy before": over(errors(now, real), before), "mean before": over(errors(mean, real), before)}
    found["next ball"] = over(balls(one, real).float(), ~before)
    as_was, changed = (dream(model, clips, action, None)[0] for action in (clips.action, clips.replaced))
    where = ((other - real).abs().sum(2, keepdim=True) > 0).float()
    differ, moved = (changed - as_was).abs(), before & (where.sum((2, 3, 4)) > 0)
    inside, whole = ((differ * w).sum((2, 3, 4)) for w in (where, torch.ones_like(where)))
    near, far = (((changed - x).square() * where).sum((2, 3, 4)) for x in (other, real))
    found["right place"] = over(torch.nan_to_num(inside / whole.clamp(min=1e-6)), moved)
    found["share of the picture"] = over(where.mean((2, 3, 4)), moved)
    found["follows"] = over((near < far).float(), moved)
    if dreams[0][1] is not None:
        found["reward"] = torch.stack([rewards for _, rewards in dreams]).mean(0)
    found["milliseconds"] = torch.tensor(1000 * spent / (DREAMS * real.shape[0] * AHEAD))
    return found


def correlation(said: Tensor, real: Tensor, valid: Tensor, resamples: int = 500) -> Interval:
    """Mean over seeds of Pearson's correlations; ``said`` ``[seeds, N, AHEAD]``, bootstrap over clips."""
    random = np.random.default_rng(0)

    def of(rows: np.ndarray) -> float:
        kept = valid[rows].numpy().astype(bool)
        pairs = [np.corrcoef(x[rows].numpy()[kept], real[rows].numpy()[kept])[0, 1] for x in said]
        return float(np.nan_to_num(np.mean(pairs)))

    count = len(real)
    drawn = [of(random.integers(0, count, count)) for _ in range(resamples)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(of(np.arange(count)), float(low), float(high), count)


def agents_of(runs: Sequence[Path], episodes: int) -> dict[str, Any]:
    """Returns of the best agents of runs, and of random actions."""
    actings = [load_acting(run) for run in runs]
    first = actings[0]
    protocol = ControlProtocol.parse({
        "env": first.env, "env_options": dict(first.env_options), "size": list(first.agent.frame_shape[1:]),
        "budget": first.budget, "episodes": episodes, "seeds": [SCORED + i for i in range(len(runs))],
        "deterministic": first.agent.eval_by_mode})
    results = evaluate_control({"random": "random", "agent": [a.agent for a in actings]}, protocol, make=first.make,
                               show_progress=True)
    return {"agent": results.interval("agent", "return").to_dict(),
            "random": results.interval("random", "return").to_dict(),
            "difference": results.difference("agent", "random", "return").to_dict(),
            "each seed": [float(np.mean([*e.values()])) for e in results.of("agent", "return").values()]}


def load(run: Path) -> tuple[wk.WorldModel, dict[str, Any], bool]:
    """Model, what is known of its training, and whether it acts."""
    record, lines = read_json(run / "run.json") if (run / "run.json").is_file() else {}, []
    if (run / "log.jsonl").is_file():
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    cpu = [line["cpu"] for line in lines if "cpu" in line]
    acts = "agent" in record
    newest = newest_checkpoint(run) if acts else None
    model = load_folder(locate(str(run))) if newest is None else load_agent(newest / "agent").model
    facts = {"preset": record.get("facts", {}).get("preset", run.name), "seed": record.get("train", {}).get("seed"),
             "command": record.get("command"), "cpu minutes": round(cpu[-1] / 60, 1) if cpu else None,
             "updates": next((line["updates"] for line in reversed(lines) if "updates" in line), None),
             "parameters": sum(p.numel() for p in model.parameters())}
    return model.eval(), facts, acts


def score(runs: Sequence[Path], clips: Clips, episodes: int, out: Path) -> dict[str, Any]:
    """Everything of one row."""
    loaded = [load(run) for run in runs]
    found = [measure(model, clips) for model, _, _ in track(loaded, runs[0].name)]
    facts = [each for _, each, _ in loaded]
    each = {name: torch.stack([one[name] for one in found]) for name in found[0]}
    clipwise = {name: x.mean(0) for name, x in each.items() if x.ndim == 2}
    for name in ("", " before"):
        for base in ("copy", "mean"):
            clipwise[f"error{name} - {base}"] = clipwise[f"error{name}"] - clipwise[f"{base}{name}"]
    row: dict[str, Any] = {"preset": facts[0]["preset"], "runs": facts}
    row |= {name: confidence_interval(x[~x.isnan()]).to_dict() for name, x in clipwise.items()}
    row["error, each seed"] = each["error"].mean(1).tolist()
    row["error before, each seed"] = each["error before"].nanmean(1).tolist()
    if "reward" in each:
        real = clips.reward[:, SEEN - 1 : -1]
        row["reward, r"] = correlation(each["reward"], real, torch.ones_like(clips.until)).to_dict()
        row["first reward, r"] = correlation(each["reward"], real, clips.until).to_dict()
    row["milliseconds"] = each["milliseconds"].tolist()
    if all(acts for _, _, acts in loaded):
        row |= agents_of(runs, episodes)
    save_gif(film(loaded[0][0], clips), out / f"{row['preset']}.gif", fps=3)
    return row


def film(model: wk.WorldModel, clips: Clips) -> Tensor:
    """The game, a dream of it, the game with other actions and a dream of that: a clip of each player."""
    chosen = np.array([len(clips.video) // 4, 3 * len(clips.video) // 4])
    part = Clips(*(getattr(clips, f.name)[chosen] for f in fields(Clips)))
    parts = []
    dreams = [dream(model, part, action, 0)[0] for action in (part.action, part.replaced)]
    for i in range(len(chosen)):
        seen = part.video[i, :SEEN].float() / 255
        said = [torch.cat([seen, frames[i]]) for frames in dreams]
        other = torch.cat([seen, part.other[i, SEEN:].float() / 255])
        shown = {"dreamed": said[0], "other actions": other, "dreamed, too": said[1]}
        parts.append(animate_rollout(part.video[i], shown, context_frames=SEEN, cell=64))
    return torch.cat(parts)


def shown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    def told(value: dict[str, float] | None, digits: int = 1) -> str:
        if value is None:
            return "-"
        return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"

    lines: dict[str, list[str]] = {
        "": [f"{row['preset']}, seeds {', '.join(str(f['seed']) for f in row['runs'])}" for row in rows],
        "squared error of 10 frames, thousandths": [told(row["error"]) for row in rows],
        "copying": [told(row["copy"]) for row in rows],
        "mean frame": [told(row["mean"]) for row in rows],
        "difference to copying": [told(row["error - copy"]) for row in rows],
        "difference to the mean frame": [told(row["error - mean"]) for row in rows],
        "before the next ball, one dream": [told(row["error before"]) for row in rows],
        "copying, there": [told(row["copy before"]) for row in rows],
        "mean frame, there": [told(row["mean before"]) for row in rows],
        "difference to copying, there": [told(row["error before - copy"]) for row in rows],
        "difference to the mean frame, there": [told(row["error before - mean"]) for row in rows],
        "frames from the next ball on with a ball": [told(row["next ball"], 2) for row in rows],
        "change in the right place": [told(row["right place"], 2) for row in rows],
        "share of the picture that it is": [told(row["share of the picture"], 3) for row in rows],
        "frames nearer to the replaced actions": [told(row["follows"], 2) for row in rows],
        "reward up to the first one, r": [told(row.get("first reward, r"), 2) for row in rows],
        "reward of 10 frames, r": [told(row.get("reward, r"), 2) for row in rows],
        "return of the agent": [told(row.get("agent")) for row in rows],
        "random actions": [told(row.get("random")) for row in rows],
        "parameters": [f"{row['runs'][0]['parameters']:,}" for row in rows],
        "CPU minutes of training": [", ".join(str(f["cpu minutes"] or "-") for f in row["runs"]) for row in rows],
        "CPU ms of a dreamed frame": [f"{np.mean(row['milliseconds']):.2g}" for row in rows],
    }
    (name, head), *rest = lines.items()
    text = [[name, *head], ["---"] * (len(rows) + 1), *([name, *cells] for name, cells in rest)]
    return "\n".join(f"| {' | '.join(line)} |" for line in text) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", nargs="+", type=Path, help="run folders")
    p.add_argument("--env", default="games/catch", help="the game (default: games/catch)")
    p.add_argument("--grid", type=int, default=8, help="its squares of a side (default: 8)")
    p.add_argument("--size", type=int, default=32, help="pixels of a side (default: 32)")
    p.add_argument("--episodes", type=int, default=12, help="of each player (default: 12)")
    p.add_argument("--agent-episodes", type=int, default=20, help="of each seed (default: 20)")
    p.add_argument("--out", type=Path, default=Path("games"), help="folder to write (default: games)")
    options = p.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    make = partial(wk.make_env, options.env, size=options.size, **({"grid": options.grid} if options.grid else {}))
    clips = play(make, options.episodes)
    groups: dict[str, list[Path]] = {}
    for run in options.run:
        record = read_json(run / "run.json") if (run / "run.json").is_file() else {}
        groups.setdefault(record.get("facts", {}).get("preset", run.name), []).append(run)
    rows = [score(group, clips, options.agent_episodes, options.out) for group in groups.values()]
    (options.out / "games.json").write_text(json.dumps({"clips": len(clips.video), "rows": rows}, indent=2) + "\n")
    (options.out / "games.md").write_text(shown(rows), encoding="utf-8")
    print(f"{len(clips.video)} clips\n\n{shown(rows)}")


if __name__ == "__main__":
    main()
