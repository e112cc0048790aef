"""Does every agent get an action of its own? A table of trained models on MultiGrid, one row each.

    python benchmarks/flam.py runs/flam-0 runs/flam-1 runs/single-0 ... --agents 2

Runs of one preset make a row: mean over runs, and the least and the most. Columns:

* ``psnr``: dB of ten frames after one, driven by latent actions read off the true future (not a forecast);
  ``copy``: of the first frame, repeated.
* ``slots D/C/I``: disentanglement, completeness, informativeness (`worldkit.metrics.factor_agent_scores`): the agent's
  cell read off a slot, where the model has slots.
* ``actions D/C/I``: the same of latent actions and what the agent did. One action for all is cut in as many equal
  parts as FLAM has factors.
* ``edit``: one factor's action (one part, of one action for all) is drawn from N(0, I), the others stay as inferred:
  the share of changed pixels that lie in the cell of that factor's agent or next to it. In brackets: how many edits
  changed anything. The agent of a factor is the one whose moves its actions tell best.

With ``--time``: seconds of a training step of presets of equal width, by turns.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import worldkit as wk
from worldkit.batch import Batch, to_float_video
from worldkit.data import collate, open_dataset
from worldkit.data.formats.multigrid import CELLS
from worldkit.metrics import change_inside, factor_agent_scores, psnr

CONTEXT, HORIZON, FACTORS = 1, 10, 4


def cells(position: Tensor, board: int = CELLS) -> Tensor:
    """(row, column) of centres in [-1, 1] on a board of so many cells along a side, int64."""
    return ((position + 1) * board / 2 - 0.5).round().long()


def around(cell: Tensor, size: int, board: int = CELLS) -> Tensor:
    """Pixels of a cell ``[B, 2]`` and of the four next to it, bool ``[B, S, S]``."""
    rows = torch.arange(board)
    near = (rows[:, None] - cell[:, :1, None]).abs() + (rows[None] - cell[:, 1:, None]).abs() <= 1
    return near.repeat_interleave(size // board, 1).repeat_interleave(size // board, 2)


def parts(action: Tensor, factors: int = FACTORS) -> Tensor:
    """Actions ``[B, T, K, A]``, or one ``[B, T, 1, K A]`` cut in K parts; one code as a one-hot vector."""
    if not action.is_floating_point():
        action = torch.nn.functional.one_hot(action[..., 0], int(action.max()) + 1).float()
        return action.expand(-1, -1, factors, -1)
    return action if action.shape[2] > 1 else action.unflatten(-1, (factors, -1)).squeeze(2)


def whole(split: Tensor, like: Tensor) -> Tensor:
    """`parts` undone."""
    return split if like.shape[2] > 1 else split.flatten(-2)[:, :, None]


@torch.no_grad()
def scores(model: Any, batch: Batch, state: dict[str, Tensor], *, seed: int, board: int = CELLS,
           factors: int = FACTORS) -> dict[str, float]:
    """One row of the table, of one model."""
    found: dict[str, float] = {}
    video, position, choice = batch.video, state["position"], state["choice"]
    told = {name: batch.conditions[name] for name in model.conditioners}
    short = slice(0, CONTEXT + HORIZON)
    known = {name: value[:, short] for name, value in told.items()}
    latent = model.latent_action is not None
    action = model.infer_latent_actions(video, conditions=told) if latent else None
    future = model.rollout(video[:, :CONTEXT], HORIZON, conditions=known, deterministic=True,
                           latent_actions=None if action is None else action[:, : CONTEXT + HORIZON - 1])
    truth = to_float_video(video[:, CONTEXT : CONTEXT + HORIZON])
    found["psnr"] = float(psnr(future.video.clamp(0, 1).flatten(0, 1), truth.flatten(0, 1)).mean())
    copied = to_float_video(video[:, :CONTEXT][:, -1:]).expand_as(truth)
    found["copy"] = float(psnr(copied.flatten(0, 1), truth.flatten(0, 1)).mean())
    if model.dynamics.factorizes:
        slots = model.dynamics.factors(model.encode(video)).features
        dci = factor_agent_scores(slots.flatten(0, 1), cells(position, board).flatten(0, 1))
        found |= {"slots D": dci.disentanglement, "slots C": dci.completeness, "slots I": dci.informativeness}
    if action is None:
        return found
    split = parts(action, factors)
    dci = factor_agent_scores(split.flatten(0, 1), choice[:, :-1].flatten(0, 1)[..., None])
    found |= {"actions D": dci.disentanglement, "actions C": dci.completeness, "actions I": dci.informativeness}
    if action.is_floating_point():
        found |= edits(model, video, position, action, split, dci.matched, torch.Generator().manual_seed(seed), board)
    return found


def edits(model: Any, video: Tensor, position: Tensor, action: Tensor, split: Tensor, matched: Tensor,
          generator: torch.Generator, board: int = CELLS) -> dict[str, float]:
    """Share of changed pixels around the edited agent, over all agents and transitions that were tried."""
    shares = []
    for at in range(4, video.shape[1] - 1, 5):
        seen, now = video[:, : at + 1], slice(0, at + 1)
        base = model.rollout(seen, 1, latent_actions=action[:, now]).video[:, 0]
        for agent, factor in enumerate(matched.tolist()):
            if factor < 0:
                continue
            edited = split[:, now].clone()
            edited[:, -1, factor] = torch.randn(edited[:, -1, factor].shape, generator=generator)
            after = model.rollout(seen, 1, latent_actions=whole(edited, action)).video[:, 0]
            inside = around(cells(position[:, at, agent], board), video.shape[-1], board)
            shares.append(change_inside(base.clamp(0, 1), after.clamp(0, 1), inside)[0])
    share = torch.cat(shares)
    changed = ~share.isnan()
    return {"edit": float(share[changed].mean()) if changed.any() else float("nan"),
            "edited": float(changed.float().mean())}


def seconds(presets: list[str], repeats: int, batch: int) -> dict[str, list[float]]:
    """Seconds of a training step (forward, backward, AdamW) on features, presets by turns."""
    steps = {}
    for preset in presets:
        torch.manual_seed(0)
        model = wk.create_model(preset).train()
        learned = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learned, 1e-4)
        size = model.config.obs
        clips = Batch(torch.rand(batch, model.clip_length, 3, size.height, size.width),
                      {n: torch.rand(batch, model.clip_length, c.dim) for n, c in model.config.conditioners.items()})

        def step(model: Any = model, optimizer: Any = optimizer, clips: Batch = clips) -> None:
            model.loss(clips, 10**6).total.backward()
            optimizer.step()
            optimizer.zero_grad()

        steps[preset] = step
        step()
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        for preset, step in steps.items():
            start = time.process_time()
            step()
            taken[preset].append(time.process_time() - start)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help="run folders")
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--cells", type=int, default=CELLS, help="of the board, along a side")
    parser.add_argument("--factors", type=int, default=FACTORS, help="parts that one action for all is cut in")
    parser.add_argument("--episodes", type=int, default=50, help="of the test split")
    parser.add_argument("--time", nargs="+", metavar="PRESET", help="time training steps of these instead")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    if options.time:
        for preset, taken in seconds(options.time, options.repeats, options.batch).items():
            ordered = sorted(taken)
            print(f"{preset:28} {1e3 * ordered[len(ordered) // 2]:8.1f} ms CPU (median of {len(ordered)}, "
                  f"{1e3 * ordered[0]:.1f} to {1e3 * ordered[-1]:.1f})")
        return
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for run in options.runs:
        model = wk.WorldModel.from_pretrained(run).eval()
        obs = model.config.obs
        clips = open_dataset(f"multigrid-{obs.height}", split="test", num_frames=24, num_agents=options.agents,
                             num_episodes=options.episodes, cells=options.cells)
        episodes = [clips[i] for i in range(len(clips))]
        state = {key: torch.stack([episode["state"][key] for episode in episodes]) for key in ("position", "choice")}
        row = scores(model, collate(episodes), state, seed=0, board=options.cells,
                     factors=options.factors)
        rows[name_of(run)].append(row)
        print(run, {k: round(v, 3) for k, v in row.items()}, flush=True)
    for name, found in rows.items():
        cols = []
        for key in found[0]:
            values = [row[key] for row in found]
            cols.append(f"{key} {sum(values) / len(values):.2f} [{min(values):.2f}, {max(values):.2f}]")
        print(f"\n{name} (n = {len(found)}): " + "; ".join(cols))


def name_of(run: str) -> str:
    """What a run trained."""
    folder = Path(run)
    while not (folder / "run.json").exists() and folder != folder.parent:
        folder = folder.parent
    return json.loads((folder / "run.json").read_text())["facts"]["preset"]


if __name__ == "__main__":
    main()
