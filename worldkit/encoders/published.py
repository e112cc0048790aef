"""Frozen encoders of papers by name: those that semantic-wm compares, with their inputs and what of them is taken.

| name | model | taken |
|---|---|---|
| `vae` | Stable Diffusion 3's autoencoder | means, scaled and not shifted |
| `rae` | DINOv2 with registers, base | patches after the last norm |
| `scale-rae-siglip` | SigLIP 2 so400m, patch 14 | patches BEFORE the last norm |
| `scale-rae-webssl` | Web-DINO 300M | patches after the last norm |
| `qwen` | the vision tower of Qwen2.5-VL 3B | patches before the merger, after its norm; every frame shown twice |
| `cosmos` | Cosmos CI16x16 | the map of ``encoder.jit`` |
| `vavae` | VA-VAE f16d32 | means |

V-JEPA 2 is encoder ``pretrained`` with its folder, or ``jepa-vit`` with converted weights. ``model`` is a hub id or a
local folder; what is missing there is said. Features are as they are (``normalize`` is off); upstream draws the
autoencoders' latents, here they are means.

``cosmos`` runs the TorchScript program in its file: give one that you trust. All others read weights alone.

Source: semantic-wm (arXiv:2605.06388), written from a description of the facts; tested with random weights, no
published files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from ..compat import import_transformers
from ..errors import CheckpointError, ConfigError
from ..nn.vqgan import DownStack, StackConfig
from .pretrained import (
    _HALF,
    Backbone,
    Opened,
    PretrainedEncoder,
    PretrainedEncoderConfig,
    find_model,
    read_json,
    statistics,
)

_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class _Named(PretrainedEncoder):
    """A pretrained encoder that takes models of one kind only.

    Attributes:
        kinds: ``model_type`` or ``_class_name`` of their ``config.json``.
        subfolder: Where the model lies in its repository.
    """

    kinds: ClassVar[tuple[str, ...]] = ()
    subfolder: ClassVar[str] = ""

    def opened(self, config: PretrainedEncoderConfig) -> Opened:
        folder = find_model(config.model, subfolder=self.subfolder)
        refuse_others(folder, self.kinds, config.name)
        return super().opened(config.model_copy(update={"model": str(folder)}))


def refuse_others(folder: Path, kinds: tuple[str, ...], name: str) -> Mapping[str, Any]:
    """The ``config.json`` of a folder, if it is of one of these kinds.

    Raises:
        CheckpointError: it holds the weights of another encoder; those that fit are named.
    """
    facts = read_json(folder / "config.json")
    kind = facts.get("_class_name") or facts.get("model_type")
    if kind not in kinds:
        fits = [other for other, cls in NAMED.items() if kind in cls.kinds] or ["pretrained"]
        raise CheckpointError(
            f"encoder.model: encoder '{name}' takes a model of type {' or '.join(kinds)}, and {folder} holds one of "
            f"type '{kind}': take encoder.name={' or '.join(fits)}, or give another folder")
    return facts


class VAEConfig(PretrainedEncoderConfig):
    """Options of SD3's autoencoder; see `PretrainedEncoderConfig`."""

    name: str = "vae"
    model: str = "stabilityai/stable-diffusion-3-medium-diffusers"
    input_size: int | None = 256
    normalize: bool | None = False


class VAE(_Named):
    """Frame -> means of an autoencoder's latents, times its scaling factor."""

    Config = VAEConfig
    kinds = ("AutoencoderKL",)
    subfolder = "vae"

    def opened(self, config: PretrainedEncoderConfig) -> Opened:
        found = super().opened(config)
        found.backbone.shift = 0.0  # upstream's
        return found


class RAEConfig(PretrainedEncoderConfig):
    """Options of RAE's encoder; see `PretrainedEncoderConfig`."""

    name: str = "rae"
    model: str = "facebook/dinov2-with-registers-base"
    input_size: int | None = 224
    normalize: bool | None = False


class RAE(_Named):
    """Frame -> patches of DINOv2 with registers."""

    Config = RAEConfig
    kinds = ("dinov2_with_registers",)


class WebSSLConfig(PretrainedEncoderConfig):
    """Options of Web-DINO; see `PretrainedEncoderConfig`."""

    name: str = "scale-rae-webssl"
    model: str = "facebook/webssl-dino300m-full2b-224"
    input_size: int | None = 224
    normalize: bool | None = False


