"""FLAM: slots bind to what acts by itself, and each has a latent action of its own.

    python examples/families/flam.py [STEPS]
"""

import sys

import torch

import worldkit as wk
from worldkit.training.recipes import train

steps, model, begin = int(sys.argv[1]) if len(sys.argv) > 1 else 600, None, {}
for stage in ("flam-grid-mini-tokenizer", "flam-grid-mini"):
    model, _ = train(stage, "multigrid-32", run=f"runs/{stage}", train_overrides={"steps": steps, **begin})
    begin = {"init_from": f"runs/{stage}"}
video = wk.data.open_dataset("multigrid-32", split="test", num_frames=6, num_episodes=2)[0]["video"][None]
with torch.no_grad():
    actions = model.infer_latent_actions(video)  # [1, 5, factors, numbers]
    other = model.latent_action.edited(actions, 1, torch.zeros(actions.shape[-1]))  # factor 1 does something else
    before, after = (model.rollout(video[:, :1], 5, latent_actions=a).video for a in (actions, other))
print("latent actions:", tuple(actions.shape))
print(f"another action of one factor changes {(before - after).abs().mean():.4f} a pixel")
