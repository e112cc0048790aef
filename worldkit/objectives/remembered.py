"""Latents of a frozen encoder, encoded once and remembered.

A frozen encoder gives a clip the same latent every time, and is most of the work where little else is trained. Clips
are known by their pixels and vectors. What is remembered comes from one pass over the training clips before the first
step, in their order, and from nothing else: so a run that was interrupted goes on with the same latents to the last
bit, which encoding a clip beside others would not give.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..batch import Batch, to_float_video
from ..distributions import MEANS
from ..latents import Latent, LatentDist, LatentSpec

if TYPE_CHECKING:
    from ..encoders.base import Encoder, Encoding


class Remembered:
    """Latents by the clips they were encoded from.

    Args:
        most: Clips that are remembered.
    """

    def __init__(self, most: int):
        self.most = most
        self._known: dict[bytes, Tensor] = {}
        self._spec: LatentSpec | None = None
        self._weights: tuple[int, ...] = ()

    @torch.no_grad()
    def fill(self, encoder: Encoder, batches: Iterable[Batch]) -> None:
        """Encode training clips and remember the means of their latents, as far as there is room."""
        for batch in batches if self.most else ():
            if len(self._known) >= self.most and _state(encoder) == self._weights:
                return
            batch = replace(batch, video=to_float_video(batch.video))
            self.add(encoder, batch, self._of(encoder.see(batch, sampler=MEANS)))

    def means(self, encoder: Encoder, batch: Batch) -> Latent:
        """Means of the latents of clips (video in [0, 1]), remembered or encoded."""
        known = self.find(encoder, batch) if self.most else None
        if known is not None:
            return known
        with torch.no_grad():
            return self._of(encoder.see(batch, sampler=MEANS))

    def add(self, encoder: Encoder, batch: Batch, z: Latent) -> None:
        """Remember the latents of clips ``[B, ...]``, as far as there is room."""
        if (weights := _state(encoder)) != self._weights:
            self._known, self._weights = {}, weights
        self._spec = z.spec
        for key, packed in zip(_keys(batch), self._pack(z).cpu(), strict=True):
            if len(self._known) >= self.most:
                return
            self._known[key] = packed

    @torch.compiler.disable
    def find(self, encoder: Encoder, batch: Batch) -> Latent | None:
        """Latents of clips; None if one of them is not known, or the encoder's weights have changed."""
        if self._spec is None or type(batch.video) is not Tensor or _state(encoder) != self._weights:
            return None  # a dry run has no pixels
        found = [self._known.get(key) for key in _keys(batch)]
        known = [packed for packed in found if packed is not None]
        if len(known) < len(found):
            return None
        return self._unpack(self._spec, torch.stack(known).to(batch.video.device))

    # -- what is kept of what an encoder saw

    def _of(self, encoding: Encoding) -> Any:
        return encoding.latent

    def _pack(self, z: Any) -> Tensor:
        return z.pack()

    def _unpack(self, spec: LatentSpec, packed: Tensor) -> Any:
        return Latent.unpack(spec, packed)


class RememberedPosteriors(Remembered):
    """The same for distributions of latents: the encoder's posteriors where it sees means.

    Args:
        most: Clips that are remembered.
    """

    def posterior(self, encoder: Encoder, batch: Batch) -> LatentDist:
        """Posteriors of clips (video in [0, 1]), remembered or encoded."""
        return self.means(encoder, batch)  # type: ignore[return-value]

    def _of(self, encoding: Encoding) -> LatentDist:
        return encoding.posterior

    def _pack(self, z: LatentDist) -> Tensor:
        return torch.cat([params.flatten(2) for params in z.params.values()], -1)

    def _unpack(self, spec: LatentSpec, packed: Tensor) -> LatentDist:
        sizes = [(spec.group(key[0]).size, spec.field(key).dist.param_dim(spec.field(key).dim)) for key in spec.keys()]
        parts = packed.split([tokens * width for tokens, width in sizes], -1)
        return LatentDist(spec, {key: part.unflatten(-1, size)
                                 for key, part, size in zip(spec.keys(), parts, sizes, strict=True)})


class RememberedFrames(Remembered):
    """Latents by the frames they were encoded from, of encoders that see every frame by itself: clips share them.

    Args:
        most: Frames that are remembered.
    """

    @torch.compiler.disable
    def means(self, encoder: Encoder, batch: Batch) -> Latent:
        """Means of the latents of clips; what is not known is encoded, every frame once."""
        frames = batch.video.flatten(0, 1)[:, None]
        apart = not encoder.borders or encoder.obs.views > 1 or encoder.reads_vectors or type(frames) is not Tensor
        if not self.most or apart:
            return super().means(encoder, batch)
        if (weights := _state(encoder)) != self._weights:
            self._known, self._weights = {}, weights
        keys = _keys(Batch(frames))
        new = {key: i for i, key in enumerate(keys) if key not in self._known}
        if new:
            with torch.no_grad():
                z = encoder.see(Batch(frames[list(new.values())]), sampler=MEANS).latent
            self._spec = z.spec
            self._known |= dict(zip(new, z.pack()[:, 0].cpu(), strict=True))
        packed = torch.stack([self._known[key] for key in keys]).to(frames.device)
        if len(self._known) > self.most:
            self._known = {}
        return Latent.unpack(self._spec, packed.unflatten(0, batch.video.shape[:2]))


def _keys(batch: Batch) -> list[bytes]:
    """What every clip of a batch is known by: its pixels, and its vectors."""
    seen = [batch.video, *(batch.vectors[name] for name in sorted(batch.vectors))]
    return [hashlib.blake2b(b"".join(x.cpu().contiguous().numpy().tobytes() for x in clip), digest_size=16).digest()
            for clip in zip(*seen, strict=True)]


def _state(encoder: nn.Module) -> tuple[int, ...]:
    """Changes with every change of the weights."""
    return tuple(x for p in encoder.parameters() for x in (p.data_ptr(), p._version))
