"""Frozen pretrained vision models as encoders: DINOv2, DINOv3, SigLIP 2, V-JEPA 2 and SD-style autoencoders.

Those of single papers go by names of their own, see `worldkit.encoders.published`.

A frame's tokens are the model's patch features (its CLS and register tokens are left out), or the places of the
autoencoder's latent map (posterior mean times its scaling factor). They are points, not distributions: the model is
never trained, so dynamics and decoder learn on fixed features. V-JEPA 2, a video model, sees every frame alone,
repeated to fill its shortest clip, so that no token knows the future.

Only safetensors are read, and only by classes named below, so that a model folder cannot run code. The frozen weights
and the normalisation are part of the state dict: a saved worldkit model gives the same numbers whatever happens to the
folder's weights. Its architecture is still read from there, so ``encoder.model`` must be found at loading, too.

Needs the extra ``vision`` (transformers, diffusers). Left out: DINOv3's ConvNeXt, text towers, quantised models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from pydantic import Field
from torch import Tensor, nn

from ..compat import import_transformers
from ..config import ComponentConfig, ObsSpec
from ..distributions import Delta, Sampler, full_precision
from ..errors import CheckpointError, ConfigError, MissingExtraError, require_extra
from ..latents import Field as LatentField
from ..latents import LatentDist, LatentSpec, TokenGroup
from .base import Encoder, Encoding

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of colours."""
_FRAMES_AT_ONCE = 32
_FILES = ["config.json", "*preprocessor_config.json", "model.safetensors", "model-*-of-*.safetensors",
          "diffusion_pytorch_model.safetensors", "model.safetensors.index.json"]


class PretrainedEncoderConfig(ComponentConfig):
    """Options of pretrained encoders.

    Attributes:
        model: Local folder with ``config.json`` and safetensors, or a hub id (``"facebook/dinov2-small"``, with
            ``@revision`` if wanted).
        input_size: Side in pixels that frames are resized to, whatever their shape; None: as they are. The model's
            patch size must divide it.
        normalize: Bring every token to mean 0 and variance 1 over its features. None: yes for features, no for
            autoencoders, whose scaled latents have about unit variance already.
    """

    name: str = "pretrained"
    model: str
    input_size: int | None = Field(default=None, gt=0)
    normalize: bool | None = None


@dataclass(frozen=True)
class Opened:
    """Attributes:
        backbone: The frozen network.
        mean, std: Of colours in [0, 1].
        normalize: What ``PretrainedEncoderConfig.normalize`` is where it was not given.
    """

    backbone: Backbone
    mean: list[float]
    std: list[float]
    normalize: bool