class WebSSL(_Named):
    """Frame -> patches of Web-DINO."""

    Config = WebSSLConfig
    kinds = ("dinov2",)


class SigLIPConfig(PretrainedEncoderConfig):
    """Options of SigLIP 2 without its last norm; see `PretrainedEncoderConfig`."""

    name: str = "scale-rae-siglip"
    model: str = "google/siglip2-so400m-patch14-224"
    input_size: int | None = 224
    normalize: bool | None = False


class SigLIP(_Named):
    """Frame -> patches of SigLIP 2 before its last norm."""

    Config = SigLIPConfig
    kinds = ("siglip", "siglip_vision_model")

    def opened(self, config: PretrainedEncoderConfig) -> Opened:
        found = super().opened(config)
        last = [name for name, _ in found.backbone.net.named_modules() if name.rpartition(".")[2] == "post_layernorm"]
        if len(last) != 1:
            raise CheckpointError(f"encoder.model: {config.model} should have one post_layernorm, it has {len(last)}")
        owner, _, attribute = last[0].rpartition(".")
        setattr(found.backbone.net.get_submodule(owner), attribute, nn.Identity())
        return found


class QwenConfig(PretrainedEncoderConfig):
    """Options of Qwen2.5-VL's vision tower; see `PretrainedEncoderConfig`."""

    name: str = "qwen"
    model: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    input_size: int | None = 224
    normalize: bool | None = False


