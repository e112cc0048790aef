"""A world model on a machine without PyTorch: NumPy and ONNX Runtime drive an exported step.

    worldkit export lpwm-push-mini --what encode step decode --out exported
    python examples/08_without_torch.py exported

Frames are encoded once; then each step takes the newest latents and what is done, and gives the next latent.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path, help="what worldkit export wrote")
parser.add_argument("--frames", type=Path, help="uint8 [T, H, W, 3] (.npy) at the model's size; default: grey ones")
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--out", type=Path, default=Path("dream.npy"))
options = parser.parse_args()

run = {what: onnxruntime.InferenceSession(str(options.folder / f"{what}.onnx"))
       for what in ("encode", "step", "decode")}
told = json.loads((options.folder / "step.onnx.json").read_text())
inputs = {port["name"]: port for port in told["inputs"]}
context, size = told["traced_with"]["time"], told["operator"]
names = [name.removeprefix("latent.") for name in inputs if name.startswith("latent.")]  # "particles.position", ...

grey = np.full((context, size["height"], size["width"], 3), 128, np.uint8)
frames = (np.load(options.frames) if options.frames else grey)[-context:]
outputs = [port.name for port in run["encode"].get_outputs()]
seen = dict(zip(outputs, run["encode"].run(None, {"video": frames.transpose(0, 3, 1, 2)[None]}), strict=True))
latent = {name: seen[f"latent.{name}"] for name in names}  # [1, context, tokens, numbers] each
action = np.zeros((1, context, inputs["action"]["shape"][-1]), np.float32)  # index t leads from frame t to t + 1

dreamed = []
for step in range(options.steps):
    angle = 2 * np.pi * step / options.steps
    action[:, -1] = [np.sin(angle), np.cos(angle)]  # what is done now, in the units of the training data
    given = {f"latent.{name}": x for name, x in latent.items()} | {"action": action}
    following = dict(zip(names, run["step"].run([f"next.{name}" for name in names], given), strict=True))
    latent = {name: np.concatenate([latent[name], following[name]], 1)[:, -context:] for name in names}
    action = np.concatenate([action[:, 1:], action[:, -1:]], 1)
    video = run["decode"].run(["video"], {f"latent.{name}": x for name, x in following.items()})[0]
    dreamed.append((video[0, 0].transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8))

np.save(options.out, np.stack(dreamed))
print(f"{len(dreamed)} frames dreamed: {options.out}; PyTorch was {'' if 'torch' in sys.modules else 'not '}loaded")
