"""Checkpoints of semantic-wm -> worldkit models, number for number.

Vocabulary (theirs -> ours), of the transformer: ``x_proj -> dynamics.network.patches``, ``blocks.i.s_block ->
spatial.i``, ``blocks.i.t_block -> temporal_blocks.i``, ``s_projector -> projector``, ``head_final_layer`` and
``final_layer -> head``; of the adapter: ``enc_blocks -> encoder.adapter.encode_wide``, ``enc_proj -> to_latent``,
``encoder_mlp -> down``; of its pixel decoder: ``up_levels -> decoder.net.levels``. Query, key and value of the
adapter and the decoder are one matrix here.

A file of the transformer holds ``model``, ``ema``, ``optimizer``, ``lr_scheduler``, ``step``, ``total_samples_seen``;
one of the adapter ``adapter``, often ``pixel_decoder``, and tables ``adapter_config``, ``encoder_config``,
``pixel_decoder_config``. The frozen encoder's weights are in neither. What is not used is named (`unused`).

Sizes are read off the weights. What they do not tell is taken as released, or from options: heads (6, 12, 16 and 16 of
DiT-S, B, L and XL, 16 of the adapter, 4 of the decoder), flow matching, factored time, one view, 10 frames. Names in
the tables are not known, so these are shown and not read.

Source: semantic-wm (arXiv:2605.06388; hskalin/semantic-wm, first commit), written from a description of the facts;
tested with recorded weights of tiny models, no published files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, is_tensor, nn

from ..assembly import build
from ..config import WorldModelConfig, merge, nest
from ..errors import CheckpointError, ConfigError
from ..model import ComposedWorldModel
from .state import Target, fill, read_checkpoint, read_safetensors

_DIT = (
    (r"^x_proj\.", "patches."), (r"^timestep_mlp\.", "levels.mlp."), (r"^action_embedder\.", "actions."),
    (r"^blocks\.(\d+)\.s_block\.", r"spatial.\1."), (r"^blocks\.(\d+)\.t_block\.", r"temporal_blocks.\1."),
    (r"\.adaLN_modulation\.1\.", ".modulation."), (r"\.attn\.qkv_proj\.", ".attention.qkv."),
    (r"\.attn\.out_proj\.", ".attention.proj."), (r"\.ffwd\.w12\.", ".feed_forward.inputs."),
    (r"\.ffwd\.w3\.", ".feed_forward.outputs."), (r"^s_projector\.", "projector."),
    (r"^(head_)?final_layer\.", "head."),
)
_ADAPTER = (
    (r"^enc_blocks\.", "encode_wide."), (r"^dec_blocks\.", "decode_wide."), (r"^enc_blocks_mid\.", "encode_middle."),
    (r"^dec_blocks_mid\.", "decode_middle."), (r"^latent_enc_blocks\.", "encode_narrow."),
    (r"^latent_dec_blocks\.", "decode_narrow."), (r"^latent_enc_norm\.", "norm_encoded."),
    (r"^latent_dec_norm\.", "norm_decoded."), (r"^enc_norm_high\.", "down.0."), (r"^enc_down\.", "down.1."),
    (r"^enc_norm\.", "to_latent.0."), (r"^enc_proj\.", "to_latent.1."), (r"^dec_proj\.", "from_latent."),
    (r"^dec_norm_mid\.", "up.0."), (r"^dec_up\.", "up.1."), (r"^dec_norm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."), (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.(query|key|value)\.(.*)", lambda m: f".attention.qkv.{m[2]}@{'qkv'.index(m[1][0])}"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."), (r"\.attention\.output\.dense\.", ".attention.proj."),
    (r"\.output\.dense\.", ".mlp.fc2."), (r"^encoder_mlp\.", "down."), (r"^decoder_mlp\.", "up."),
)
_DECODER = (
    (r"^temporal_upsample_layer\.", "frames."), (r"^proj_in\.", "inputs."), (r"^mid_block1\.", "middle.0."),
    (r"^mid_attn\.", "middle.1."), (r"^mid_block2\.", "middle.2."), (r"^up_levels\.0\.attn\.", "attention."),
    (r"^up_levels\.(\d+)\.blocks\.", r"levels.\1."), (r"^up_levels\.(\d+)\.upsample\.conv\.", r"doubling.\1."),
    (r"^(middle\.1|attention)\.([qkv])\.(.*)", lambda m: f"{m[1]}.qkv.{m[3]}@{'qkv'.index(m[2])}"),
    (r"\.proj_out\.", ".proj."), (r"^norm_out\.", "norm."), (r"^conv_out\.", "outputs."),
)
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Of released transformers, by their width."""


