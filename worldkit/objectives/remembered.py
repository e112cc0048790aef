"""Latents of a frozen encoder, encoded once and remembered.

A frozen encoder gives a clip the same latent every time, and is most of the work where little else is trained. Clips
are known by their pixels and are encoded one by one, so that a latent does not depend, not even by rounding, on the
clips beside it or on whether a run was interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..latents import Latent


class Remembered:
    """An encoder with a memory.

    Args:
        most: Clips that are remembered; those that come when it is full are encoded every time. 0: none.
    """

    def __init__(self, most: int):
        self.most = most
        self._known: dict[bytes, Tensor] = {}
        self._weights: tuple[int, ...] = ()

    @torch.compiler.disable
    @torch.no_grad()
    def __call__(self, encoder: nn.Module, encode: Callable[[Tensor], Latent], video: Tensor) -> Latent:
        """Latents of clips.

        Args:
            encoder: Forgets everything when its weights have changed.
            encode: Clips ``[B, ...]`` -> latents; does not depend on the other clips, or on chance.
            video: The clips.
        """
        if not self.most or type(video) is not Tensor:  # a dry run has no pixels
            return encode(video)
        weights = tuple(x for p in encoder.parameters() for x in (p.data_ptr(), p._version))
        if weights != self._weights:
            self._known, self._weights = {}, weights
        found = [self._one(encode, clip[None]) for clip in video]
        return type(found[0]).cat(found, 0)

    def _one(self, encode: Callable[[Tensor], Latent], clip: Tensor) -> Latent:
        key = hashlib.blake2b(clip.cpu().contiguous().numpy().tobytes(), digest_size=16).digest()
        if key in self._known:
            return Latent.unpack(self._spec, self._known[key].to(clip.device))
        z = encode(clip)
        if len(self._known) < self.most:
            self._spec, self._known[key] = z.spec, z.pack().cpu()
        return Latent.build(z.spec, z.values)
