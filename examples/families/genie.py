"""Genie: three stages on video alone; what happened between two frames becomes a code, and codes steer dreams.

    python examples/families/genie.py [STEPS]
"""

import sys

import torch

import worldkit as wk
from worldkit.training.recipes import train

steps, model, begin = int(sys.argv[1]) if len(sys.argv) > 1 else 400, None, {}
for stage in ("genie-mini-tokenizer", "genie-mini-actions", "genie-mini"):
    model, _ = train(stage, "push-32", run=f"runs/{stage}", train_overrides={"steps": steps, **begin})
    begin = {"init_from": f"runs/{stage}"}
video = wk.data.open_dataset("push-32", split="test", num_frames=6, num_episodes=2)[0]["video"][None]
with torch.no_grad():
    codes = model.infer_latent_actions(video)  # int64 [1, 5, 1, 1]
    futures = [model.rollout(video[:, :1], 5, latent_actions=torch.full_like(codes, code)).video for code in (0, 1)]
print("codes of what happened:", codes.flatten().tolist())
print(f"code 0 or code 1, five times: {(futures[0] - futures[1]).abs().mean():.4f} a pixel apart")
