"""DIAMOND: the next picture itself is denoised, a few steps each, after the last ones and the action.

    python examples/families/diamond.py [STEPS]
"""

import sys

import torch

import worldkit as wk
from worldkit.training.recipes import train
from worldkit.viz import grid, save_png

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500
told = {"conditioners": {"action": {"dim": 2, "num_actions": None}}, "heads": {"reward": None, "terminated": None},
        "timestep_horizon": 2}
model, _ = train("diamond-mini", "push-32", run="runs/diamond", overrides=told, train_overrides={"steps": steps})
clip = wk.data.open_dataset("push-32", split="test", num_frames=10, num_episodes=2)[0]
video, action = clip["video"][None], {"action": clip["action"][None]}
with torch.no_grad():
    out = model.rollout(video[:, :5], 5, conditions=action, generator=torch.Generator().manual_seed(0))
error = (out.video.clamp(0, 1) - video[:, 5:] / 255).square().mean()
print(f"predicted: {-10 * torch.log10(error):.1f} dB with {model.dynamics.config.sampling.steps} steps of denoising")
save_png(grid(torch.cat([video[0, 5:] / 255, out.video[0].clamp(0, 1)]), 5), "diamond.png")
