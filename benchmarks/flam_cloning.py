"""Behaviour cloning from few labels: do latent actions of video without labels help?

    python benchmarks/flam_cloning.py runs/flam-0 runs/coupled-0 --agents 4 --cells 5

On MultiGrid agents move at random, so there is nothing to clone; here agent 0 goes after agent 1 (along the longer of
the two ways, rows first), and the others move at random. A policy sees a frame, the mean colour of every cell, and
says which of five moves agent 0 will try. It is a network of one hidden layer, trained on

* ``labels``: the transitions of the first N frames, whose moves are known;
* ``latent``: all transitions, by pseudo-labels: a decoder of one hidden layer from the latent actions of a transition
  (of all factors) to the move of agent 0 is trained on the same N, and labels the rest;
* ``all``: all transitions and their true moves, which nobody has: the most that there is to gain.

What is printed is the share of right moves on other episodes, and how many pseudo-labels are right. The world model
never sees these episodes or their moves in training.

After FLAM (arXiv:2602.16229, behaviour cloning from 1,000 and 10,000 labels on Procgen, returns there): data, sizes and
the score are ours.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import worldkit as wk
from worldkit.data.formats.multigrid import NUM_ACTIONS, draw, move


def chase(cell: np.ndarray) -> np.ndarray:
    """The move of agent 0 after agent 1, int64 ``[E]``, of cells ``[E, A, 2]``.

    Example:
        >>> chase(np.array([[[0, 0], [2, 1]], [[3, 3], [3, 1]]])).tolist()  # down, left
        [2, 3]
    """
    rows, columns = (cell[:, 1] - cell[:, 0]).T
    along_rows = abs(rows) >= abs(columns)
    return np.where(along_rows, np.where(rows < 0, 1, 2), np.where(columns < 0, 3, 4))


def episodes(count: int, frames: int, *, agents: int, cells: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Video uint8 ``[E, T, 3, S, S]`` in which agent 0 chases agent 1, and its moves, int64 ``[E, T]``."""
    rng, walls = np.random.default_rng(seed), np.zeros((count, cells, cells), bool)
    places = np.stack([rng.permutation(cells**2)[: agents + 1] for _ in range(count)])
    walls[np.arange(count), places[:, -1] // cells, places[:, -1] % cells] = True
    cell, path, moves = np.stack([places[:, :-1] // cells, places[:, :-1] % cells], -1), [], []
    for _ in range(frames):
        choice = rng.integers(NUM_ACTIONS, size=(count, agents))
        choice[:, 0] = chase(cell)
        path.append(cell)
        moves.append(choice[:, 0])
        cell = move(cell, choice, walls)
    video = draw(np.stack(path, 1), walls, size)
    return torch.from_numpy(np.ascontiguousarray(video)), torch.from_numpy(np.stack(moves, 1))


def fit(x: Tensor, labels: Tensor, *, seed: int = 0, steps: int = 400, hidden: int = 128) -> nn.Module:
    """A classifier of moves, from rows ``[M, D]``."""
    torch.manual_seed(seed)
    center, scale = x.mean(0), x.std(0).clamp(min=1e-3)
    network = nn.Sequential(nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, NUM_ACTIONS))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-2)
    rng = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(x), (min(256, len(x)),), generator=rng)
        loss = nn.functional.cross_entropy(network((x[rows] - center) / scale), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():  # what it is given comes as it is
        first: Any = network[0]
        first.weight /= scale
        first.bias -= first.weight @ center
    return network.eval()


def seen(video: Tensor, cells: int) -> Tensor:
    """Mean colours of cells, ``[M, 3 cells^2]``, of frames ``[..., 3, S, S]``."""
    return nn.functional.adaptive_avg_pool2d(video.flatten(0, -4).float() / 255, cells).flatten(1)


@torch.no_grad()
def _right(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    return float((network(x).argmax(-1) == labels).float().mean())


def clone(model: Any, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], labels: int, *, cells: int,
          seed: int = 0) -> dict[str, float]:
    """Shares of right moves, by what the policy learned from; ``pseudo``: of right pseudo-labels.

    Args:
        model: A world model with latent actions.
        train, test: Video and moves, see `episodes`; the last move of an episode leads nowhere and is left out.
        labels: How many of the first transitions come with their moves.
        cells: Of the board, along a side.
        seed: Of the networks.
    """
    video, moves = train[0], train[1][:, :-1].flatten()
    frames = seen(video[:, :-1], cells)
    with torch.no_grad():
        action = torch.cat([model.infer_latent_actions(part) for part in video.split(50)])
    if not action.is_floating_point():
        action = nn.functional.one_hot(action, int(action.max()) + 1).float()
    acted = action.flatten(2).flatten(0, 1)
    decoder = fit(acted[:labels], moves[:labels], seed=seed)
    with torch.no_grad():
        pseudo = decoder(acted).argmax(-1)
    pseudo[:labels] = moves[:labels]
    there, wanted = seen(test[0][:, :-1], cells), test[1][:, :-1].flatten()
    found = {"pseudo": float((pseudo[labels:] == moves[labels:]).float().mean())}
    for name, x, y in (("labels", frames[:labels], moves[:labels]), ("latent", frames, pseudo), ("all", frames, moves)):
        found[name] = _right(fit(x, y, seed=seed), there, wanted)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="run folders of models with latent actions")
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--labels", type=int, nargs="+", default=[50, 200, 1000], help="labelled transitions")
    parser.add_argument("--episodes", type=int, default=400, help="of 24 frames, for training")
    parser.add_argument("--seeds", type=int, default=3, help="of the policies and decoders")
    options = parser.parse_args()
    for run in options.runs:
        model = wk.WorldModel.from_pretrained(run).eval()
        size = {"agents": options.agents, "cells": options.cells, "size": model.config.obs.height}
        train, test = episodes(options.episodes, 24, seed=0, **size), episodes(100, 24, seed=1, **size)
        for labels in options.labels:
            rows = [clone(model, train, test, labels, cells=options.cells, seed=s) for s in range(options.seeds)]
            means = ", ".join(f"{k} {sum(r[k] for r in rows) / len(rows):.3f} [{min(r[k] for r in rows):.3f}, "
                              f"{max(r[k] for r in rows):.3f}]" for k in rows[0])
            print(f"{run}: {labels} labels: {means}", flush=True)


if __name__ == "__main__":
    main()
