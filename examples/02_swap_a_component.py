"""Swap a component: what if LPWM had slots instead of particles, or a GRU instead of PINT?

    python examples/02_swap_a_component.py [--steps 100]

Builds the variants, shows what changed, and compares three of them after a short training; a minute or two on a CPU.
At so few steps the table shows how it is done, not which part is better.
"""

import argparse

import torch

import worldkit as wk

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=20, help="training steps of each variant in the table")
options = parser.parse_args()

VARIANTS = {
    "as it is": {},
    "patches instead of particles": {"encoder": "patch"},
    "slots instead of particles": {"encoder": "slot"},
    "a GRU instead of PINT": {"dynamics": "gru"},
    "diffusion instead of PINT": {"dynamics": "diffusion"},
    "PINT with twice the layers": {"dynamics__num_layers": 4},
    "no latent actions": {"latent_action": None},
    "told the robot's actions": {"conditioners": {"action": {"name": "action", "dim": 4}}},
}

for what, swap in VARIANTS.items():
    torch.manual_seed(0)
    model = wk.create_model("lpwm-balls-mini", **swap)
    parts = ", ".join(f"{part} {count:,}" for part, count in model.parameter_report().items())
    print(f"{what}: create_model('lpwm-balls-mini', {', '.join(f'{k}={v!r}' for k, v in swap.items())})\n    {parts}")

print("\nParts that cannot work together are refused when the model is built:")
try:
    wk.create_model("lpwm-balls-mini", encoder={"name": "slot", "recurrent": False})
except wk.IncompatibleComponentsError as error:
    print(f"    {error}")

print("\nThe question as a table (worldkit ablate lpwm-balls-mini --swap ... does the same):")
table = wk.ablation.run(
    "lpwm-balls-mini", "balls-32", swaps={"dynamics": ["pint", "gru", "diffusion"]}, seeds=1,
    budget=f"{options.steps}steps", out="runs/swap-a-component",
)
table.print()
