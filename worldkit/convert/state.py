"""What all converters share: reading a foreign checkpoint and its hparams, filling a model with every tensor of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from ..files import no_torch_file, reason

PROJECTS = {
    "lpwm": ("LPWM / DLPv3", "encoder_module.", "obj_ch_mult"),
    "ddlp": ("DDLP / DLPv2", "fg_module.particle_", "enc_channels"),
    "gswm": ("G-SWM", "fg_module.img_encoder.", "Z_DYNA_DIM"),
    "diamond": ("DIAMOND", "denoiser.inner_model.", "denoiser"),
    "iris": ("IRIS", "world_model.transformer.", "tokens_per_block"),
    "diffuse-ddlp": ("DiffuseDDLP", "model.particle_projection.", "diffusion_num_steps"),
}
"""Kind, as ``worldkit convert`` calls it -> what it is, how some of its keys begin, and an hparam that only it has."""


@dataclass(frozen=True)
class Target:
    """Where an upstream tensor goes: a parameter of ours, or some rows of it (in this order)."""

    name: str
    rows: Tensor | slice | None = None

    def read(self, tensor: Tensor) -> Tensor:
        """The part of our tensor (a weight or its gradient) that the upstream tensor corresponds to."""
        return tensor if self.rows is None else tensor[self.rows]


def fill(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    canonical: Callable[[str], str],
    target_of: Callable[[str], Target | None],
    between: str = "the checkpoint and its hparams",
    advice: str = "Is this the hparams.json of the same run?",
) -> None:
    """Fill a model with a foreign state dict, from which what is no weight has been taken out.

    Args:
        model: The model; every parameter must get a value.
        state: Foreign key -> tensor.
        canonical: Foreign key with aliases replaced; tensors of one canonical key must be equal.
        target_of: Canonical key -> where it goes, or None if there is no such place.
        between, advice: What disagrees if something does not fit, and what to do, for the error.
    Raises:
        CheckpointError: listing every foreign key that has no place, that has the wrong size, and every parameter of
            ours that stays empty.
    """
    parameters = dict(model.named_parameters())
    unused, wrong, filled = [], [], dict.fromkeys(parameters, 0)
    seen: dict[str, Tensor] = {}
    with torch.no_grad():
        for given, tensor in state.items():
            key = canonical(given)
            if key in seen:
                if not torch.equal(seen[key], tensor):
                    wrong.append(f"{given} differs from {key}, which should be the same tensor")
                continue
            seen[key] = tensor
            target = target_of(key)
            if target is None:
                unused.append(given)
                continue
            part = target.read(parameters[target.name])
            if part.numel() != tensor.numel():
                wrong.append(f"{given} is {list(tensor.shape)}, but {target.name} needs {list(part.shape)}")
                continue
            rows = slice(None) if target.rows is None else target.rows
            parameters[target.name][rows] = tensor.to(part.dtype).reshape(part.shape)
            filled[target.name] += part.numel()
    empty = [name for name, count in filled.items() if count != parameters[name].numel()]
    problems = [f"{title}:\n    " + "\n    ".join(keys) for title, keys in (
        ("keys with no place in this model", unused), ("keys that do not fit", wrong),
        ("parameters the checkpoint does not fill", empty)) if keys]
    if problems:
        raise CheckpointError(
            f"{between} disagree\n  " + "\n  ".join(problems) + f"\n  {advice}"
        )


def refuse_other_projects(state: Mapping[str, Tensor], kind: str) -> None:
    """Check that a state dict is not of another of the `PROJECTS`.

    Raises:
        CheckpointError: it is; the converter to use is named.
    """
    for other, (name, prefix, _) in PROJECTS.items():
        if other != kind and any(key.startswith(prefix) for key in state):
            raise CheckpointError(
                f"this is a checkpoint of {name}, not of {PROJECTS[kind][0]}: use worldkit convert {other}, or "
                f"worldkit.convert.from_{other.replace('-', '_')}"
            )


def whose_hparams(hparams: Mapping[str, Any], kind: str) -> str:
    """A hint for hparams that lack a key."""
    for other, (name, _, key) in PROJECTS.items():
        if other != kind and key in hparams:
            return f"they are of {name}: use worldkit convert {other}"
    return f"is this an hparams.json of {PROJECTS[kind][0]}?"


def read_hparams(hparams: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """The table in an ``hparams.json``, or the table itself.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    if not isinstance(hparams, Mapping):
        try:
            hparams = json.loads(Path(hparams).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(f"cannot read hparams {hparams}: it is no JSON ({error}). --hparams names the "
                              "hparams.json of the run, the other file is its checkpoint (.pth)") from error
        except OSError as error:
            raise ConfigError(f"cannot read hparams {reason(error)}") from error
        if not isinstance(hparams, Mapping):
            raise ConfigError(f"hparams are a table of names and values, got a {type(hparams).__name__}")
    return hparams


def read_checkpoint(checkpoint: str | Path) -> Any:
    """What a file of ``torch.save`` holds.

    Raises:
        CheckpointError: no such file, one of another kind, a damaged one, or one that holds more than tensors.
    """
    try:
        if other := no_torch_file(Path(checkpoint)):
            raise CheckpointError(f"cannot read checkpoint {checkpoint}: {other}; give the .pth file of the run")
        return torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such checkpoint: {checkpoint}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {reason(error)}; give the .pth file of the run") from error
    except CheckpointError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged or unsafe file
        found = re.search(r"GLOBAL (\S+)", str(error))
        cause = (f"it holds more than tensors ({found[1]}), which is not read: save the model's state_dict()"
                 if found else f"{type(error).__name__}: {reason(error)}")
        raise CheckpointError(f"cannot read checkpoint {checkpoint}: {cause}") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        CheckpointError: it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such checkpoint: {path}") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error}") from error


def read_state(checkpoint: str | Path) -> Mapping[str, Tensor]:
    """The state dict in a file of ``torch.save``, itself or as the entry ``"model"`` or ``"state_dict"``.

    Raises:
        CheckpointError: as `read_checkpoint`, or the file holds something else.
    """
    state = read_checkpoint(checkpoint)
    if isinstance(state, Mapping):
        state = next((state[name] for name in ("model", "state_dict") if isinstance(state.get(name), Mapping)), state)
    if not isinstance(state, Mapping) or not all(map(torch.is_tensor, state.values())):
        held = f": it has {', '.join(map(str, list(state)[:5]))}" if isinstance(state, Mapping) else ""
        raise CheckpointError(
            f"{checkpoint} holds a {type(state).__name__} that is no state dict (names -> tensors){held}"
        )
    return state