class PretrainedEncoder(Encoder):
    r"""Frame -> frozen features on a grid. Views are put side by side in one group, view-major.

    Example::

        worldkit train dvae-sketchy --data clips/ -o encoder.name=pretrained \
            -o encoder.model=/models/dinov2-small -o encoder.input_size=224
    """

    Config = PretrainedEncoderConfig
    default_decoder = "patch"
    comes_trained = True
    config: PretrainedEncoderConfig

    def __init__(self, config: PretrainedEncoderConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        if obs.channels != 3:
            raise ConfigError(f"encoder '{config.name}' needs images of 3 channels, got obs.channels {obs.channels}")
        self.size = (config.input_size or obs.height, config.input_size or obs.width)
        with torch.device("cpu"):  # also where the rest of a model is built without memory
            opened = self.opened(config)
        self.backbone = opened.backbone.float().requires_grad_(False).eval()
        patch = self.backbone.patch
        if self.size[0] % patch or self.size[1] % patch:
            raise ConfigError(
                f"{config.model} has patches of {patch} pixels, which do not divide {self.size[0]} x {self.size[1]}; "
                f"give encoder.input_size, for example {max(1, round(self.size[0] / patch)) * patch}"
            )
        self.normalize = opened.normalize if config.normalize is None else config.normalize
        self.register_buffer("mean", torch.tensor(opened.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(opened.std)[:, None, None])
        grid = (self.size[0] // patch, self.size[1] // patch)
        features = LatentField("features", self.backbone.dim, Delta(), "frozen features")
        group = TokenGroup("patches", obs.views * grid[0] * grid[1], (features,))
        self.spec = LatentSpec((group,), grid=grid, views=obs.views, kind="patches")

    def opened(self, config: PretrainedEncoderConfig) -> Opened:
        """The model behind ``config.model``, for frames of ``self.size``."""
        folder = find_model(config.model)
        family = _family(read_json(folder / "config.json"), folder)
        return Opened(family.load(family, folder, self.size), *statistics(folder, family.statistics), family.normalize)

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """The frozen model stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    @torch.no_grad()
    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        frames = self.fold_frames(video)
        if frames.shape[-2:] != self.size:
            frames = F.interpolate(frames, self.size, mode="bilinear", antialias=True)
        frames = (frames - self.mean) / self.std
        tokens = torch.cat([full_precision(self.backbone(part)) for part in frames.split(_FRAMES_AT_ONCE)])
        if self.normalize:
            tokens = F.layer_norm(tokens, tokens.shape[-1:])
        tokens = rearrange(tokens, "(b v t) n d -> b t (v n) d", v=self.obs.views, t=video.shape[-4])
        posterior = LatentDist(self.spec, {("patches", "features"): tokens})
        return Encoding(posterior, posterior.sample(sampler))


# ---------------------------------------------------------------------------------------------------- the models


class Backbone(nn.Module):
    """A frozen network with its patch side and feature width; normalised frames ``[M, 3, h, w]`` -> ``[M, N, dim]``."""

    def __init__(self, net: nn.Module, patch: int, dim: int):
        super().__init__()
        self.net, self.patch, self.dim = net, patch, dim


class _DINO(Backbone):
    """DINOv2 and DINOv3; the first tokens are CLS and registers."""

    def forward(self, frames: Tensor) -> Tensor:
        first = 1 + getattr(self.net.config, "num_register_tokens", 0)
        return self.net(pixel_values=frames).last_hidden_state[:, first:]


class _SigLIP(Backbone):
    """SigLIP, and the SigLIP 2 models of fixed resolution, which have its architecture."""

    def forward(self, frames: Tensor) -> Tensor:
        return self.net(pixel_values=frames, interpolate_pos_encoding=True).last_hidden_state


class _SigLIP2(Backbone):
    """SigLIP 2 of free resolution (NaFlex): takes patches, and their grid."""

    def forward(self, frames: Tensor) -> Tensor:
        rows, columns = frames.shape[-2] // self.patch, frames.shape[-1] // self.patch
        patches = rearrange(frames, "m c (h p) (w q) -> m (h w) (p q c)", h=rows, w=columns)
        mask = torch.ones(patches.shape[:2], dtype=torch.long, device=frames.device)
        shapes = torch.tensor([[rows, columns]], device=frames.device).expand(len(frames), -1)
        return self.net(patches, pixel_attention_mask=mask, spatial_shapes=shapes).last_hidden_state


class _VJEPA2(Backbone):
    """The encoder of V-JEPA 2 on clips that show one frame for as long as one token lasts."""

    def __init__(self, net: nn.Module, patch: int, dim: int, *, frames: int):
        super().__init__(net, patch, dim)
        self.frames = frames

    def forward(self, frames: Tensor) -> Tensor:
        clips = repeat(frames, "m c h w -> m t c h w", t=self.frames)
        return self.net(pixel_values_videos=clips).last_hidden_state


class _Autoencoder(Backbone):
    """The encoding half of a diffusers `AutoencoderKL`."""

    def __init__(self, net: nn.Module, patch: int, dim: int, *, scale: float, shift: float):
        super().__init__(net, patch, dim)
        self.scale, self.shift = scale, shift

    def forward(self, frames: Tensor) -> Tensor:
        mean = self.net(frames)[:, : self.dim]  # the other half are log-variances
        return rearrange((mean - self.shift) * self.scale, "m c h w -> m (h w) c")


@dataclass(frozen=True)
class _Family:
    """How models of one kind are loaded; ``statistics`` (mean, std of colours) serve where the folder gives none."""

    load: Callable[[_Family, Path, tuple[int, int]], Backbone]
    architecture: str
    statistics: Statistics = _IMAGENET
    normalize: bool = True
    wrapper: type[Backbone] = _DINO


def _load_image_model(family: _Family, folder: Path, size: tuple[int, int]) -> Backbone:
    options = {} if family.wrapper is _DINO else {"vision_use_head": False}  # SigLIP's pooling is of no use here
    net = _load_transformer(family.architecture, folder, **options)
    return family.wrapper(net, net.config.patch_size, net.config.hidden_size)


def _load_vjepa2(family: _Family, folder: Path, size: tuple[int, int]) -> Backbone:
    if size[0] != size[1]:
        raise ConfigError(f"V-JEPA 2 takes square images, got {size[0]} x {size[1]}; give encoder.input_size")
    # It counts rows and columns of patches by the configured image size, so that must be the real one.
    net = _load_transformer(family.architecture, folder, crop_size=size[0])
    config = net.config
    return _VJEPA2(net.encoder, config.patch_size, config.hidden_size, frames=config.tubelet_size)


def _load_autoencoder(family: _Family, folder: Path, size: tuple[int, int]) -> Backbone:
    import_transformers("vision", f"encoder.model {folder}")  # diffusers imports it
    diffusers = require_extra("diffusers", "vision", f"encoder.model {folder}")
    vae = _load(diffusers, family.architecture, folder)
    net = nn.Sequential(vae.encoder, nn.Identity() if vae.quant_conv is None else vae.quant_conv)
    config = vae.config
    return _Autoencoder(net, 2 ** (len(config.block_out_channels) - 1), config.latent_channels,
                        scale=config.scaling_factor, shift=config.get("shift_factor") or 0.0)


_FAMILIES = {
    "dinov2": _Family(_load_image_model, "Dinov2Model"),
    "dinov2_with_registers": _Family(_load_image_model, "Dinov2WithRegistersModel"),
    "dinov3_vit": _Family(_load_image_model, "DINOv3ViTModel"),
    "siglip": _Family(_load_image_model, "SiglipVisionModel", _HALF, wrapper=_SigLIP),
    "siglip_vision_model": _Family(_load_image_model, "SiglipVisionModel", _HALF, wrapper=_SigLIP),
    "siglip2": _Family(_load_image_model, "Siglip2VisionModel", _HALF, wrapper=_SigLIP2),
    "siglip2_vision_model": _Family(_load_image_model, "Siglip2VisionModel", _HALF, wrapper=_SigLIP2),
    "vjepa2": _Family(_load_vjepa2, "VJEPA2Model"),
    "AutoencoderKL": _Family(_load_autoencoder, "AutoencoderKL", _HALF, normalize=False),
}
"""By ``model_type`` (transformers) or ``_class_name`` (diffusers) of ``config.json``."""


# ---------------------------------------------------------------------------------------------------- files


def find_model(model: str, *, subfolder: str = "", file: str = "config.json", files: Sequence[str] = _FILES,
               wanted: str = "config.json and model.safetensors: -o encoder.model=/path/to/dinov2-small") -> Path:
    """Local folder behind a folder's path or a hub id.

    Args:
        model: The path, or the id.
        subfolder: Where the model lies inside, unless ``file`` is in the folder itself.
        file: What must be there (a shell-style pattern).
        files: What is fetched from the hub.
        wanted: What to give, in words.
    Raises:
        CheckpointError: there is no such folder, the hub does not give it, or it lacks ``file``.
    """
    folder, wanted = Path(model).expanduser(), f"Give a folder that holds {wanted}"
    if folder.is_dir():
        places = (folder, folder / subfolder)
        found = next((place for place in places if any(place.glob(file))), None)
        if found is None:
            raise CheckpointError(f"encoder.model: {folder} has no {file}. {wanted}")
        return found
    name, _, revision = model.partition("@")
    if name.count("/") != 1 or model[0] in "/.~":
        raise CheckpointError(f"encoder.model: there is no folder '{model}', and it is no hub id. {wanted}")
    from huggingface_hub import snapshot_download

    try:
        inside = [f"{subfolder}/{name}" for name in files] if subfolder else list(files)
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=inside))
    except Exception as error:  # many kinds: offline, private, misspelt; all mean that there is no model to load
        raise CheckpointError(
            f"encoder.model: cannot get '{model}' from the hub ({type(error).__name__}: {error}).\nOffline? {wanted}, "
            f"with the files of https://huggingface.co/{name}"
        ) from error
    return folder / subfolder if (folder / subfolder).is_dir() else folder


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"encoder.model: cannot read {path}: {type(error).__name__}: {error}") from error


def _family(facts: dict[str, Any], folder: Path) -> _Family:
    kind = facts.get("_class_name") or facts.get("model_type")
    if kind not in _FAMILIES:
        raise CheckpointError(
            f"encoder.model: {folder} holds a model of type '{kind}'; types that can be used: {', '.join(_FAMILIES)}"
        )
    return _FAMILIES[kind]


def statistics(folder: Path, otherwise: Statistics) -> tuple[list[float], list[float]]:
    """Mean and deviation of colours in [0, 1] that the model was trained with."""
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        if (folder / name).is_file():
            facts = read_json(folder / name)
            if "image_mean" in facts and "image_std" in facts:
                return facts["image_mean"], facts["image_std"]
    return list(otherwise[0]), list(otherwise[1])


def _load_transformer(architecture: str, folder: Path, **options: Any) -> nn.Module:
    transformers = import_transformers("vision", f"encoder.model {folder}")
    return _load(transformers, architecture, folder, attn_implementation="sdpa", **options)


def _load(library: Any, architecture: str, folder: Path, **options: Any) -> Any:
    """A model from local safetensors, every weight of it."""
    try:
        loader = getattr(library, architecture)
    except (AttributeError, ImportError) as error:
        raise MissingExtraError(
            f"{library.__name__} {library.__version__} has no {architecture}: pip install -U {library.__name__}"
        ) from error
    logging = library.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # no report of heads left out on purpose; missing weights are an error below
    try:
        with torch.device("cpu"):
            net, report = loader.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
            )
    except Exception as error:  # the libraries raise many kinds for missing, damaged and misfit files
        raise CheckpointError(
            f"encoder.model: {folder} cannot be loaded as {architecture} from safetensors: "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        raise CheckpointError(
            f"encoder.model: the safetensors in {folder} lack {len(names)} weights of {architecture}: "
            f"{', '.join(names[:3])}"
        )
    return net
