"""Adapters: what makes narrow tokens of wide frozen features, and features of them again.

``identity`` leaves them as they are; ``mlp`` works on every token by itself; ``svae``, the semantic VAE, lets the
tokens of a frame see one another and describes narrow ones by mean and log-variance. In training it draws, in
evaluation it gives the mean.

Source: semantic-wm (arXiv:2605.06388), after PS-VAE (arXiv:2512.17909), written from a description of the facts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..config import Config
from ..distributions import Sampler
from ..errors import ConfigError
from .vit import ViTBlock

EPS, OUTER = 1e-12, 1e-5
"""Of the norms inside the blocks, and of those between them."""
MOST_HEADS = 16
"""Blocks that are narrower than the features have as many heads as divide their width, at most so many."""


class AdapterConfig(Config):
    """Options of an adapter; defaults are semantic-wm's.

    Attributes:
        name: ``"identity"``, ``"mlp"`` or ``"svae"``.
        dim: Width of the narrow tokens; of ``identity`` that of the features.
        hidden: Of ``mlp`` the width between; None: half of both widths together. Of ``svae`` that of the blocks' MLPs;
            None: 2048.
        num_layers, num_heads: Blocks of ``svae`` on either side, and the heads of those in the features' width.
        progressive: Narrow in two steps: the last block works in a width between, the geometric mean of both (rounded
            to a multiple of 16, which is ours).
        latent_layers: Blocks in the narrow width, on either side, behind the draw.
    """

    name: Literal["identity", "mlp", "svae"] = "svae"
    dim: int = Field(default=96, gt=0)
    hidden: int | None = Field(default=None, gt=0)
    num_layers: int = Field(default=3, gt=0)
    num_heads: int = Field(default=16, gt=0)
    progressive: bool = False
    latent_layers: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Narrowed:
    """What an adapter made of features.

    Attributes:
        tokens: ``[M, N, dim]``: drawn, or the mean.
        mean, logvar: Of their distribution, likewise; None of adapters that have none.
    """

    tokens: Tensor
    mean: Tensor | None = None
    logvar: Tensor | None = None


class Adapter(nn.Module):
    """Features ``[M, N, width]`` <-> tokens ``[M, N, dim]``.

    Args:
        config: See `AdapterConfig`.
        width: Of the features.
    Raises:
        ConfigError: the adapter does not fit the features.
    Example:
        >>> adapter = Adapter.make(AdapterConfig(name="mlp", dim=4), 16)
        >>> tokens = adapter.narrow(torch.randn(2, 9, 16), Sampler()).tokens
        >>> tokens.shape, adapter.widen(tokens).shape
        (torch.Size([2, 9, 4]), torch.Size([2, 9, 16]))
    """

    def __init__(self, config: AdapterConfig, width: int):
        super().__init__()
        self.config, self.width, self.dim = config, width, config.dim

    @staticmethod
    def make(config: AdapterConfig, width: int) -> Adapter:
        """The adapter of a configuration."""
        return {"identity": Identity, "mlp": MLPAdapter, "svae": SemanticVAE}[config.name](config, width)

    def narrow(self, features: Tensor, sampler: Sampler) -> Narrowed:
        """Features ``[M, N, width]`` -> tokens ``[M, N, dim]``; the mean if the sampler is deterministic."""
        raise NotImplementedError

    def widen(self, tokens: Tensor) -> Tensor:
        """Tokens ``[M, N, dim]`` -> features ``[M, N, width]``."""
        raise NotImplementedError


class Identity(Adapter):
    """Features as they are."""

    def __init__(self, config: AdapterConfig, width: int):
        super().__init__(config, width)
        self.dim = width

    def narrow(self, features: Tensor, sampler: Sampler) -> Narrowed:
        return Narrowed(features)

    def widen(self, tokens: Tensor) -> Tensor:
        return tokens


class MLPAdapter(Adapter):
    """Three linear layers each way, GELU between them."""

    def __init__(self, config: AdapterConfig, width: int):
        super().__init__(config, width)
        hidden = config.hidden or (width + config.dim) // 2
        self.down, self.up = _mlp(width, hidden, config.dim), _mlp(config.dim, hidden, width)

    def narrow(self, features: Tensor, sampler: Sampler) -> Narrowed:
        return Narrowed(self.down(features))

    def widen(self, tokens: Tensor) -> Tensor:
        return self.up(tokens)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
                         nn.Linear(hidden, outputs))


class SemanticVAE(Adapter):
    """S-VAE: pre-norm blocks, a linear layer to mean and log-variance; the way back mirrors it.

    Example:
        >>> vae = SemanticVAE(AdapterConfig(dim=4, num_layers=2, num_heads=2, hidden=8, progressive=True), 16)
        >>> found = vae.narrow(torch.randn(2, 9, 16), Sampler())
        >>> found.logvar.shape, vae.middle
        (torch.Size([2, 9, 4]), 16)
    """

    def __init__(self, config: AdapterConfig, width: int):
        super().__init__(config, width)
        wide = config.num_layers - config.progressive
        self.middle = 16 * max(1, round(math.sqrt(width * config.dim) / 16)) if config.progressive else width
        _check(config, width)
        hidden = config.hidden or 2048

        def blocks(count: int, dim: int, hidden: int) -> nn.ModuleList:
            heads = config.num_heads if dim == width else max(h for h in range(1, MOST_HEADS + 1) if not dim % h)
            return nn.ModuleList(ViTBlock(dim, heads, hidden=hidden, eps=EPS) for _ in range(count))

        middle, narrow = self.middle, config.dim
        self.encode_wide, self.decode_wide = (blocks(wide, width, hidden) for _ in range(2))
        self.encode_middle, self.decode_middle = (blocks(config.progressive, middle, 4 * middle) for _ in range(2))
        self.encode_narrow, self.decode_narrow = (blocks(config.latent_layers, narrow, 4 * narrow) for _ in range(2))
        self.down = _between(width, middle) if config.progressive else None
        self.up = _between(middle, width) if config.progressive else None
        self.to_latent = nn.Sequential(nn.LayerNorm(middle, OUTER), nn.Linear(middle, 2 * narrow))
        self.from_latent = nn.Linear(narrow, middle)
        self.norm = nn.LayerNorm(width, OUTER)
        self.norm_encoded = nn.LayerNorm(narrow, OUTER) if config.latent_layers else None
        self.norm_decoded = nn.LayerNorm(narrow, OUTER) if config.latent_layers else None

    def narrow(self, features: Tensor, sampler: Sampler) -> Narrowed:
        x = _through(self.encode_wide, features)
        if self.down is not None:
            x = _through(self.encode_middle, self.down(x))
        mean, logvar = self.to_latent(x).chunk(2, -1)
        tokens = sampler.normal("adapter", mean, logvar)
        if self.norm_encoded is not None:
            tokens = self.norm_encoded(_through(self.encode_narrow, tokens))
        return Narrowed(tokens, mean, logvar)

    def widen(self, tokens: Tensor) -> Tensor:
        if self.norm_decoded is not None:
            tokens = self.norm_decoded(_through(self.decode_narrow, tokens))
        x = self.from_latent(tokens)
        if self.up is not None:
            x = self.up(_through(self.decode_middle, x))
        return self.norm(_through(self.decode_wide, x))


def _between(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(inputs, OUTER), nn.Linear(inputs, outputs))


def _through(blocks: nn.ModuleList, x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


def _check(config: AdapterConfig, width: int) -> None:
    if config.progressive and config.num_layers < 2:
        raise ConfigError("adapter.progressive leaves the last of adapter.num_layers to the width between: take at "
                          "least 2")
    if width % config.num_heads:
        fits = [str(heads) for heads in range(1, 33) if not width % heads]
        raise ConfigError(f"adapter 'svae' does not fit its encoder: features of {width} numbers cannot be shared "
                          f"among {config.num_heads} heads; set adapter.num_heads to one of {', '.join(fits)}")
    if config.dim > width:
        raise ConfigError(f"adapter 'svae' makes features narrower, and adapter.dim {config.dim} is more than their "
                          f"{width} numbers: lower it, or take adapter.name=identity")


def adapter_terms(features: Tensor, again: Tensor, found: Narrowed, *, spectral: bool = False) -> dict[str, Tensor]:
    """What an adapter learns by, every term ``[M]``: means over the numbers of a frame.

    Args:
        features: ``[M, N, width]``, the truth.
        again: Likewise, what came back.
        found: The tokens between.
        spectral: Also the absolute error of the magnitudes of the tokens' Fourier transform.
    Returns:
        ``"features"``, squared errors; ``"cosine"``, 1 minus the tokens' mean cosine; ``"spectral"``, if asked for;
        ``"kl"``, to N(0, I), a MEAN over all numbers, of adapters with a distribution.
    Example:
        >>> x = torch.ones(1, 4, 4)
        >>> {name: value.item() for name, value in adapter_terms(x, x, Narrowed(x)).items()}
        {'features': 0.0, 'cosine': 0.0}
    """
    terms = {"features": (again - features).square().mean((1, 2)),
             "cosine": 1 - F.cosine_similarity(again, features, dim=-1).mean(1)}
    if spectral:
        ours, theirs = (torch.fft.rfft(x, dim=1).abs() for x in (again, features))
        terms["spectral"] = (ours - theirs).abs().mean((1, 2))
    if found.mean is not None and found.logvar is not None:
        kl = -0.5 * (1 + found.logvar - found.mean.square() - found.logvar.exp())
        terms["kl"] = kl.mean((1, 2))
    return terms
