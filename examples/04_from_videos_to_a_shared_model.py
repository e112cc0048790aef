"""From a folder of videos to a trained model, an evaluation table and a folder to share: docs/tutorial.md in Python.

    python examples/04_from_videos_to_a_shared_model.py recordings/ [--steps 1000]

Without a folder it first writes one, with synthetic videos of bouncing balls. Needs the extras video and train.
"""

import argparse
from pathlib import Path

import worldkit as wk
from worldkit.data import generate_balls, write_video
from worldkit.storage.folders import provenance
from worldkit.storage.sharing import export_model
from worldkit.training import compare, find_protocol
from worldkit.training.recipes import train

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("recordings", nargs="?")
parser.add_argument("--steps", type=int, default=200)
options = parser.parse_args()

recordings = options.recordings
if recordings is None:
    recordings = "recordings"
    balls = generate_balls("train", num_episodes=8, num_frames=60, image_size=64).video
    for number, clip in enumerate(balls):
        write_video(Path(recordings) / f"balls_{number:02d}.mp4", clip.transpose(0, 2, 3, 1))
    print("wrote synthetic videos to recordings/")

model, result = train("lpwm-mini", recordings, run="runs/tutorial", train_overrides={"steps": options.steps})
print(f"{result.step} steps in {result.seconds:.0f} s; pictures in {result.run / 'figures'}")

best = wk.WorldModel.from_pretrained(result.run / "best")
scores = compare({"lpwm-mini": best}, recordings, find_protocol("lpwm-mini"),
                 facts={"lpwm-mini": provenance(result.run / "best")})
scores.print()
scores.write(result.run)

shared = export_model(result.run, "my-model", title="LPWM on my recordings", licence="mit")
again = wk.create_model(f"dir:{shared}")
print(f"shared: {shared}/README.md tells what it is; loaded again: {again.parameter_report()['total']:,} parameters")
