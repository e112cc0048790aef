"""Where a model of the pushing world thinks the discs go: their places, read off the pictures that it predicts.

    python benchmarks/push.py runs/one-0,runs/one-1,runs/one-2 runs/slots-0,runs/slots-1,runs/slots-2

Seeds of one model are joined by commas. Every model sees 5 frames of test episodes of `push-32` and the actions, and
predicts 10: by its means, or, with ``--drawn``, by one draw (as a dynamics without explicit distributions always does).
A disc is where its colour is: at the middle of the pixels that are near it, if these are at least a fifth
of its area. Printed are the share of discs that are there and how far they are from their true places (the picture
being 2 wide; discs that a model lost count where it last showed them), of the disc that actions move and of those that
it pushes (more than 0.1), beside discs that stay where they were last seen; the mean over seeds with its 95 % interval
over episodes, and every seed's own mean.
PSNR: `worldkit eval RUN --data push-32 --driven-by prior`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

import worldkit as wk
from worldkit.data import generate_push
from worldkit.data.formats.push import RADIUS
from worldkit.metrics import confidence_interval
from worldkit.viz import save_png
from worldkit.viz.images import labelled_rows

SEEN, AHEAD, SIZE, MOVED = 5, 10, 32, 0.1
NEAR = 0.45
"""How far a pixel's colour may be from a disc's, of numbers in [0, 1]: about half the way to black."""


def places(video: Tensor, colors: Tensor) -> tuple[Tensor, Tensor]:
    """Centres ``[E, T, 3, 2]`` of discs of colours ``[E, 3, 3]`` in ``[E, T, 3, S, S]``, and whether they are there.

    Example:
        >>> centre, there = places(torch.ones(1, 1, 3, 8, 8), torch.eye(3)[None])
        >>> there.any().item()
        False
    """
    size = video.shape[-1]
    apart = (video[:, :, None] - colors[:, None, :, :, None, None]).norm(dim=3)  # [E, T, 3, S, S]
    nearest = apart == apart.amin(2, keepdim=True)
    weight = ((apart < NEAR) & nearest).to(video.dtype)
    grid = (torch.arange(size) + 0.5) * 2 / size - 1
    area = weight.sum((-1, -2))
    centre = torch.stack([(weight.sum(-1) * grid).sum(-1), (weight.sum(-2) * grid).sum(-1)], -1)
    disc = torch.pi * (RADIUS * size / 2) ** 2
    return centre / area.clamp(min=1)[..., None], area > disc / 5


def predicted(model: wk.WorldModel, video: Tensor, action: Tensor, *, drawn: bool) -> Tensor:
    """The frames that follow the first ones, ``[E, AHEAD, 3, S, S]``; ``drawn``: of one draw, not of means."""
    with torch.no_grad():
        return torch.cat([
            model.rollout(v[:, :SEEN], AHEAD, conditions={"action": a[:, : SEEN + AHEAD]},
                          deterministic=model.dynamics.explicit_prior and not drawn,
                          generator=torch.Generator().manual_seed(0)).video
            for v, a in zip(video.split(20), action.split(20), strict=True)]).clamp(0, 1)


def _per_episode(value: Tensor, among: Tensor) -> Tensor:
    """Mean ``[seeds, E]`` over frames, and over the discs ``among`` ``[E, 1, 3]``, of ``[seeds, E, T, 3]``."""
    discs = rearrange(among, "e 1 n -> e n")
    return (value.float().mean(2) * discs).sum(-1) / discs.sum(-1).clamp(min=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="runs, or presets with weights; seeds of one model joined by commas")
    parser.add_argument("--episodes", type=int, default=100, help="test episodes")
    parser.add_argument("--drawn", action="store_true", help="predict by one draw, not by means")
    parser.add_argument("--picture", help="draw an episode here")
    parser.add_argument("--show", type=int, default=0, help="which")
    options = parser.parse_args()
    test = generate_push("test", num_episodes=options.episodes, image_size=SIZE)
    video, action = torch.from_numpy(test.video).float() / 255, torch.from_numpy(test.action)
    colors, position = torch.from_numpy(test.colors).float(), torch.from_numpy(test.position)
    truth = position[:, SEEN : SEEN + AHEAD]
    last = position[:, SEEN - 1 : SEEN]
    moves = (truth[:, -1:] - last).norm(dim=-1) > MOVED  # [E, 1, 3]
    films = {"what happened": video[options.show, SEEN : SEEN + AHEAD]}
    shown = {"the true pictures": [places(video[:, SEEN : SEEN + AHEAD], colors)],
             "still": [(last.expand_as(truth), torch.ones(truth.shape[:3], dtype=torch.bool))]}
    for runs in options.runs:
        shown[runs] = []
        for run in runs.split(","):
            model = wk.create_model(f"dir:{run}" if Path(run).exists() else run, pretrained=True).eval()
            ahead = predicted(model, video, action, drawn=options.drawn)
            films.setdefault(Path(runs.split(",")[0]).name, ahead[options.show])
            found, there = places(ahead, colors)
            before = last[:, 0]
            for t in range(AHEAD):
                before = found[:, t] = torch.where(there[:, t, :, None], found[:, t], before)
            shown[runs].append((found, there))
    number = torch.arange(3)
    for name, seeds in shown.items():
        off = torch.stack([(found - truth).norm(dim=-1) for found, _ in seeds])  # [seeds, E, AHEAD, 3]
        there = torch.stack([there for _, there in seeds])
        for which, among in (("pusher", (number == 0).expand_as(moves)), ("pushed", moves & (number > 0))):
            some = among[:, 0].any(1)
            for frames in ((0, 5), (5, 10)):
                mean, here = (_per_episode(value[:, :, slice(*frames)], among)[:, some] for value in (off, there))
                print(json.dumps({"model": name, "discs": which, "frames": f"{frames[0] + 1}-{frames[1]}",
                                  "n": int(some.sum()), "off": str(confidence_interval(mean.mean(0))),
                                  "off by seed": [round(x, 3) for x in mean.mean(1).tolist()],
                                  "there": str(confidence_interval(here.mean(0))),
                                  "there by seed": [round(x, 2) for x in here.mean(1).tolist()]}), flush=True)
    if options.picture:
        large = {name: (film * 255).round().byte().repeat_interleave(2, -1).repeat_interleave(2, -2)
                 for name, film in films.items()}
        save_png(labelled_rows(large, [f"+{t + 1}" for t in range(AHEAD)]), options.picture)


if __name__ == "__main__":
    main()