@dataclass(frozen=True)
class Official:
    """What files of semantic-wm hold.

    Attributes:
        dit, adapter, decoder: State dicts, without the prefixes of wrappers; None: not there.
        weights: Which of the transformer's weights these are, ``"ema"`` or ``"model"``.
        unused: Entries of the files that are not used -> what they are.
    """

    dit: dict[str, Tensor] | None = None
    adapter: dict[str, Tensor] | None = None
    decoder: dict[str, Tensor] | None = None
    weights: str = "model"
    unused: dict[str, str] = field(default_factory=dict)


def names_of(part: Literal["dit", "adapter", "decoder"], key: str) -> tuple[str, int | None]:
    """A key of theirs -> our parameter's name in its module, and which third of its rows (None: all).

    Example:
        >>> names_of("dit", "blocks.3.t_block.attn.qkv_proj.weight")
        ('temporal_blocks.3.attention.qkv.weight', None)
        >>> names_of("decoder", "mid_attn.v.bias")
        ('middle.1.qkv.bias', 2)
    """
    for pattern, into in {"dit": _DIT, "adapter": _ADAPTER, "decoder": _DECODER}[part]:
        key = re.sub(pattern, into, key)
    name, _, third = key.partition("@")
    return name, int(third) if third else None


def from_semantic_wm(
    checkpoint: str | Path | Mapping[str, Any], *, encoder: str | Mapping[str, Any] | ComposedWorldModel,
    adapter: str | Path | Mapping[str, Any] | None = None, weights: Literal["ema", "model"] | None = None,
    image_size: int = 256, adapter_heads: int = 16, **overrides: Any,
) -> ComposedWorldModel:
    """The model of semantic-wm's checkpoints.

    Args:
        checkpoint: File of the transformer (or a state dict, or what is in the file): a world model. One of the
            adapter alone: the first stage, adapter and pixel decoder.
        encoder: Frozen encoder on whose features it was trained: its name here (``"rae"``), its options
            (``{"name": "rae", "model": "/models/dinov2"}``), or a model whose encoder it is (`from_vjepa2`).
        adapter: File of the adapter, which the transformer's does not hold; None: features as they are.
        weights: The transformer's averaged ones, or those that were trained; None: averaged, if there are any.
        image_size: Side of the pictures.
        adapter_heads: Attention heads of an S-VAE.
        **overrides: Options that the weights do not tell, as of `create_model`: ``dynamics={"noise": "ddpm"}``,
            ``dynamics={"temporal": "joint"}``, ``obs={"views": 3}``.
    Raises:
        CheckpointError: a file cannot be read, is none of these, holds what has no place here, or does not fit the
            others or the encoder.
    Example::

        encoder = worldkit.convert.from_vjepa2("vitl.pt")
        worldkit.convert.from_semantic_wm("DiT-S_D96.pt", adapter="adapter.pt", encoder=encoder)
    """
    return model_of(official(checkpoint, adapter=adapter, weights=weights), encoder=encoder, image_size=image_size,
                    adapter_heads=adapter_heads, **overrides)


