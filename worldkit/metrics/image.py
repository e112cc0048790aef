"""Image metrics on float images in [0, 1], one number per image. PSNR and SSIM are piqa's."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..batch import check_shape, to_float_video
from ..compat import import_piqa
from ..errors import ShapeError

if TYPE_CHECKING:
    from .perceptual import VGGPerceptual

SSIM_WINDOW = 11
"""Side of the Gaussian window of SSIM in pixels; smaller images have no SSIM."""


def psnr(x: Tensor, y: Tensor) -> Tensor:
    r"""Peak signal-to-noise ratio per image, in dB; higher is better.

    .. math:: 10 \log_{10} \frac{1}{MSE(x, y) + 10^{-8}}

    The mean square runs over channels and pixels. Identical images give 80 dB, not infinity, because of the 1e-8.

    Args:
        x: Images, ``[B, C, H, W]``, float in [0, 1].
        y: Images of the same shape and range.
    Returns:
        PSNR in dB, ``[B]``. The PSNR of a clip is the mean of these numbers, not the PSNR of its mean error.
    Raises:
        ShapeError: if a rank, the two shapes or a value range is wrong.
    Source:
        ``piqa.PSNR``, default epsilon.
    Example:
        >>> psnr(torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.1)).round(decimals=2)
        tensor([20., 20.])
    """
    _check_pair(x, y)
    return import_piqa().PSNR(reduction="none")(_unit(x), _unit(y))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity per image, 1 for identical images; higher is better.

    Gaussian window of 11 pixels with standard deviation 1.5, no padding, averaged over positions and channels.

    Args:
        x: Images, ``[B, C, H, W]``, float in [0, 1]; H and W at least 11.
        y: Images of the same shape and range.
    Returns:
        SSIM in [-1, 1], ``[B]``.
    Raises:
        ShapeError: if a rank, the two shapes or a value range is wrong, or the images are smaller than the window.
    Source:
        Wang et al. 2004; ``piqa.SSIM``, default window.
    Example:
        >>> image = torch.rand(2, 3, 16, 16)
        >>> ssim(image, image)
        tensor([1., 1.])
    """
    sizes = _check_pair(x, y)
    if min(sizes["h"], sizes["w"]) < SSIM_WINDOW:
        raise ShapeError(
            f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, got {sizes['h']} x {sizes['w']}; "
            "leave SSIM out, or evaluate at a higher resolution and say so"
        )
    return _piqa_ssim(sizes["c"]).to(x.device)(_unit(x), _unit(y))


def lpips(x: Tensor, y: Tensor, weights: VGGPerceptual | None = None) -> Tensor:
    """Learned perceptual distance (LPIPS, VGG16) per image; lower is better. Without gradient.

    Args:
        x: Images, ``[B, 3, H, W]``, float in [0, 1]; H and W at least 16.
        y: Images of the same shape and range.
        weights: Network from `load_lpips`, on the device of the images. ``None``: `load_lpips` without arguments,
            which reads torch's download cache or downloads the official weights.
    Returns:
        Distance >= 0, ``[B]``.
    Raises:
        ShapeError: if a rank, the two shapes or a value range is wrong.
        CheckpointError: if the weights are neither given nor obtainable. Nothing else is ever put in their place.
    Source:
        Zhang et al. 2018, version 0.1 with VGG16, as LPWM and DDLP evaluate; see `VGGPerceptual`.
    """
    _check_pair(x, y)
    network = _default_lpips().to(x.device) if weights is None else weights
    with torch.no_grad():
        return network(_unit(x), _unit(y))


def _check_pair(x: Tensor, y: Tensor) -> dict[str, int]:
    sizes = check_shape(x, "b c h w", name="x")
    check_shape(y, "b c h w", name="y", **sizes)
    for image, name in ((x, "x"), (y, "y")):
        if not image.is_floating_point():
            raise ShapeError(f"{name} must be float in [0, 1], got {image.dtype}; pass {name}.float() / 255")
        if image.numel():
            to_float_video(image, name=name)
    return sizes


def _unit(image: Tensor) -> Tensor:
    """float32, and without the rounding errors around 0 and 1 that the range check lets pass."""
    return image.float().clamp(0, 1)


@functools.cache
def _piqa_ssim(channels: int) -> nn.Module:
    return import_piqa().SSIM(n_channels=channels, reduction="none")


@functools.cache
def _default_lpips() -> VGGPerceptual:
    from .perceptual import load_lpips

    return load_lpips()
