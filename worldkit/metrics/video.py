"""Frechet distances between sets of videos (FVD) and images (FID), on the feature networks the field uses.

Both networks are TorchScript files that worldkit neither ships nor downloads by itself. Without them there is no FVD
and no FID, and nothing is put in their place: a distance on other features is another number. A TorchScript file is a
program. It runs no Python, but its operations run in this process, on data it is given: take the files from the
addresses below, or from somebody you trust.

A Frechet distance of few samples is far too high: the features have 400 (FVD) or 2048 (FID) numbers, and the papers
compare thousands of clips. Say the number of clips beside it; distances of different numbers cannot be compared.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..batch import check_shape, to_float_video
from ..errors import CheckpointError, ShapeError
from ..files import reason

I3D_URL = "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1"
"""I3D trained on Kinetics-400, converted from the TensorFlow model of the FVD paper by the authors of StyleGAN-V."""

INCEPTION_URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
)
"""Inception-v3 of the FID paper, as TorchScript, of StyleGAN2-ADA and its successors."""

Variant = Literal["stylegan-v", "lpwm"]
_I3D_SIDE, _MIN_FRAMES = 224, 10


class VideoFeatures:
    """Features of videos for FVD.

    Args:
        network: The I3D network; see `load_i3d`.
        variant: Both call the same network, and differ in what goes in and in the covariance:
            ``"stylegan-v"`` gives it uint8 frames, which it scales and resizes itself, and divides the covariance by n;
            ``"lpwm"`` (the LPWM paper's evaluation) resizes float frames to 224 pixels on the short side, cuts the
            centre, scales to [-1, 1], and divides by n - 1.
    """

    def __init__(self, network: torch.nn.Module, *, variant: Variant = "stylegan-v"):
        if variant not in ("stylegan-v", "lpwm"):
            raise ShapeError(f"variant must be 'stylegan-v' or 'lpwm', got {variant!r}")
        self.network, self.variant = network, variant

    @torch.no_grad()
    def __call__(self, video: Tensor, *, batch_size: int = 8) -> Tensor:
        """Features of clips.

        Args:
            video: ``[B, T, 3, H, W]``, uint8 or float in [0, 1]; at least 10 frames, which I3D needs.
            batch_size: Clips at a time.
        Returns:
            float64 ``[B, D]`` on the CPU.
        Raises:
            ShapeError: for other shapes, ranges or fewer frames.
        """
        frames = check_shape(video, "b t c h w", name="video", c=3)["t"]
        if frames < _MIN_FRAMES:
            raise ShapeError(f"FVD needs clips of at least {_MIN_FRAMES} frames, got {frames}: predict more frames")
        return torch.cat([self._features(part) for part in video.split(batch_size)])

    def _features(self, video: Tensor) -> Tensor:
        if self.variant == "stylegan-v":
            clips, own = rearrange(_to_uint8(video), "b t c h w -> b c t h w").contiguous(), True
        else:
            clips, own = _centre(to_float_video(video)), False
        features = self.network(clips, rescale=own, resize=own, return_features=True)
        return features.double().cpu()

    def distance(self, real: Tensor, generated: Tensor) -> float:
        """FVD of two sets of features, with the covariance of this variant."""
        return frechet_distance(real, generated, unbiased=self.variant == "lpwm")


class ImageFeatures:
    """Features of images for FID: uint8 frames into Inception-v3, which scales and resizes them itself.

    Args:
        network: The network; see `load_inception`.
    """

    def __init__(self, network: torch.nn.Module):
        self.network = network

    @torch.no_grad()
    def __call__(self, images: Tensor, *, batch_size: int = 32) -> Tensor:
        """Features of images ``[B, 3, H, W]``, uint8 or float in [0, 1]: float64 ``[B, D]`` on the CPU."""
        check_shape(images, "b c h w", name="images", c=3)
        parts = [self.network(_to_uint8(part), return_features=True) for part in images.split(batch_size)]
        return torch.cat([part.double().cpu() for part in parts])

    def distance(self, real: Tensor, generated: Tensor) -> float:
        """FID of two sets of features."""
        return frechet_distance(real, generated)


def fvd(real: Tensor, generated: Tensor, network: torch.nn.Module, *, variant: Variant = "stylegan-v") -> float:
    """Frechet video distance of two sets of clips; lower is better.

    Args:
        real: True clips, ``[n, T, 3, H, W]``, uint8 or float in [0, 1].
        generated: Generated clips, ``[m, T, 3, H, W]``, of the same length: I3D features depend on it.
        network: `load_i3d`.
        variant: See `VideoFeatures`.
    Raises:
        ShapeError: for other shapes or ranges, clips of different lengths, or fewer than two clips in a set.
    Source:
        Unterthiner et al. 2018; StyleGAN-V (Skorokhodov et al. 2022), src/metrics/frechet_video_distance.py.
    """
    check_shape(generated, "m t c h w", name="generated", t=check_shape(real, "n t c h w", name="real", c=3)["t"], c=3)
    features = VideoFeatures(network, variant=variant)
    return features.distance(features(real), features(generated))


def fid(real: Tensor, generated: Tensor, network: torch.nn.Module) -> float:
    """Frechet inception distance of two sets of images ``[n, 3, H, W]``, uint8 or float in [0, 1]; lower is better.

    Source:
        Heusel et al. 2017; the TorchScript network and the covariance (divided by n) of StyleGAN2-ADA.
    """
    features = ImageFeatures(network)
    return features.distance(features(real), features(generated))


def frechet_distance(real: Tensor, generated: Tensor, *, unbiased: bool = False) -> float:
    r"""Frechet distance of the Gaussians that fit two sets of features.

    .. math:: |\mu_1 - \mu_2|^2 + tr(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})

    The trace of the root is the sum of the singular values of :math:`X_1 X_2^\top`, X being the centred features over
    the root of n: no matrix root, exact also where there are fewer samples than features.

    Args:
        real: ``[n, D]``.
        generated: ``[m, D]``.
        unbiased: Divide the covariances by n - 1 instead of n.
    Raises:
        ShapeError: if the widths differ, a set has fewer than two rows, or a feature is not finite.
    Example:
        >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(x, x + 3.0), 6)
        36.0
    """
    width = check_shape(real, "n d", name="real features")["d"]
    check_shape(generated, "m d", name="generated features", d=width)
    means, centred, traces = [], [], []
    for features, name in ((real, "real"), (generated, "generated")):
        if len(features) < 2:
            raise ShapeError(f"a Frechet distance needs two samples or more, got {len(features)} {name}")
        if not features.isfinite().all():
            raise ShapeError(f"{name} features are NaN or infinite")
        mean = features.double().mean(0)
        rows = (features.double() - mean) / math.sqrt(len(features) - unbiased)
        means.append(mean)
        centred.append(rows)
        traces.append(rows.square().sum())
    root = torch.linalg.svdvals(centred[0] @ centred[1].T if width > min(len(real), len(generated)) else
                                _cross(*centred)).sum()
    return ((means[0] - means[1]).square().sum() + traces[0] + traces[1] - 2 * root).item()


def _cross(first: Tensor, second: Tensor) -> Tensor:
    """``D x D`` matrix with the singular values of ``first @ second.T``, for many more samples than features."""
    return torch.linalg.qr(first, "r").R @ torch.linalg.qr(second, "r").R.T


def load_i3d(path: str | os.PathLike[str] | None, *, device: torch.device | str = "cpu") -> torch.nn.Module:
    """The I3D network of FVD, ``i3d_torchscript.pt``.

    Args:
        path: The file, or ``hub:ORG/NAME/FILE`` of the Hugging Face hub.
        device: Where it runs.
    Raises:
        CheckpointError: without a path, or if the file is missing or no TorchScript; says where the field gets it.
    """
    return _load(path, "FVD", "i3d_torchscript.pt", I3D_URL, "--i3d", device)


def load_inception(path: str | os.PathLike[str] | None, *, device: torch.device | str = "cpu") -> torch.nn.Module:
    """The Inception-v3 network of FID, ``inception-2015-12-05.pt``; arguments and errors as for `load_i3d`."""
    return _load(path, "FID", "inception-2015-12-05.pt", INCEPTION_URL, "--inception", device)


def _load(
    path: str | os.PathLike[str] | None, metric: str, name: str, url: str, option: str, device: torch.device | str
) -> torch.nn.Module:
    advice = f"Download {url} and pass it: {option} {name} (in Python: path='{name}')"
    if path is None:
        raise CheckpointError(f"{metric} needs the feature network {name}, and none was given. {advice}")
    file = _hub_file(str(path), metric, advice) if str(path).startswith("hub:") else Path(path).expanduser()
    if not file.is_file():
        raise CheckpointError(f"{metric} needs the feature network {name}: {file} is no file. {advice}")
    try:
        return torch.jit.load(str(file), map_location=device).eval()
    except Exception as error:  # torch raises many kinds
        cause = reason(error)
        raise CheckpointError(f"{file} is no TorchScript file, or a damaged one ({cause}). {advice}") from error


def _hub_file(source: str, metric: str, advice: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    parts = source.removeprefix("hub:").split("/", 2)
    if len(parts) != 3:
        raise CheckpointError(f"a file of the hub is hub:ORG/NAME/FILE, got '{source}'. {advice}")
    try:
        return Path(hf_hub_download(f"{parts[0]}/{parts[1]}", parts[2]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"{metric}: cannot get {source} ({error}). {advice}") from error


def _to_uint8(video: Tensor) -> Tensor:
    """float in [0, 1] -> uint8, rounded."""
    return video if video.dtype == torch.uint8 else (to_float_video(video) * 255).round().clamp(0, 255).to(torch.uint8)


def _centre(video: Tensor) -> Tensor:
    """``[B, T, C, H, W]`` in [0, 1] -> ``[B, C, T, 224, 224]`` in [-1, 1]: short side to 224, centre cut."""
    clips, (height, width) = len(video), video.shape[-2:]
    scale = _I3D_SIDE / min(height, width)
    size = (_I3D_SIDE, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), _I3D_SIDE)
    frames = F.interpolate(rearrange(video, "b t c h w -> (b t) c h w"), size=size, mode="bilinear",
                           align_corners=False)
    top, left = (size[0] - _I3D_SIDE) // 2, (size[1] - _I3D_SIDE) // 2
    frames = frames[..., top:top + _I3D_SIDE, left:left + _I3D_SIDE]
    return rearrange(frames * 2 - 1, "(b t) c h w -> b c t h w", b=clips).contiguous()
