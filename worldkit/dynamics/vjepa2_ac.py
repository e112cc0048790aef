"""V-JEPA 2-AC's predictor: patches, pose and action of every frame as tokens, each of which sees all frames up to its
own.

The pose is a token group of the latent, moved exactly by the action (`worldkit.nn.pose`); patches are predicted, and
brought to mean 0 and variance 1 as the encoder's are. A camera's place and angles are one more token, and stay.

A rollout keeps keys and values, so that one more frame costs one frame (beyond the window it is computed anew).

Source: V-JEPA 2-AC (arXiv:2506.09985; facebookresearch/vjepa2 @ c2963a4), written from its description.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import full_precision
from ..errors import IncompatibleComponentsError
from ..latents import Latent, LatentDist, LatentSpec
from ..nn.memory import Memory
from ..nn.pose import moved
from ..nn.positions import Rotation, places, tiled_rotation
from ..nn.vit import Activation, ViTBlock, draw_weights_, frames_mask
from .remembering import Remembering


class VJEPA2ACConfig(ComponentConfig):
    """Options of V-JEPA 2-AC's predictor; defaults are the released one's.

    Attributes:
        dim, num_layers, num_heads: Of the blocks.
        mlp_ratio: Their MLPs are so many times as wide as ``dim``.
        activation: ``"gelu"`` or ``"swiglu"``.
        moves: How actions move poses: ``"arm"``, seven numbers as `worldkit.nn.pose.moved` has them; ``"sum"``: added;
            ``"still"``: not at all.
        normalize: Predicted patches, where they are points, have mean 0 and variance 1 over their features.
        pose, camera: Groups of the latent that say where the hand is, and the camera; vectors of the encoder
            `with-vectors`. A model may have neither.
        cond_dim: Numbers of an action; None: of the raw actions that it is told (conditioner ``raw-action``).
    """

    name: str = "vjepa2-ac"
    dim: int = Field(default=1024, gt=0)
    num_layers: int = Field(default=24, gt=0)
    num_heads: int = Field(default=16, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    activation: Activation = "gelu"
    moves: Literal["arm", "sum", "still"] = "arm"
    normalize: bool = True
    pose: str = "pose"
    camera: str = "camera"
    cond_dim: int | None = Field(default=None, ge=0)


class VJEPA2AC(Remembering):
    """Patches, pose and actions -> the next patches; window ``timestep_horizon``.

    Raises:
        IncompatibleComponentsError: the latent has no pose (and actions none to move), or other numbers than it takes.
    """

    Config = VJEPA2ACConfig
    requires = frozenset({"grid", "tracked", "continuous"})
    takes = frozenset({"frame"})
    config: VJEPA2ACConfig

    def __init__(self, config: VJEPA2ACConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        dim, heads = config.dim, config.num_heads
        self.cond_dim = 7 if config.cond_dim is None else config.cond_dim
        self._check(config, spec, self.cond_dim)
        names = [group.name for group in spec.groups]
        self.pose = config.pose if config.pose in names else None
        self.camera = config.camera if config.camera in names else None
        self._widths = {field.name: field.dist.raw_dim(field.dim) for field in spec.groups[0].fields}
        self._normalize = config.normalize and all(f.dist.point for f in spec.groups[0].fields)
        self.inputs = nn.Linear(spec.flat_dim(spec.groups[0].name), dim)
        self.outputs = nn.Linear(dim, sum(self._widths.values()))
        self.actions = nn.Linear(self.cond_dim, dim)
        self.poses = nn.Linear(spec.flat_dim(self.pose) if self.pose else 7, dim)
        self.cameras = nn.Linear(spec.flat_dim(self.camera) if self.camera else 6, dim)  # upstream has it always
        self.blocks = nn.ModuleList(
            ViTBlock(dim, heads, hidden=int(dim * config.mlp_ratio), activation=config.activation)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        draw_weights_(self, rescaled=True)
        for idle in ((self.poses,) if self.pose is None else ()) + ((self.cameras,) if self.camera is None else ()):
            idle.requires_grad_(False)
        self.beside = 1 + (self.pose is not None) + (self.camera is not None)

    @staticmethod
    def _check(config: VJEPA2ACConfig, spec: LatentSpec, actions: int) -> None:
        if config.dim % config.num_heads or config.dim // config.num_heads < 12:
            raise IncompatibleComponentsError(
                f"dynamics.dim {config.dim} must divide into dynamics.num_heads {config.num_heads}, of at least 12 "
                "channels each"
            )
        if spec.views > 1 or any(group.size > 1 for group in spec.groups[1:]):
            raise IncompatibleComponentsError(
                "dynamics 'vjepa2-ac' takes the patches of one view, and vectors beside them: encoder 'with-vectors'"
            )
        names = [group.name for group in spec.groups[1:]]
        if unknown := [name for name in names if name not in (config.pose, config.camera)]:
            raise IncompatibleComponentsError(
                f"dynamics 'vjepa2-ac' knows a pose and a camera beside patches, and this latent has "
                f"{', '.join(unknown)}: leave it out of obs.vectors, or say what it is (-o dynamics.pose={unknown[0]})"
            )
        widths = (spec.flat_dim(config.pose), actions) if config.pose in names else None
        if config.moves == "arm" and widths is not None and widths != (7, 7):
            raise IncompatibleComponentsError(
                f"dynamics.moves = 'arm' moves poses of 7 numbers by actions of 7, got poses of {widths[0]} and "
                f"actions of {widths[1]}: set dynamics.moves='sum' if actions are added to poses, else 'still'"
            )
        if config.moves == "sum" and widths is not None and widths[0] != widths[1]:
            raise IncompatibleComponentsError(
                f"dynamics.moves = 'sum' adds actions to poses, got poses of {widths[0]} and actions of {widths[1]} "
                "numbers: set dynamics.moves='still'"
            )

    def _tokens(self, z: Latent, cond: Condition) -> Tensor:
        """``[B, T, beside + N, dim]``: action, pose, camera, patches."""
        patches = self.inputs(z.flat(self.spec.groups[0].name))
        told = cond.frame
        if told is None:
            told = patches.new_zeros(*patches.shape[:2], self.cond_dim)
        parts = [self.actions(told)[:, :, None]]
        if self.pose is not None:
            parts.append(self.poses(z.flat(self.pose)))
        if self.camera is not None:
            parts.append(self.cameras(z.flat(self.camera)))
        return torch.cat([*parts, patches], 2)

    def _rotation(self, first: int, frames: int, like: Tensor) -> Rotation:
        """Of the tokens of some frames; what is no patch is nowhere in the picture."""
        height, width = self.spec.grid
        numbers = torch.arange(first * height * width, (first + frames) * height * width, device=like.device)
        where = places(numbers, (height, width)).to(like.dtype).unflatten(1, (frames, -1))
        beside = torch.full((3, frames, self.beside), torch.nan, dtype=like.dtype, device=like.device)
        beside[0] = torch.arange(first, first + frames, device=like.device)[:, None]
        return tiled_rotation(torch.cat([beside, where], 2).flatten(1), self.config.dim // self.config.num_heads,
                              like=like)

    def _run(self, x: Tensor, memory: Memory | None = None, *, last: bool = False) -> Tensor:
        """Tokens of frames, after those in memory -> what comes after each, ``[B, T, N, width]``."""
        frames, count = x.shape[1:3]
        first = 0 if memory is None else memory.length
        rotation, mask = self._rotation(first, frames, x), frames_mask(frames, count, first, x.device)
        x = x.flatten(1, 2)
        for layer, block in enumerate(self.blocks):
            remember = None if memory is None else partial(memory.extend, layer, frames=frames, limit=self.window)
            x = block(x, rotation=rotation, mask=mask, remember=remember)
        if memory is not None:
            memory.length += frames
        x = x.unflatten(1, (frames, count))[:, -1:] if last else x.unflatten(1, (frames, count))
        out = full_precision(self.outputs(self.norm(x[:, :, self.beside :])))
        return F.layer_norm(out, out.shape[-1:]) if self._normalize else out

    def _answer(self, patches: Tensor, z: Latent, cond: Condition) -> LatentDist:
        raw = patches.split(list(self._widths.values()), -1)
        first = self.spec.groups[0]
        params = {(first.name, field.name): field.dist.from_raw(x) for field, x in zip(first.fields, raw, strict=True)}
        for group in self.spec.groups[1:]:
            params |= {(group.name, field.name): z.values[group.name, field.name] for field in group.fields}
        if self.pose is not None and self.config.moves != "still" and cond.frame is not None:
            key = (self.pose, self.spec.group(self.pose).fields[0].name)
            step = cond.frame[:, :, None]
            params[key] = moved(params[key], step) if self.config.moves == "arm" else params[key] + step
        return LatentDist(self.spec, params)

    def ahead(self, z: Latent, cond: Condition, memory: Memory | None = None, *, last: bool = False) -> LatentDist:
        patches = self._run(self._tokens(z, cond), memory, last=last)
        if last:
            z, cond = z[:, -1:], cond.at(slice(-1, None))
        return self._answer(patches, z, cond)
