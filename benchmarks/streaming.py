"""What ``window="streaming"`` changes in the predictions of a trained model: exact and streaming side by side.

    python benchmarks/streaming.py --clips 40 --horizon 20

Prints one JSON line: PSNR of both against the truth (mean over clips and frames), the root mean square difference
between the two predictions of frames and positions, and seconds. Data: synthetic 32-pixel Balls, test split, 5 frames
given.
"""

import argparse
import json
import time

import torch

import worldkit as wk
from worldkit.data import collate, open_dataset
from worldkit.metrics import score_predictions
from worldkit.training import predict

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="lpwm-balls-mini")
parser.add_argument("--clips", type=int, default=40)
parser.add_argument("--horizon", type=int, default=20)
options = parser.parse_args()

model = wk.create_model(options.model, pretrained=True)
clips = open_dataset("balls-32", split="test", num_frames=5 + options.horizon, height=32, width=32, mode="tile")
batch = collate([clips[i] for i in range(min(options.clips, len(clips)))])
rollouts, seconds = {}, {}
with torch.no_grad():
    for window in ("exact", "streaming"):
        started = time.perf_counter()
        rollouts[window] = predict(
            model, batch, context_frames=5, driven_by="prior", generator=None, window=window
        )
        seconds[window] = round(time.perf_counter() - started, 2)
truth = batch.video[:, 5:]
exact, streaming = rollouts["exact"], rollouts["streaming"]
moved = exact.latents.position - streaming.latents.position
print(json.dumps({
    "model": options.model, "clips": len(truth), "context": 5, "horizon": options.horizon,
    "window": model.config.timestep_horizon,
    "psnr": {name: round(score_predictions(r.video, truth)["psnr"].mean().item(), 3) for name, r in rollouts.items()},
    "rms_frames": round((exact.video - streaming.video).square().mean().sqrt().item(), 4),
    "rms_positions": round(moved.square().mean().sqrt().item(), 4),
    "seconds": seconds,
}))
