"""LPIPS with VGG16: a measure of how different two images look, and LPWM's reconstruction loss; DDLP's, too.

The network is written out here, so that it needs neither torchvision nor piqa and can be a training loss: it runs in
channels-last layout, in chunks on a CPU, and only the second image receives a gradient. Its weights come from two
official files that worldkit neither ships nor writes into checkpoints. AlexNet and SqueezeNet variants are left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from ..batch import check_shape
from ..errors import CheckpointError, ShapeError
from ..files import no_torch_file, reason

BACKBONE_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
"""torchvision's VGG16 trained on ImageNet (IMAGENET1K_V1)."""

HEADS_URL = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth"
"""Linear heads of LPIPS v0.1 for VGG16; the same file lies in the PyPI package ``lpips`` as weights/v0.1/vgg.pth."""

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Convolution widths of VGG16. LPIPS compares the last activation of each block: relu1_2, 2_2, 3_3, 4_3, 5_3."""

SQUARED_TAPS = (1, 3, 5, 9)
"""Convolutions whose activation DDLP's loss compares, counted from 0: relu1_2, 2_2, 3_2, 4_3; pool5 comes on top."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CPU_LIMIT = 32 * 2**20  # bytes per activation: above, glibc hands pages back to the system after every use


class VGGPerceptual(nn.Module):
    r"""LPIPS distance with VGG16 features.

    .. math:: d(x, y) = \sum_l \frac{1}{H_l W_l} \sum_{h, w} w_l^\top
        \left( \frac{\phi_l(x)}{\|\phi_l(x)\|} - \frac{\phi_l(y)}{\|\phi_l(y)\|} \right)^2

    The first argument (the data) is treated as a constant: gradients reach ``y`` only. The weights are frozen, and do
    not appear in ``state_dict()``: a model that trains with this loss saves checkpoints without them, and gets them
    from the files again.

    Args:
        backbone: State dict of torchvision's ``vgg16``: ``features.N.weight``, ``features.N.bias``. Other keys (the
            classifier) are ignored.
        heads: State dict of the official LPIPS heads: ``lin{k}.model.1.weight``, ``[1, C_k, 1, 1]``, k = 0 .. 4.
    Raises:
        CheckpointError: if a tensor is missing or has the wrong shape.
    Source:
        Zhang et al. 2018; richzhang/PerceptualSimilarity v0.1. Upstream lpwm, eval/lpips @ 4cf53c4, is the same
        network. Its scaling layer, (2x - 1 - shift) / scale, equals the ImageNet normalisation of x in [0, 1] used
        here. One difference: the norm is `torch.linalg.vector_norm`, whose gradient at an all-zero feature is 0, not
        NaN.
    Example:
        >>> network = VGGPerceptual(*random_state_dicts())
        >>> network(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)).shape
        torch.Size([2])
    """

    def __init__(self, backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor]):
        super().__init__()
        self.convolutions: list[list[str]] = []  # per block: prefixes of the parameter names
        index, width = 0, 3
        for block in BLOCKS:
            names = []
            for out in block:
                source, name = f"features.{index}", f"conv{index}"
                self._freeze(f"{name}_weight", _take(backbone, f"{source}.weight", (out, width, 3, 3), "backbone"))
                self._freeze(f"{name}_bias", _take(backbone, f"{source}.bias", (out,), "backbone"))
                names.append(name)
                index, width = index + 2, out  # a ReLU follows each convolution
            self.convolutions.append(names)
            index += 1  # the pooling between blocks
        for k, block in enumerate(BLOCKS):
            weight = _take(heads, f"lin{k}.model.1.weight", (1, block[-1], 1, 1), "heads")
            self._freeze(f"head{k}", weight.flatten())
        self._freeze("mean", torch.tensor(_MEAN))
        self._freeze("std", torch.tensor(_STD))

    def _freeze(self, name: str, value: Tensor) -> None:
        # Parameters, not buffers: DDP broadcasts buffers at every step.
        value = value.detach().to(torch.float32, copy=True)
        if value.ndim == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Nothing: the weights stay in their own files."""

    def _load_from_state_dict(self, *args: Any) -> None:
        """Nothing, see `_save_to_state_dict`."""

    @classmethod
    def from_files(cls, backbone: str | os.PathLike[str], heads: str | os.PathLike[str]) -> VGGPerceptual:
        """Network with the weights of two local files, read with ``weights_only=True``.

        Args:
            backbone: torchvision's VGG16, for example ``vgg16-397923af.pth``.
            heads: LPIPS heads v0.1 for VGG16, ``vgg.pth``.
        Raises:
            CheckpointError: if a file is missing, damaged or holds something else.
        """
        return cls(_read(Path(backbone), "backbone", BACKBONE_URL), _read(Path(heads), "heads", HEADS_URL))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of each pair of images.

        Args:
            x: Images, ``[B, 3, H, W]``, in [0, 1] (not checked: this runs in the training step); H, W >= 16. Constant.
            y: Images of the same shape and range; receives the gradient.
        Returns:
            Distance >= 0, ``[B]``.
        Raises:
            ShapeError: if the shapes differ, or the images are smaller than 16 pixels.
        """
        return self._in_chunks(self._distance, x, y, smallest=16)

    def squared_features(self, x: Tensor, y: Tensor) -> Tensor:
        """Summed squared differences of raw activations (`SQUARED_TAPS` and pool5): part of DDLP's loss.

        Args:
            x: Images, ``[B, 3, H, W]``, in [0, 1]; H, W >= 32. Constant.
            y: Images of the same shape and range; receives the gradient.
        Returns:
            One sum per pair, ``[B]``.
        Raises:
            ShapeError: if the shapes differ, or the images are smaller than 32 pixels.
        Source:
            github.com/taldatech/ddlp @ 5686275, written from its description. Upstream names the taps by the
            convolutions; torchvision's ReLUs work in place, so that it compares their outputs.
        """
        return self._in_chunks(self._squares, x, y, smallest=32)

    def _in_chunks(
        self, distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, *, smallest: int
    ) -> Tensor:
        sizes = check_shape(x, "b c h w", name="x", c=3)
        check_shape(y, "b c h w", name="y", **sizes)
        if min(sizes["h"], sizes["w"]) < smallest:
            what = "LPIPS" if distance == self._distance else "the VGG loss of DDLP"
            raise ShapeError(f"{what} needs images of at least {smallest} x {smallest} pixels, got {sizes['h']} x "
                             f"{sizes['w']}")
        chunk = max(1, sizes["b"])
        if x.device.type == "cpu":
            chunk = max(1, _CPU_LIMIT // (4 * BLOCKS[0][0] * sizes["h"] * sizes["w"]))
        parts = zip(x.split(chunk), y.split(chunk), strict=True)
        return torch.cat([distance(a, b) for a, b in parts])

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            constants = self._features(x)
        total = torch.zeros(x.shape[0], device=y.device)
        for k, (fx, fy) in enumerate(zip(constants, self._features(y), strict=True)):
            weighted = torch.einsum("bchw,c->bhw", (fx - fy).square(), getattr(self, f"head{k}"))
            total = total + reduce(weighted, "b h w -> b", "mean")
        return total

    def _squares(self, x: Tensor, y: Tensor) -> Tensor:
        def taps(image: Tensor) -> list[Tensor]:
            activations = self._activations(image)
            return [*(activations[i] for i in SQUARED_TAPS), F.max_pool2d(activations[-1], 2)]

        with torch.no_grad():
            constants = taps(x)
        return sum(reduce((a - b).square(), "b c h w -> b", "sum") for a, b in zip(constants, taps(y), strict=True))

    def _activations(self, image: Tensor) -> list[Tensor]:
        """What every convolution and its ReLU give, ``[B, C, H_k, W_k]`` each."""
        mean, std = rearrange(self.mean, "c -> c 1 1"), rearrange(self.std, "c -> c 1 1")
        hidden = ((image.to(mean.dtype) - mean) / std).contiguous(memory_format=torch.channels_last)
        activations = []
        for k, names in enumerate(self.convolutions):
            if k > 0:
                hidden = F.max_pool2d(hidden, 2)
            for name in names:
                weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
                hidden = F.relu(F.conv2d(hidden, weight, bias, padding=1))
                activations.append(hidden)
        return activations

    def _features(self, image: Tensor) -> list[Tensor]:
        """Activations after each block with unit length over channels, ``[B, C_k, H_k, W_k]``."""
        activations, features, last = self._activations(image), [], -1
        for names in self.convolutions:
            last += len(names)
            length = torch.linalg.vector_norm(activations[last], dim=1, keepdim=True)
            features.append(activations[last] / (length + 1e-10))
        return features


def load_lpips(
    backbone: str | os.PathLike[str] | None = None, heads: str | os.PathLike[str] | None = None
) -> VGGPerceptual:
    """The LPIPS network, from local files or from the official addresses.

    Args:
        backbone: File with torchvision's VGG16 weights. ``None``: torch's download cache, else `BACKBONE_URL`.
        heads: File with the LPIPS heads v0.1 for VGG16. ``None``: torch's download cache, else `HEADS_URL`.
    Returns:
        The network, in float32 on the CPU.
    Raises:
        CheckpointError: if a file is missing or wrong, or cannot be downloaded; names the file, its address and the
            argument to pass.
    """
    return VGGPerceptual(
        _read(Path(backbone), "backbone", BACKBONE_URL) if backbone is not None else _fetch("backbone", BACKBONE_URL),
        _read(Path(heads), "heads", HEADS_URL) if heads is not None else _fetch("heads", HEADS_URL),
    )


def random_state_dicts(seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random (backbone, heads) of the right shapes, for tests without downloads. Distances with them mean nothing.

    Example:
        >>> backbone, heads = random_state_dicts()
        >>> heads["lin4.model.1.weight"].shape
        torch.Size([1, 512, 1, 1])
    """
    generator = torch.Generator().manual_seed(seed)
    backbone, heads, index, width = {}, {}, 0, 3
    for k, block in enumerate(BLOCKS):
        for out in block:
            noise = torch.randn(out, width, 3, 3, generator=generator)
            backbone[f"features.{index}.weight"] = noise * (2 / (9 * width)) ** 0.5
            backbone[f"features.{index}.bias"] = torch.randn(out, generator=generator) * 0.05
            index, width = index + 2, out
        index += 1
        heads[f"lin{k}.model.1.weight"] = torch.rand(1, block[-1], 1, 1, generator=generator)
    return backbone, heads


def _take(state: Mapping[str, Tensor], key: str, shape: tuple[int, ...], which: str) -> Tensor:
    if key not in state:
        have = ", ".join(list(state)[:4]) or "nothing"
        raise CheckpointError(f"the LPIPS {which} has no tensor '{key}' (it holds {have}, ...); {_advice(which)}")
    if tuple(state[key].shape) != shape:
        found = list(state[key].shape)
        raise CheckpointError(f"'{key}' of the LPIPS {which} must be {list(shape)}, got {found}; {_advice(which)}")
    return state[key]


def _advice(which: str) -> str:
    url = BACKBONE_URL if which == "backbone" else HEADS_URL
    return (
        f"download {url} and name both files of LPIPS: worldkit train -o train.vgg_backbone=FILE -o "
        "train.lpips_heads=FILE, worldkit eval --lpips-backbone FILE --lpips-heads FILE, or load_lpips(backbone, heads)"
    )


def _read(path: Path, which: str, url: str) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"the LPIPS {which} file {path} does not exist; {_advice(which)}")
    try:
        if other := no_torch_file(path):
            raise ValueError(other)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or unsafe file
        cause = reason(error)
        raise CheckpointError(f"the LPIPS {which} file {path} cannot be read ({cause}); {_advice(which)}") from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not the LPIPS {which} state dict from {url}")
    return state


def _fetch(which: str, url: str) -> Mapping[str, Tensor]:
    """Official weights by way of torch's download cache. LPIPS heads get a name of their own there."""
    name = "vgg16-397923af.pth" if which == "backbone" else "lpips-v0.1-vgg.pth"
    cached = Path(torch.hub.get_dir(), "checkpoints", name)
    if not cached.is_file():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            prefix = "397923af" if which == "backbone" else None
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=prefix, progress=False)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
            raise CheckpointError(
                f"LPIPS needs its {which} ({name}), which is not in {cached.parent} and cannot be downloaded "
                f"({error}); on a computer with internet, {_advice(which)}"
            ) from error
    return _read(cached, which, url)
