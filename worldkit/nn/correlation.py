"""Where a template lies in a glimpse: normalised cross-correlation as one more channel for tracking.

The glimpse of every particle is correlated with that particle's own template in one grouped convolution, and only at
the shifts that are used; images are never copied.

Reproduced defect: upstream divides by the energy of ALL templates of the batch together, so that a particle's map
depends on its neighbours and on the other clips, and has a range of about 1e-3 before it is stretched to [0, 1]
(``norm="batch"``). ``"particle"`` divides by the energy of the particle's own template.

Source: DDLP, upstream utils/util_func.py @ 5686275, written from its description.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

CorrelationNorm = Literal["particle", "batch"]
EPS_ROOT, EPS = 1e-10, 1e-5


@torch.no_grad()
def correlation_map(glimpses: Tensor, templates: Tensor, norm: CorrelationNorm = "particle") -> Tensor:
    """How well a template, moved about, fits a glimpse.

    Args:
        glimpses: ``[M, N, C, P, P]`` in [0, 1].
        templates: What is looked for, likewise.
        norm: See the module's docstring.
    Returns:
        ``[M, N, 1, P, P]`` in [0, 1]: entry (i, j) for a shift of about i - P / 2 pixels down and j - P / 2 to the
        right; carries no gradient.

    Example:
        >>> picture = torch.zeros(1, 1, 1, 8, 8)
        >>> picture[..., 5:7, 2:4] = 1
        >>> correlation_map(picture.roll((-2, 3), (-2, -1)), picture).flatten().argmax().item()  # 3 - 2, 3 + 3
        14
    """
    count, side = glimpses.shape[1], glimpses.shape[-1]
    before, after = side - side // 2 - 1, side // 2  # of the 2 P + 1 shifts upstream computes, the P it keeps
    padded = F.pad(rearrange(glimpses, "m n c h w -> (m n) c h w"), (before, after, before, after), mode="replicate")
    templates = rearrange(templates.clamp(0, 1), "m n c h w -> (m n) c h w")
    rows = padded.shape[0]
    match = F.conv2d(rearrange(padded, "r c h w -> 1 (r c) h w"), templates, groups=rows)[0]  # [rows, P, P]
    window = F.avg_pool2d(padded.square().sum(1, keepdim=True), side, stride=1, divisor_override=1)[:, 0]
    own = templates.square().sum((1, 2, 3))
    energy = (own.sum() if norm == "batch" else own[:, None, None]) * window
    match = match / (torch.sqrt(energy + EPS_ROOT) + EPS)
    low, high = match.aminmax(dim=-1)
    low, high = low.amin(-1)[:, None, None], high.amax(-1)[:, None, None]
    return rearrange((match - low) / (high - low + EPS), "(m n) h w -> m n 1 h w", n=count)
