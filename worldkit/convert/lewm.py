"""LeWM and PLDM checkpoints of stable-worldmodel -> worldkit models, number for number.

Vocabulary (theirs -> ours): ``encoder -> encoder.net``, ``projector -> encoder.projector``, ``predictor -> dynamics``,
``pred_proj -> dynamics.outputs``, ``action_encoder -> conditioners.action``, PLDM's ``idm -> objective.inverse``.
Query, key and value projections of the vision transformer are one matrix here. Published files have the names of
transformers 4, newer ones those of transformers 5; both are read.

Sizes are read off the weights. Numbers of attention heads are not in them: 64 channels a head, as every released model
has, unless they are given.

Source: galilai-group/stable-worldmodel @ addbab4.
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
from .state import Target, fill, read_safetensors, read_state

_TRANSFORMERS_4 = (
    (r"^encoder\.encoder\.layer\.", "encoder.layers."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".attention.{m[1][0]}_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
_NAMES = (
    (r"^encoder\.embeddings\.cls_token$", "encoder.net.cls"),
    (r"^encoder\.embeddings\.position_embeddings$", "encoder.net.places"),
    (r"^encoder\.embeddings\.patch_embeddings\.projection\.", "encoder.net.patches."),
    (r"^encoder\.layers\.(\d+)\.attention\.o_proj\.", r"encoder.net.blocks.\1.attention.proj."),
    (r"^encoder\.layers\.(\d+)\.attention\.(q|k|v)_proj\.(weight|bias)$",
     lambda m: f"encoder.net.blocks.{m[1]}.attention.qkv.{m[3]}@{'qkv'.index(m[2])}"),
    (r"^encoder\.layers\.(\d+)\.layernorm_before\.", r"encoder.net.blocks.\1.norm1."),
    (r"^encoder\.layers\.(\d+)\.layernorm_after\.", r"encoder.net.blocks.\1.norm2."),
    (r"^encoder\.layers\.(\d+)\.mlp\.", r"encoder.net.blocks.\1.mlp."),
    (r"^encoder\.layernorm\.", "encoder.net.norm."),
    (r"^projector\.net\.", "encoder.projector."),
    (r"^pred_proj\.net\.", "dynamics.outputs."),
    (r"^predictor\.pos_embedding$", "dynamics.places"),
    (r"^predictor\.transformer\.norm\.", "dynamics.norm."),
    (r"^predictor\.transformer\.(?:input_proj)\.", "dynamics.inputs."),
    (r"^predictor\.transformer\.layers\.(\d+)\.attn\.norm\.", r"dynamics.blocks.\1.attention.norm."),
    (r"^predictor\.transformer\.layers\.(\d+)\.attn\.to_qkv\.", r"dynamics.blocks.\1.attention.qkv."),
    (r"^predictor\.transformer\.layers\.(\d+)\.attn\.to_out\.0\.", r"dynamics.blocks.\1.attention.proj."),
    (r"^predictor\.transformer\.layers\.(\d+)\.mlp\.net\.", r"dynamics.blocks.\1.mlp."),
    (r"^predictor\.transformer\.layers\.(\d+)\.adaLN_modulation\.1\.", r"dynamics.blocks.\1.modulation."),
    (r"^action_encoder\.patch_embed\.", "conditioners.action.mix."),
    (r"^action_encoder\.embed\.", "conditioners.action.net."),
    (r"^idm\.net\.", "objective.inverse.net."),
)
_PROJECTOR = ((r"\.0\.", ".first."), (r"\.1\.", ".norm."), (r"\.3\.", ".last."))


def from_lewm(
    checkpoint: str | Path | Mapping[str, Tensor], *, heads: int | None = None, predictor_heads: int | None = None,
    **overrides: Any,
) -> ComposedWorldModel:
    """The model of a LeWM or PLDM checkpoint.

    Args:
        checkpoint: ``weights.pt``, a safetensors file, or a state dict.
        heads: Attention heads of the vision transformer; None: one for 64 channels.
        predictor_heads: Of the predictor; likewise, of its inner width.
        **overrides: Options of the model that its weights do not tell, as of `create_model`:
            ``objective={"sigreg": {"weight": 0.09}}``.
    Raises:
        CheckpointError: it cannot be read, is none of these, or holds what has no place here.
    Example::

        worldkit.convert.from_lewm("weights.pt").save_pretrained("my-lewm")
    """
    state = read_any(checkpoint)
    state = {_rename(key, _TRANSFORMERS_4): value for key, value in state.items()}
    if "predictor.pos_embedding" not in state or "encoder.embeddings.cls_token" not in state:
        raise CheckpointError(
            "this is no LeWM or PLDM checkpoint of stable-worldmodel: it lacks predictor.pos_embedding or "
            f"encoder.embeddings.cls_token, and has {', '.join(list(state)[:4])}, ... What else can be converted: "
            "worldkit convert --help"
        )
    model = build(_config(state, heads, predictor_heads, overrides))
    still = {_target_name(key): value for key, value in state.items()
             if re.search(r"\.(running_mean|running_var|num_batches_tracked)$", key)}
    weights = {key: value for key, value in state.items() if _target_name(key) not in still}
    dim = model.config.encoder.dim
    names = {name for name, _ in model.named_parameters()}
    fill(model, weights, canonical=lambda key: key, target_of=lambda key: _target(key, dim, names),
         between="the checkpoint and the sizes read off it", advice="Is it a LeWM of another layout?")
    missing, extra = model.load_state_dict(still, strict=False)
    del missing  # everything but running statistics
    if extra:
        raise CheckpointError(f"running statistics with no place in this model: {', '.join(extra)}")
    model.objective.prepare(model)
    return model.eval()


def read_any(checkpoint: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a file of torch or safetensors, or the one given; wrappers' prefixes are taken off."""
    if isinstance(checkpoint, (str, Path)):
        path = Path(checkpoint)
        checkpoint = read_safetensors(path) if path.suffix == ".safetensors" else read_state(path)
    state = dict(checkpoint)
    for prefix in ("module.", "_orig_mod.", "model."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _rename(key: str, rules: Any) -> str:
    for pattern, into in rules:
        key = re.sub(pattern, into, key)
    return key


def _target_name(key: str) -> str:
    for pattern, into in _NAMES:
        name, found = re.subn(pattern, into, key)
        if found:
            inner = name.startswith(("encoder.projector.", "dynamics.outputs."))
            return _rename(name, _PROJECTOR) if inner else name
    return ""


def _target(key: str, dim: int, names: set[str]) -> Target | None:
    name, _, part = _target_name(key).partition("@")
    if name not in names:
        return None
    return Target(name, slice(int(part) * dim, (int(part) + 1) * dim) if part else None)


def _config(
    state: Mapping[str, Tensor], heads: int | None, predictor_heads: int | None, overrides: Mapping[str, Any]
) -> WorldModelConfig:
    def count(pattern: str) -> int:
        return 1 + max((int(m[1]) for key in state if (m := re.match(pattern, key))), default=-1)

    patches = state["encoder.embeddings.patch_embeddings.projection.weight"]
    dim, channels, side = patches.shape[0], patches.shape[1], patches.shape[2]
    grid = math.isqrt(state["encoder.embeddings.position_embeddings"].shape[1] - 1)
    window, width = state["predictor.pos_embedding"].shape[1:]
    inner = state["predictor.transformer.layers.0.attn.to_qkv.weight"].shape[0] // 3
    mixed, actions = state["action_encoder.patch_embed.weight"].shape[:2]
    predictor_heads = predictor_heads or max(1, inner // 64)
    projector, last = state.get("projector.net.0.weight"), state.get("pred_proj.net.0.weight")
    objective: dict[str, Any] = {"name": "jepa", "num_frames": window + 1}
    if "idm.net.0.weight" in state:
        hidden = state["idm.net.0.weight"].shape[0]
        objective["vicreg"] = {"std": 18.0, "std_t": 0.7, "cov": 12.0, "smooth": 0.2, "inverse": 1e-9,
                               "inverse_hidden": hidden}
    else:
        objective["sigreg"] = {"weight": 0.09}
    config = {
        "obs": {"height": grid * side, "width": grid * side, "channels": channels}, "timestep_horizon": window,
        "encoder": {
            "name": "vit-cls", "patch_size": side, "dim": dim, "num_layers": count(r"encoder\.layers\.(\d+)\."),
            "num_heads": heads or max(1, dim // 64),
            "hidden": state["encoder.layers.0.mlp.fc1.weight"].shape[0],
            "projector": None if projector is None else projector.shape[0],
        },
        "decoder": None,
        "dynamics": {
            "name": "adaln-causal", "dim": width, "num_layers": count(r"predictor\.transformer\.layers\.(\d+)\."),
            "num_heads": predictor_heads, "head_dim": inner // predictor_heads,
            "hidden": state["predictor.transformer.layers.0.mlp.net.1.weight"].shape[0],
            "projector": None if last is None else last.shape[0],
        },
        "conditioners": {"action": {
            "name": "action-mlp", "dim": actions, "mixed": mixed,
            "scale": state["action_encoder.embed.0.weight"].shape[0] // state["action_encoder.embed.2.weight"].shape[0],
        }},
        "objective": objective,
    }
    return WorldModelConfig.parse(merge(config, nest(overrides)))