class _Unmerged(nn.Module):
    """The merger's norm alone; its groups of neighbours stay side by side."""

    def __init__(self, norm: nn.Module, group: int):
        super().__init__()
        self.norm, self.group = norm, group

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).view(len(x) // self.group, -1)


class _QwenBackbone(Backbone):
    """Frames are shown for as long as one patch lasts."""

    def forward(self, frames: Tensor) -> Tensor:
        config = self.net.config
        merge, last = config.spatial_merge_size, config.temporal_patch_size
        rows, columns = frames.shape[-2] // self.patch, frames.shape[-1] // self.patch
        clips = repeat(frames, "m c h w -> m t c h w", t=last)
        patches = rearrange(clips, "m t c (h a p) (w b q) -> (m h w a b) (c t p q)", h=rows // merge, a=merge,
                            w=columns // merge, b=merge)
        grid = torch.tensor([[1, rows, columns]], device=frames.device).expand(len(frames), -1)
        out = self.net(patches, grid_thw=grid)
        out = getattr(out, "pooler_output", out)  # a plain tensor in earlier transformers
        return rearrange(out, "(m h w) (a b d) -> m (h a w b) d", m=len(frames), h=rows // merge, a=merge, b=merge)


class Qwen(_Named):
    """Frame -> patches of Qwen2.5-VL's vision tower, before they are merged.

    Raises:
        ConfigError: patches cannot be put together by fours.
    """

    Config = QwenConfig
    kinds = ("qwen2_5_vl",)

    def opened(self, config: PretrainedEncoderConfig) -> Opened:
        folder = find_model(config.model)
        facts = refuse_others(folder, self.kinds, config.name)
        transformers = import_transformers("vision", f"encoder.model {folder}")
        try:
            options = transformers.Qwen2_5_VLVisionConfig(**facts["vision_config"])
            net = transformers.Qwen2_5_VisionTransformerPretrainedModel._from_config(options,
                                                                                     attn_implementation="sdpa")
        except (AttributeError, ImportError, KeyError, TypeError) as error:
            raise CheckpointError(f"encoder.model: no vision tower can be made of {folder}/config.json by transformers "
                                  f"{transformers.__version__}: {type(error).__name__}: {error}") from error
        fill_from(net, weights_under(folder, ("visual.", "model.visual.")), str(folder))
        side = net.config.patch_size * net.config.spatial_merge_size
        if any(length % side for length in self.size):
            raise ConfigError(f"encoder 'qwen' puts patches together by {net.config.spatial_merge_size} x "
                              f"{net.config.spatial_merge_size}: {self.size[0]} x {self.size[1]} pixels are no "
                              f"multiple of {side}; give encoder.input_size, for example {8 * side}")
        net.merger = _Unmerged(net.merger.ln_q, net.config.spatial_merge_size**2)
        backbone = _QwenBackbone(net, net.config.patch_size, net.config.hidden_size)
        return Opened(backbone, *statistics(folder, _CLIP), False)


def weights_under(folder: Path, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Tensors of a folder's safetensors whose names begin with one of these, without it.

    Raises:
        CheckpointError: there are no safetensors, they cannot be read, or none is called so.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, Tensor] = {}
    files = sorted(folder.glob("*.safetensors"))
    try:
        for file in files:
            with safe_open(file, framework="pt") as stored:
                for key in stored.keys():  # noqa: SIM118 - no mapping
                    prefix = next((p for p in prefixes if key.startswith(p)), None)
                    if prefix is not None:
                        found[key.removeprefix(prefix)] = stored.get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"encoder.model: cannot read the safetensors in {folder}: {error}") from error
    if not found:
        raise CheckpointError(f"encoder.model: {folder} has no weights called {' or '.join(p + '*' for p in prefixes)} "
                              f"in {', '.join(f.name for f in files) or 'safetensors, of which there are none'}")
    return found


def fill_from(net: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Every weight of a network from a state dict of the same names.

    Raises:
        CheckpointError: some are missing, unknown or of another size.
    """
    own = net.state_dict()
    wrong = [f"lacks {key}" for key in own if key not in state]
    wrong += [f"{key} is {list(value.shape)} and not {list(own[key].shape)}" for key, value in state.items()
              if key in own and own[key].shape != value.shape]
    wrong += [f"holds {key}, which has no place" for key in state if key not in own]
    if wrong:
        raise CheckpointError(f"encoder.model: {where} does not fit: {'; '.join(wrong[:3])}"
                              f"{f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''}")
    net.load_state_dict(state)


class CosmosConfig(PretrainedEncoderConfig):
    """Options of Cosmos' image tokenizer; see `PretrainedEncoderConfig`."""

    name: str = "cosmos"
    model: str = "nvidia/Cosmos-0.1-Tokenizer-CI16x16"
    input_size: int | None = 256
    normalize: bool | None = False


class _MapBackbone(Backbone):
    """A network that gives maps, or a tuple that begins with them; of these the first ``dim`` channels."""

    def forward(self, frames: Tensor) -> Tensor:
        out = self.net(frames)
        out = out[0] if isinstance(out, (tuple, list)) else out
        return rearrange(out[:, : self.dim], "m c h w -> m (h w) c")


class Cosmos(_Named):
    """Frame -> the map of a TorchScript encoder; colours in [-1, 1]."""

    Config = CosmosConfig

    def opened(self, config: PretrainedEncoderConfig) -> Opened:
        name = "encoder.jit"
        folder = find_model(config.model, file=name, files=[name], wanted=f"{name}: -o encoder.model=/path/to/cosmos")
        try:
            net = torch.jit.load(folder / name, map_location="cpu").float().eval()
            with torch.no_grad():
                seen = net(torch.zeros(1, 3, *self.size))
            seen = seen[0] if isinstance(seen, (tuple, list)) else seen
        except Exception as error:  # the program's own errors, too
            raise CheckpointError(f"encoder.model: {folder / name} cannot be run on pictures of {self.size[0]} x "
                                  f"{self.size[1]}: {type(error).__name__}: {error}") from error
        return Opened(_MapBackbone(net, self.size[0] // seen.shape[-2], seen.shape[1]), *map(list, _HALF), False)


class VAVAEConfig(PretrainedEncoderConfig):
    """Options of VA-VAE; see `PretrainedEncoderConfig`. ``model`` may be the ``.pt`` file itself."""

    name: str = "vavae"
    model: str = "hustvl/vavae-imagenet256-f16d32-dinov2"
    input_size: int | None = 256
    normalize: bool | None = False


_LDM = (
    (r"^encoder\.down\.(\d+)\.block\.(\d+)\.", r"0.levels.\1.blocks.\2."),
    (r"^encoder\.down\.(\d+)\.attn\.(\d+)\.", r"0.levels.\1.attentions.\2."),
    (r"^encoder\.down\.(\d+)\.downsample\.conv\.", r"0.levels.\1.conv."),
    (r"^encoder\.mid\.block_(\d)\.", r"0.middle.block\1."), (r"^encoder\.mid\.attn_1\.", "0.middle.attention."),
    (r"^encoder\.norm_out\.", "0.out.norm."), (r"^encoder\.conv_out\.", "0.out.conv."),
    (r"^encoder\.conv_in\.", "0.conv_in."), (r"^quant_conv\.", "1."), (r"nin_shortcut", "shortcut"),
    (r"proj_out", "proj"),
)
"""Names of latent diffusion's autoencoders -> ours."""


class VAVAE(_Named):
    """Frame -> means of VA-VAE's latents, of a diffusers folder or the published file (latent diffusion's names)."""

    Config = VAVAEConfig
    kinds = ("AutoencoderKL",)

    def opened(self, config: PretrainedEncoderConfig) -> Opened:
        path = Path(config.model).expanduser()
        if not path.is_file():
            if (path / "config.json").is_file():
                return super().opened(config)
            folder = find_model(config.model, file="*.pt", files=["*.pt"],
                                wanted="config.json and safetensors, or a .pt file: -o encoder.model=/path/to/vavae.pt")
            path = sorted(folder.glob("*.pt"))[0]
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for damaged files
            raise CheckpointError(f"encoder.model: {path} cannot be read as weights: {type(error).__name__}: {error}"
                                  ) from error
        state = stored.get("state_dict", stored) if isinstance(stored, Mapping) else {}
        net, patch, dim = _ldm_encoder(state, path, max(self.size))
        return Opened(_MapBackbone(net, patch, dim), *map(list, _HALF), False)


def _ldm_encoder(state: Mapping[str, Any], path: Path, side: int) -> tuple[nn.Module, int, int]:
    """Encoder and ``quant_conv`` of an autoencoder of latent diffusion: network, patch side, channels of the means."""
    kept = {key: value for key, value in state.items() if key.startswith(("encoder.", "quant_conv."))}
    levels = 1 + max((int(m[1]) for key in kept if (m := re.match(r"encoder\.down\.(\d+)\.", key))), default=-1)
    if not levels or "quant_conv.weight" not in kept or "encoder.conv_in.weight" not in kept:
        raise CheckpointError(f"encoder.model: {path} holds no autoencoder of latent diffusion's names (encoder.conv_in"
                              ".*, encoder.down.*, quant_conv.*), but "
                              f"{', '.join(map(str, list(state)[:4])) or 'nothing'}")
    channels = kept["encoder.conv_in.weight"].shape[0]
    widths = [kept[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
    blocks = 1 + max(int(m[1]) for key in kept if (m := re.match(r"encoder\.down\.0\.block\.(\d+)\.", key)))
    attend = tuple(side // 2**i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in kept)
    config = StackConfig(name="vavae", channels=channels, multipliers=tuple(w // channels for w in widths),
                         num_blocks=blocks, attention=attend, map_channels=kept["encoder.conv_out.weight"].shape[0],
                         groups=32 if channels % 32 == 0 else channels)
    quant = kept["quant_conv.weight"]
    net = nn.Sequential(DownStack(config, 3, side), nn.Conv2d(quant.shape[1], quant.shape[0], 1))
    ours: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    for key, value in kept.items():
        name = key
        for pattern, into in _LDM:
            name = re.sub(pattern, into, name)
        if (m := re.match(r"(.*attention(?:s\.\d+)?\.)([qkv])\.(\w+)$", name)) is not None:
            thirds.setdefault(f"{m[1]}qkv.{m[3]}", {})[m[2]] = value.flatten(1) if value.ndim == 4 else value
            continue
        ours[name] = value.flatten(1) if name.endswith("proj.weight") else value
    ours |= {name: torch.cat([parts[part] for part in "qkv"]) for name, parts in thirds.items() if len(parts) == 3}
    fill_from(net, ours, str(path))
    return net, 2 ** (levels - 1), quant.shape[0] // 2


NAMED: dict[str, type[_Named]] = {"vae": VAE, "rae": RAE, "scale-rae-siglip": SigLIP, "scale-rae-webssl": WebSSL,
                                  "qwen": Qwen, "vavae": VAVAE}
"""Name -> class, of those that tell models apart by their ``config.json``."""
