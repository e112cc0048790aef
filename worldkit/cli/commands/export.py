"""``worldkit export``: models for other runtimes."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from ...errors import ExportError, NoDecoderError, WorldkitError
from ..loading import is_place, load
from ..options import Commands, check_place, command, positive
from ..output import console

WHAT = ("encode", "decode", "step", "rollout")

_HELP = """Every file is run and compared with the model before it is kept; a README and the names, types and shapes of
inputs and outputs (JSON) are written beside it. ONNX needs the extra 'export'.

examples:
  worldkit export lpwm-push-mini --what encode step --out exported
  worldkit export runs/diamond-mini --what step --noise
  worldkit export runs/genie-mini --what step --latent-actions --context 1
  worldkit export runs/a --what decode --format torch-export"""


def add(commands: Commands) -> None:
    """Its arguments."""
    p = command(commands, "export", "Write what a model computes as a file for other runtimes (ONNX), checked.", _HELP)
    p.add_argument("model", help="preset with weights, model folder, run folder or hub:org/name")
    p.add_argument("--what", nargs="+", default=list(WHAT[:3]), choices=WHAT,
                   help="encode: frames to latents; decode: latents to frames; step: the next latent; rollout: several,"
                        " drawn (default: the first three)")
    p.add_argument("--format", default="onnx", choices=("onnx", "torch-export", "safetensors"),
                   help="safetensors: the weights that it reads, without a program (default: onnx)")
    p.add_argument("--out", default="exported", help="folder to write (default: exported)")
    p.add_argument("--context", type=positive(int), help="frames that step and rollout start from (default: 4 at most)")
    p.add_argument("--horizon", type=positive(int), help="frames of a rollout (default: 8)")
    p.add_argument("--latent-actions", action="store_true",
                   help="an input of step and rollout, not the policy's choice")
    p.add_argument("--noise", action="store_true", help="what is random is drawn with noise that is an input")
    p.add_argument("--tolerance", type=positive(float), default=1e-4,
                   help="largest difference |a - b| / (1 + |b|) from the model (default: 1e-4)")
    p.add_argument("--untrained", action="store_true", help="a preset without weights, to try what can be exported")
    p.set_defaults(function=run_export)


def run_export(options: Namespace) -> int:
    """``worldkit export``; status 1 if some of several could not be written."""
    from ...exporting import export

    out = check_place(options.out, "--out")
    model, name = _model(options)
    refused: list[WorldkitError] = []
    for what in options.what:
        moving = what in ("step", "rollout")
        try:
            found = export(model, out, what=what, format=options.format, tolerance=options.tolerance, name=name,
                           noise=options.noise, context=options.context if moving else None,
                           horizon=options.horizon if what == "rollout" else None,
                           latent_actions=options.latent_actions and moving)
        except (ExportError, NoDecoderError) as error:
            if len(options.what) == 1:
                raise
            refused.append(error)
            console.print(f"not exported: {what}: {error}", soft_wrap=True, highlight=False)
            continue
        size = found.path.stat().st_size / 1e6
        console.print(f"{found.path}: {size:.1f} MB; {found.checked}", soft_wrap=True, highlight=False)
        if fixed := found.specification["fixed"]:
            console.print(f"    fixed: {' and '.join(fixed)}; why: {found.path}.json", soft_wrap=True,
                          highlight=False)
    if len(refused) < len(options.what):
        console.print(f"names, types and shapes: {out / 'README.md'}, and a JSON beside each file", soft_wrap=True)
    return int(bool(refused))


def _model(options: Namespace) -> tuple[Any, str]:
    """The model, and what it is called."""
    if options.untrained and not is_place(options.model):
        from ...factory import create_model

        return create_model(options.model), options.model
    loaded = load(options.model)
    return loaded.model, loaded.preset or options.model
