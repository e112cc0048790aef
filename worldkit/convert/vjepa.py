"""Checkpoints of V-JEPA 2 and V-JEPA 2-AC -> worldkit models, number for number.

Vocabulary (theirs -> ours): ``encoder.blocks.i.attn -> encoder.net.blocks.i.attention``, ``patch_embed.proj ->
patches``, ``predictor -> objective.predictor`` (training by masks), of V-JEPA 2-AC ``predictor -> dynamics``. Their
other encoder (``target_encoder``) is the slow copy that gives targets, and the one that is used.

I-JEPA's and V-JEPA's own checkpoints have the same names (and tables of positions, which are made here); their weights
are licensed for non-commercial use only.

Source: facebookresearch/vjepa2 @ c2963a4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..assembly import build
from ..config import WorldModelConfig, merge, nest
from ..errors import CheckpointError
from ..model import ComposedWorldModel
from .state import Target, fill, read_checkpoint, read_safetensors

_VIT = (
    (r"^patch_embed\.proj\.", "patches."),
    (r"^blocks\.(\d+)\.attn\.", r"blocks.\1.attention."),
)
_PREDICTOR = (
    (r"^predictor_embed\.", "inputs."),
    (r"^predictor_blocks\.(\d+)\.attn\.", r"blocks.\1.attention."),
    (r"^predictor_blocks\.", "blocks."),
    (r"^predictor_norm\.", "norm."),
    (r"^predictor_proj\.", "outputs."),
    (r"^mask_token$", "mask_tokens.0"),
    (r"^action_encoder\.", "actions."),
    (r"^state_encoder\.", "poses."),
    (r"^extrinsics_encoder\.", "cameras."),
)
_TABLES = re.compile(r"(^|\.)(predictor_)?pos_embed$")


def target_of(key: str) -> str:
    """Where a key of ``encoder|...``, ``predictor|...`` or ``target|...`` goes: the name of our parameter."""
    part, _, name = key.partition("|")
    rules = _PREDICTOR if part in ("predictor", "ac") else _VIT
    for pattern, into in rules:
        name = re.sub(pattern, into, name)
    home = {"encoder": "encoder.net", "target": "objective.teacher.net", "predictor": "objective.predictor",
            "ac": "dynamics"}[part]
    return f"{home}.{name}"


def from_vjepa2(
    checkpoint: str | Path | Mapping[str, Any], *, image_size: int = 256, num_heads: int | None = None,
    predictor_heads: int | None = None, frames: int = 16, **overrides: Any,
) -> ComposedWorldModel:
    """The encoder of a V-JEPA 2 checkpoint, with its predictor and slow copy if they are there.

    Args:
        checkpoint: The file, or what is in it: ``encoder``, ``predictor``, ``target_encoder``.
        image_size: Side of the pictures; rotations do not tell.
        num_heads: Of the encoder; None: the released one of this width.
        predictor_heads: Of the predictor; None: 12.
        frames: Of its clips.
        **overrides: Further options of the model, as of `create_model`.
    Raises:
        CheckpointError: it cannot be read, is none of these, or holds what has no place here.
    Example::

        worldkit.convert.from_vjepa2("vitl.pt").save_pretrained("vjepa2-l")
    """
    parts = _parts(checkpoint)
    encoder = parts.get("target_encoder") or parts.get("ema_encoder") or parts["encoder"]
    config = _encoder_config(encoder, image_size, num_heads, frames)
    state = {f"encoder|{key}": value for key, value in encoder.items()}
    objective: dict[str, Any] = {"name": "masked-jepa", "num_frames": frames, "distance": "power",
                                 "one_mask_token": True, "momentum": [0.99925, 0.99925]}
    if "predictor" in parts:
        state |= {f"predictor|{key}": value for key, value in parts["predictor"].items()}
        objective["predictor"] = _predictor_config(parts["predictor"], predictor_heads)
    if "encoder" in parts:  # training goes on from the fast one; used is the slow one
        state |= {f"target|{key}": value for key, value in encoder.items()}
    whole = merge({
        "obs": {"height": image_size, "width": image_size}, "timestep_horizon": 1, "encoder": config,
        "decoder": None, "dynamics": None, "objective": objective,
    }, nest(overrides))
    model = build(WorldModelConfig.parse(whole))
    _fill(model, state, optional=() if "predictor" in parts else ("objective.predictor.",))
    return model.eval()


AC_OBJECTIVE = {"name": "frozen-jepa", "num_frames": 8, "target": "detached", "distance": "l1", "rollout_frames": 2,
                "fields": ["features"]}
"""How V-JEPA 2-AC is trained."""


def from_vjepa2_ac(
    checkpoint: str | Path | Mapping[str, Any], *, image_size: int = 256, num_heads: int | None = None,
    predictor_heads: int = 16, frames: int = 16, camera: bool = False, **overrides: Any,
) -> ComposedWorldModel:
    """The world model of a V-JEPA 2-AC checkpoint: frozen encoder and block-causal predictor.

    Args:
        checkpoint: The file, or what is in it: ``encoder`` (or ``target_encoder``) and ``predictor``.
        image_size, num_heads, frames: See `from_vjepa2`; ``frames``: that the predictor looks back at, at most.
        predictor_heads: Of the predictor.
        camera: It is told where the camera is (extrinsics).
        **overrides: Further options of the model, as of `create_model`.
    """
    parts = _parts(checkpoint)
    encoder = parts.get("target_encoder") or parts.get("ema_encoder") or parts["encoder"]
    if "action_encoder.weight" not in parts.get("predictor", {}):
        raise CheckpointError("this is no V-JEPA 2-AC checkpoint: it has no predictor with action_encoder.weight; of "
                              "V-JEPA 2 take from_vjepa2")
    predictor = parts["predictor"]
    config = _encoder_config(encoder, image_size, num_heads, 2) | {"normalize": True, "frozen": True}
    dim, actions = predictor["action_encoder.weight"].shape
    cameras = {"camera": predictor["extrinsics_encoder.weight"].shape[1]} if camera else {}
    fc1 = predictor["predictor_blocks.0.mlp.fc1.weight"].shape[0]
    silu = "predictor_blocks.0.mlp.fc3.weight" in predictor
    poses = predictor["state_encoder.weight"].shape[1]
    whole = merge({
        "obs": {"height": image_size, "width": image_size, "vectors": {"pose": poses, **cameras}},
        "timestep_horizon": frames,
        "encoder": {"name": "with-vectors", "picture": config},
        "decoder": None,
        "dynamics": {
            "name": "vjepa2-ac", "dim": dim, "num_layers": _count(predictor, r"predictor_blocks\.(\d+)\."),
            "num_heads": predictor_heads, "mlp_ratio": _ratio(fc1, dim, silu),
            "activation": "swiglu" if silu else "gelu",
        },
        "conditioners": {"action": {"name": "raw-action", "dim": actions}},
        "objective": AC_OBJECTIVE,
    }, nest(overrides))
    model = build(WorldModelConfig.parse(whole))
    state = {f"encoder|{key}": value for key, value in encoder.items()}
    state |= {f"ac|{key}": value for key, value in predictor.items()}
    _fill(model, state, encoder="encoder.picture.net.")
    return model.eval()


def _parts(checkpoint: str | Path | Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Its networks, without the prefixes of wrappers, and without what is no network."""
    if isinstance(checkpoint, (str, Path)):
        path = Path(checkpoint)
        checkpoint = read_safetensors(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    found = {name: {re.sub(r"^(module\.|backbone\.|_orig_mod\.)+", "", key): value for key, value in part.items()}
             for name in ("encoder", "target_encoder", "ema_encoder", "predictor")
             if isinstance(part := checkpoint.get(name), Mapping)}
    if not {"encoder", "target_encoder", "ema_encoder"} & found.keys():
        raise CheckpointError("this is no V-JEPA 2 checkpoint: it has no encoder, target_encoder or ema_encoder, but "
                              f"{', '.join(map(str, list(checkpoint)[:5]))}. What else can be converted: worldkit "
                              "convert --help")
    return found


def _count(state: Mapping[str, Any], pattern: str) -> int:
    return 1 + max((int(m[1]) for key in state if (m := re.match(pattern, key))), default=-1)


def _encoder_config(state: Mapping[str, Tensor], size: int, heads: int | None, frames: int) -> dict[str, Any]:
    if missing := [key for key in ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight") if key not in state]:
        raise CheckpointError(f"this is no V-JEPA 2 encoder: it lacks {' and '.join(missing)}, and has "
                              f"{', '.join(map(str, list(state)[:4]))}, ...; of LeWM take from_lewm")
    kernel = state["patch_embed.proj.weight"]
    dim, tubelet, side = kernel.shape[0], kernel.shape[2] if kernel.ndim == 5 else 1, kernel.shape[-1]
    silu = "blocks.0.mlp.fc3.weight" in state
    hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
    released = {1024: 16, 1280: 16, 1408: 22, 768: 12, 384: 6, 192: 3}
    if size % side:
        raise CheckpointError(f"image_size {size} does not divide into patches of {side}")
    return {
        "name": "jepa-vit", "patch_size": side, "tubelet": tubelet, "frames": frames, "dim": dim,
        "num_layers": _count(state, r"blocks\.(\d+)\."), "num_heads": heads or released.get(dim) or max(1, dim // 64),
        "mlp_ratio": _ratio(hidden, dim, silu), "activation": "swiglu" if silu else "gelu",
        "positions": "tiled-rotary" if tubelet > 1 else "sincos-2d", "rescaled": True,
    }


def _ratio(hidden: int, dim: int, silu: bool) -> float:
    """A ratio that gives just this width; of SwiGLU two thirds are taken of it, rounded up to a multiple of 8."""
    wide = -(-3 * hidden // 2) if silu else hidden
    return math.nextafter(wide / dim, math.inf)


def _predictor_config(state: Mapping[str, Tensor], heads: int | None) -> dict[str, Any]:
    dim = state["predictor_embed.weight"].shape[0]
    silu = "predictor_blocks.0.mlp.fc3.weight" in state
    return {
        "dim": dim, "num_layers": _count(state, r"predictor_blocks\.(\d+)\."), "num_heads": heads or 12,
        "mlp_ratio": _ratio(state["predictor_blocks.0.mlp.fc1.weight"].shape[0], dim, silu),
        "mask_tokens": max(1, _count(state, r"mask_tokens\.(\d+)")),
    }


def _fill(
    model: ComposedWorldModel, state: Mapping[str, Tensor], *, encoder: str = "encoder.net.", optional: tuple = ()
) -> None:
    """Every key is used, or is a table of positions, which is made here."""
    names = {name for name, _ in model.named_parameters()}
    kept = {key: value for key, value in state.items() if not _TABLES.search(key.partition("|")[2])}
    if not any(key.startswith("target|") for key in kept):  # the teacher begins as a copy
        optional = (*optional, "objective.teacher.")
    held = {name: p.detach().clone() for name, p in model.named_parameters() if name.startswith(optional or ("-",))}
    kept |= {f"own|{name}": value for name, value in held.items()}

    def place(key: str) -> Target | None:
        name = key.removeprefix("own|") if key.startswith("own|") else target_of(key)
        name = re.sub(r"^encoder\.net\.", encoder, name)
        return Target(name) if name in names else None

    fill(model, kept, canonical=lambda key: key, target_of=place, between="the checkpoint and the sizes read off it",
         advice="Numbers of heads and the size of pictures are not in a checkpoint: give num_heads=, image_size=")
    if held:
        model.objective.prepare(model)
