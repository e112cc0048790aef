r"""Glimpses -> image: paste every particle and blend by soft depth order, without ever storing K canvases.

With pasted alpha :math:`A_i` and colour :math:`C_i`, opacity :math:`o_i` and depth :math:`d_i`, let
:math:`k_i = o_i \sigma(-d_i)` and :math:`r_i = k_i o_i`. Then

.. math:: S = \sum_i k_i A_i,\quad M = \sum_i r_i A_i^2,\quad F = \sum_i r_i A_i^2 C_i,\qquad
          \mathrm{foreground} = F / (S + \epsilon),\quad \mathrm{background\ mask} = 1 - M / (S + \epsilon).

The forward pass keeps glimpses and interpolation weights; the backward pass pastes again, a few frames at a time.

Source: upstream lpwm modules/modules.py @ 4cf53c4 (stitching), written from its description.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..distributions import full_precision
from .chunks import at_a_time, pieces
from .glimpse import EPS_WEIGHT, axis_weights, paste

_CHUNK_BYTES = {"cpu": 2**22}  # a few canvases that fit the cache; on other devices, many
_CHUNK_BYTES_DEVICE = 2**28


def _chunks(glimpses: Tensor, rows: Tensor, columns: Tensor) -> int:
    canvas = glimpses.shape[1] * glimpses.shape[2] * rows.shape[2] * columns.shape[2] * glimpses.element_size()
    return at_a_time(_CHUNK_BYTES.get(glimpses.device.type, _CHUNK_BYTES_DEVICE), canvas)


def _paste(glimpses: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    half = glimpses @ columns.transpose(-1, -2)[:, :, None]  # [m, K, 4, P, W]
    return half, rows[:, :, None] @ half  # [m, K, 4, H, W]


class _PasteSums(torch.autograd.Function):
    """(glimpses [M,K,4,P,P], rows [M,K,H,P], columns [M,K,W,P], k, r [M,K]) -> S, M ``[M,H,W]`` and F ``[M,3,H,W]``."""

    @staticmethod
    def forward(ctx, glimpses: Tensor, rows: Tensor, columns: Tensor, k: Tensor, r: Tensor):
        ctx.save_for_backward(glimpses, rows, columns, k, r)
        size, step = (rows.shape[2], columns.shape[2]), _chunks(glimpses, rows, columns)
        frames = glimpses.shape[0]
        weight, cover, colour = (glimpses.new_empty(frames, *s, *size) for s in ((), (), (3,)))
        for j in pieces(frames, step):
            _, canvas = _paste(glimpses[j], rows[j], columns[j])
            alpha, rgb = canvas[:, :, 0], canvas[:, :, 1:]
            squared = r[j, :, None, None] * alpha * alpha
            weight[j] = torch.einsum("mk,mkhw->mhw", k[j], alpha)
            cover[j] = squared.sum(1)
            colour[j] = (squared[:, :, None] * rgb).sum(1)
        return weight, cover, colour

    @staticmethod
    @once_differentiable
    def backward(ctx, d_weight: Tensor, d_cover: Tensor, d_colour: Tensor):
        glimpses, rows, columns, k, r = ctx.saved_tensors
        grads = [torch.empty_like(t) for t in (glimpses, rows, columns, k, r)]
        step = _chunks(glimpses, rows, columns)
        for j in pieces(glimpses.shape[0], step):
            half, canvas = _paste(glimpses[j], rows[j], columns[j])
            alpha, rgb = canvas[:, :, 0], canvas[:, :, 1:]
            scaled = r[j, :, None, None] * alpha
            inner = d_cover[j, None] + (rgb * d_colour[j, None]).sum(2)
            d_canvas = torch.empty_like(canvas)
            d_canvas[:, :, 0] = k[j, :, None, None] * d_weight[j, None] + 2 * scaled * inner
            d_canvas[:, :, 1:] = (scaled * alpha)[:, :, None] * d_colour[j, None]
            grads[3][j] = torch.einsum("mkhw,mhw->mk", alpha, d_weight[j])
            grads[4][j] = (alpha * alpha * inner).sum((-1, -2))
            d_half = rows[j].transpose(-1, -2)[:, :, None] @ d_canvas  # [m, K, 4, P, W]
            grads[0][j] = d_half @ columns[j][:, :, None]
            grads[1][j] = torch.einsum("mkchw,mkcpw->mkhp", d_canvas, half)
            grads[2][j] = torch.einsum("mkcpw,mkcpq->mkwq", d_half, glimpses[j])
        return tuple(grads)


def composite(
    glimpses: Tensor, position: Tensor, scale: Tensor, opacity: Tensor, depth: Tensor, size: tuple[int, int], *,
    corners: bool = False,
) -> tuple[Tensor, Tensor]:
    """Blend particles into a foreground and the mask of what they leave of the background.

    Args:
        glimpses: ``[M, K, 4, P, P]``: alpha, then red, green, blue, in [0, 1].
        position: ``[M, K, 2]``, (y, x) in [-1, 1].
        scale: ``[M, K, 2]`` in (0, 1).
        opacity: ``[M, K]`` in [0, 1].
        depth: ``[M, K]``; smaller is nearer.
        size: Height and width of the image.
        corners: As in `worldkit.nn.glimpse.crop`.
    Returns:
        foreground ``[M, 3, H, W]`` and background mask ``[M, 1, H, W]``: mask * background + foreground.
    """
    rows, columns = axis_weights(glimpses, position, scale, size, corners=corners)
    k = opacity * torch.sigmoid(-depth)
    with torch.autocast(glimpses.device.type, enabled=False):
        weight, cover, colour = _PasteSums.apply(full_precision(glimpses), rows, columns, k, k * opacity)
    total = weight[:, None] + EPS_WEIGHT
    return colour / total, 1 - cover[:, None] / total


def blend(canvases: Tensor, opacity: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """`composite` of particles that are pasted already: ``[M, K, 4, H, W]``; costs K canvases."""
    shares = _shares(canvases[:, :, :1], opacity, depth)
    return (shares * canvases[:, :, 1:]).sum(1), 1 - shares.sum(1)


def particle_masks(
    glimpses: Tensor, position: Tensor, scale: Tensor, opacity: Tensor, depth: Tensor, size: tuple[int, int], *,
    corners: bool = False,
) -> Tensor:
    """Share of every particle in every pixel, ``[M, K, 1, H, W]`` (for plots and metrics; costs K canvases)."""
    return _shares(paste(glimpses[:, :, :1], position, scale, size, corners=corners), opacity, depth)


def _shares(alpha: Tensor, opacity: Tensor, depth: Tensor) -> Tensor:
    """Pasted alphas ``[M, K, 1, H, W]`` -> shares, likewise."""
    alpha = opacity[..., None, None, None] * alpha
    weight = alpha * torch.sigmoid(-depth)[..., None, None, None]
    return weight / (weight.sum(1, keepdim=True) + EPS_WEIGHT) * alpha
