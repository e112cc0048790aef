"""Draw genie-board.png from the run of docs/genie.md: ``python docs/images/genie.py runs/genie`` (seconds).

The first test clip in which the one agent moves in every frame: what happened, what the codes that were
read off it give, and what two other sequences of codes give.
"""

import sys
from pathlib import Path

import torch

import worldkit as wk
from worldkit.data import collate
from worldkit.training.figures import rollouts_beside_truth
from worldkit.viz import rollout_strip, save_png
from worldkit.viz.animation import INFERRED

FRAMES = 9  # more than the window has


def main(run):
    model = wk.WorldModel.from_pretrained(f"{run}/best").eval()
    frames, codes = FRAMES, model.latent_action.choices
    clips = wk.data.open_dataset("multigrid-32", split="test", num_frames=frames, mode="tile", num_agents=1)
    batch = collate([next(clip for clip in clips if moves(clip["video"]))])
    shown = rollouts_beside_truth(model, batch, context_frames=1)
    rows, found = {"codes read off the true frames": shown["rollouts"][INFERRED]}, model.infer_latent_actions(batch)
    for name, other in (("a", 1), ("b", 3)):
        rollout = model.rollout(batch.video[:, :1], frames - 1, latent_actions=(found + other) % codes,
                                deterministic=True)
        rows[f"other codes, {name}"] = torch.cat([rollout.context_video[0], rollout.video[0]]).clamp(0, 1)
    save_png(rollout_strip(shown["truth"], rows, context_frames=1), Path(__file__).parent / "genie-board.png")


def moves(video):
    """Whether something changes from every frame to the next."""
    return bool((video[1:] != video[:-1]).flatten(1).any(1).all())


if __name__ == "__main__":
    main(sys.argv[1])