def official(
    checkpoint: str | Path | Mapping[str, Any], *, adapter: str | Path | Mapping[str, Any] | None = None,
    weights: Literal["ema", "model"] | None = None,
) -> Official:
    """What is in the files; see `from_semantic_wm`."""
    files = [_read(checkpoint)] + ([] if adapter is None else [_read(adapter)])
    found = [_adapter_of(file) if "adapter" in file else _dit_of(file, weights) for file in files]
    if len(found) == 2 and (found[0].dit is None or found[1].adapter is None):
        raise CheckpointError("checkpoint is a file of the transformer and adapter= one of the adapter: "
                              f"{'these are two of the adapter' if found[1].adapter else 'adapter holds none'}")
    first, last = found[0], found[-1]
    unused = first.unused if first is last else {
        **first.unused, **{f"{name} of the adapter's file": what for name, what in last.unused.items()}}
    return Official(first.dit, last.adapter, last.decoder, first.weights, unused)


def model_of(
    parts: Official, *, encoder: str | Mapping[str, Any] | ComposedWorldModel, image_size: int = 256,
    adapter_heads: int = 16, **overrides: Any,
) -> ComposedWorldModel:
    """The model that they make; see `from_semantic_wm`."""
    picture: Any = {"name": encoder} if isinstance(encoder, str) else encoder
    if isinstance(encoder, ComposedWorldModel):
        picture = encoder.config.to_dict()["encoder"]
        picture = picture.get("picture", picture)  # of an encoder that stands inside of another
    whole = merge({
        "obs": {"height": image_size, "width": image_size}, "timestep_horizon": 9,
        "encoder": {"name": "adapted", "picture": picture, "adapter": _adapter_config(parts.adapter, adapter_heads)},
        "decoder": None if parts.decoder is None else _decoder_config(parts.decoder),
        **_dynamics_config(parts.dit),
    }, nest(overrides))
    if parts.dit is not None and whole["obs"].get("views", 1) > 1:
        whole["dynamics"] = {"mixed_views": True, **whole["dynamics"]}  # as it was trained
    model = build(WorldModelConfig.parse(whole))
    _check(model, parts)
    if isinstance(encoder, ComposedWorldModel):
        _take(model.encoder.picture, getattr(encoder.encoder, "picture", encoder.encoder))
    for part, module in (("dit", "dynamics.network"), ("adapter", "encoder.adapter"), ("decoder", "decoder.net")):
        state = getattr(parts, part)
        if state:
            _fill(model.get_submodule(module), state, part)
    model.objective.prepare(model)
    return model.eval()


def _read(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(source, (str, Path)):
        path = Path(source)
        source = read_safetensors(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    if not isinstance(source, Mapping):
        raise CheckpointError(f"this is no checkpoint of semantic-wm but a {type(source).__name__}")
    return dict(source)


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(is_tensor, value.values()))


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", key): value for key, value in state.items()}


def _dit_of(file: dict[str, Any], weights: str | None) -> Official:
    if _is_state(file):
        state, used = file, "model"
    else:
        there = [name for name in ("ema", "model", "state_dict") if name in file]
        used = weights or next(iter(there), "model")
        used = "state_dict" if used == "model" and "model" not in file and "state_dict" in file else used
        if not _is_state(file.get(used)):
            held = ", ".join(map(str, list(file)[:6])) or "nothing"
            why = (f"its '{used}' is no table of names and tensors" if used in file
                   else f"it lacks '{used}' and has {held}")
            others = ["ema" if name == "ema" else "model" for name in there if name != used and _is_state(file[name])]
            raise CheckpointError(f"this is no checkpoint of semantic-wm: {why}"
                                  + (f"; take weights='{others[0]}'" if others else ""))
        state = file[used]
    plain = _plain(state)
    if "x_proj.weight" not in plain or "blocks.0.s_block.attn.qkv_proj.weight" not in plain:
        raise CheckpointError(
            "this is no transformer of semantic-wm: it lacks x_proj.weight or blocks.0.s_block.attn.qkv_proj.weight, "
            f"and has {', '.join(list(plain)[:4])}, ...; its adapter's file has an entry 'adapter'")
    unused = {} if state is file else {name: _words(value) for name, value in file.items() if name != used}
    return Official(dit=plain, weights="ema" if used == "ema" else "model", unused=unused)


def _adapter_of(file: dict[str, Any]) -> Official:
    adapter, decoder = file["adapter"], file.get("pixel_decoder")
    if not isinstance(adapter, Mapping) or (adapter and not _is_state(adapter)):
        raise CheckpointError("this is no adapter of semantic-wm: its 'adapter' is no table of names and tensors")
    if decoder is not None and not _is_state(decoder):
        raise CheckpointError("this is no adapter of semantic-wm: its 'pixel_decoder' is no table of names and tensors")
    unused = {name: _words(value) for name, value in file.items() if name not in ("adapter", "pixel_decoder")}
    return Official(adapter=_plain(adapter), decoder=None if decoder is None else _plain(decoder), unused=unused)


def _words(value: Any) -> str:
    """What an unused entry is: short tables and values as they stand."""
    text = repr(value)
    if is_tensor(value) or len(text) > 500:
        return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (Mapping, list)) else "")
    return text


