"""PLDM: LeWM's networks, kept from collapsing by VICReg's terms; futures of latents follow actions.

    python examples/families/pldm.py [STEPS]
"""

import sys

import torch

import worldkit as wk
from worldkit.training.recipes import train

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
model, _ = train("pldm-mini", "push-32", run="runs/pldm", train_overrides={"steps": steps})
clip = wk.data.open_dataset("push-32", split="test", num_frames=8, num_episodes=2)[0]
video, action = clip["video"][None], clip["action"][None]
with torch.no_grad():
    (really,) = model.encode(video).values.values()  # one vector a frame, [1, 8, 1, D]
    out = model.rollout(video[:, :3], 5, conditions={"action": action}, decode=False)
(future,) = out.latents.values.values()
now = really[0, 2]
for step, (told, found) in enumerate(zip(future[0], really[0, 3:], strict=True), 1):
    off, still = ((x - found).square().mean().sqrt() for x in (told, now))
    print(f"{step} ahead: off by {off:.3f}, standing still by {still:.3f}")