def _count(state: Mapping[str, Any], prefix: str) -> int:
    found = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", key) for key in state)
    return 1 + max((int(m[1]) for m in found if m), default=-1)


def _need(state: Mapping[str, Tensor], what: str, *keys: str) -> list[Tensor]:
    if missing := [key for key in keys if key not in state]:
        raise CheckpointError(f"this is no {what} of semantic-wm: it lacks {' and '.join(missing)}, and has "
                              f"{', '.join(list(state)[:4])}, ...")
    return [state[key] for key in keys]


def _dynamics_config(state: Mapping[str, Tensor] | None) -> dict[str, Any]:
    if state is None:
        return {"dynamics": None, "conditioners": {}, "objective": {"name": "adapter"}}
    patches = state["x_proj.weight"]
    dim, patch = patches.shape[0], patches.shape[-1]
    told, wide = state.get("action_embedder.weight"), state.get("s_projector.weight")
    actions = 0 if told is None else told.shape[1]
    return {
        "dynamics": {
            "name": "causal-dit", "dim": dim, "num_layers": _count(state, "blocks"), "patch_size": patch,
            "num_heads": HEADS.get(dim, max(1, dim // 64)), "head": "narrow" if wide is None else "wide",
            **({} if wide is None else {"head_dim": wide.shape[0]}),
            "actions": "left", "null_action": "last-entry", "cond_dim": actions, "history": 2,
        },
        "conditioners": {"action": {"name": "raw-action", "dim": actions}} if actions else {},
        "objective": {"name": "denoising"},
    }


def _adapter_config(state: Mapping[str, Tensor] | None, heads: int) -> dict[str, Any]:
    if not state:
        return {"name": "identity"}
    if "encoder_mlp.0.weight" in state:
        first, last = _need(state, "adapter", "encoder_mlp.0.weight", "encoder_mlp.4.weight")
        return {"name": "mlp", "dim": last.shape[0], "hidden": first.shape[0]}
    inner, last = _need(state, "adapter", "enc_blocks.0.intermediate.dense.weight", "enc_proj.weight")
    progressive = "enc_down.weight" in state
    return {"name": "svae", "dim": last.shape[0] // 2, "hidden": inner.shape[0], "num_heads": heads,
            "progressive": progressive, "num_layers": _count(state, "enc_blocks") + progressive,
            "latent_layers": _count(state, "latent_enc_blocks")}


def _decoder_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    if "temporal_upsample_layer.weight" in state:
        raise CheckpointError("temporal_upsample_layer: this pixel decoder draws latents that stand for two frames "
                              "each (Qwen's video mode), which no encoder here gives; convert without pixel_decoder")
    levels = _count(state, "up_levels")
    last, *convs = _need(state, "pixel decoder", "conv_out.weight",
                         *(f"up_levels.{i}.blocks.0.conv1.weight" for i in range(levels)))
    channels = last.shape[1]
    widths = [conv.shape[0] for conv in reversed(convs)]
    if any(width % channels for width in widths):
        raise CheckpointError(f"levels of {widths} channels are no multiples of {channels}, the outermost one's")
    return {"name": "semantic", "channels": channels, "multipliers": [width // channels for width in widths],
            "num_blocks": _count(state, "up_levels.0.blocks"),
            "level_attention": "up_levels.0.attn.norm.weight" in state}


def _check(model: ComposedWorldModel, parts: Official) -> None:
    """That the files were made for one another and for the encoder."""
    own, name = model.encoder.adapter, model.config.encoder.picture.name
    if parts.adapter:
        first = parts.adapter.get("enc_blocks.0.layernorm_before.weight", parts.adapter.get("encoder_mlp.0.weight"))
        width = None if first is None else first.shape[-1]
        if width != own.width:
            raise CheckpointError(f"the adapter narrows features of {width} numbers, and encoder '{name}' gives "
                                  f"{own.width}: encoder= must be the one that it was trained on")
        middle = parts.adapter.get("enc_down.weight")
        if middle is not None and middle.shape[0] != own.middle:
            raise CheckpointError(f"the adapter narrows by way of {middle.shape[0]} numbers, and ours by {own.middle}: "
                                  "how upstream rounds this width is not known, so it cannot be converted")
    for what, state, key in (("transformer denoises", parts.dit, "x_proj.weight"),
                             ("pixel decoder draws", parts.decoder, "proj_in.weight")):
        if state is None:
            continue
        (kernel,) = _need(state, what.rpartition(" ")[0], key)
        if kernel.shape[1] != own.dim:
            given = "the adapter" if parts.adapter else f"encoder '{name}' without adapter="
            raise CheckpointError(f"the {what} tokens of {kernel.shape[1]} numbers, and {given} gives {own.dim}: "
                                  "take the adapter and the encoder that it was trained on")


def _take(picture: nn.Module, given: nn.Module) -> None:
    try:
        picture.load_state_dict(given.state_dict())
    except RuntimeError as error:  # options that were overridden
        raise CheckpointError(f"the given encoder does not fit image_size= and the options given: {error}") from error


def _fill(module: nn.Module, state: Mapping[str, Tensor], part: Literal["dit", "adapter", "decoder"]) -> None:
    names = {name for name, _ in module.named_parameters()}

    def place(key: str) -> Target | None:
        name, third = names_of(part, key)
        rows = len(state[key])
        return None if name not in names else Target(
            name, None if third is None else slice(third * rows, (third + 1) * rows))

    fill(module, state, canonical=lambda key: key, target_of=place, between=f"the {part} and the sizes read off it",
         advice="Is it of a later version of semantic-wm?")


def encoder_named(text: str) -> dict[str, Any]:
    """Options of an encoder from ``NAME`` or ``NAME=MODEL``.

    Raises:
        UnknownComponentError, ConfigError: there is none of this name; it comes without weights; no model after the
            ``=``.
    Example:
        >>> encoder_named("rae=/models/dinov2")
        {'name': 'rae', 'model': '/models/dinov2'}
    """
    from ..registry import encoders

    name, equals, model = text.partition("=")
    if not encoders.get(name).comes_trained:
        raise ConfigError(f"--encoder {name} has no weights of its own: give the folder of a model that has it; of "
                          "V-JEPA 2 what worldkit convert vjepa2 wrote")
    if equals and not model:
        raise ConfigError(f"--encoder {text}: say which model, {name}=/path/to/model")
    return {"name": name, "model": model} if model else {"name": name}
