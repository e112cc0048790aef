"""Poses of a robot's hand: place, turn and grip, seven numbers; how actions move them, and which lies between two.

A pose is (x, y, z), the angles about the fixed axes x, y, z in this order (radians), and how far the gripper is closed
(0 to 1). An action is the difference of all seven; turns are composed as rotations, not added.

Source: V-JEPA 2-AC (arXiv:2506.09985; facebookresearch/vjepa2 @ c2963a4), written from its description.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotation(angles: Tensor) -> Tensor:
    """Angles about fixed axes x, y, z ``[..., 3]`` -> matrices ``[..., 3, 3]``.

    Example:
        >>> rotation(torch.tensor([0.0, 0.0, torch.pi / 2])).round().abs().tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    (cx, cy, cz), (sx, sy, sz) = (f(angles).unbind(-1) for f in (torch.cos, torch.sin))
    rows = [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx,
            sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx,
            -sy, cy * sx, cy * cx]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def angles(matrix: Tensor) -> Tensor:
    """Inverse of `rotation`, ``[..., 3]``; where y is turned by a right angle, one of many answers."""
    across = torch.asin((-matrix[..., 2, 0]).clamp(-1, 1))
    return torch.stack([torch.atan2(matrix[..., 2, 1], matrix[..., 2, 2]), across,
                        torch.atan2(matrix[..., 1, 0], matrix[..., 0, 0])], -1)


def moved(pose: Tensor, action: Tensor) -> Tensor:
    """Where an action leads, ``[..., 7]``; computed in float64.

    Example:
        >>> moved(torch.zeros(7), torch.tensor([0.1, 0, 0, 0, 0, 0, 2.0]))[[0, 6]].tolist()
        [0.10000000149011612, 1.0]
    """
    start, step = pose.double(), action.double()
    turned = angles(rotation(step[..., 3:6]) @ rotation(start[..., 3:6]))
    grip = (start[..., 6:] + step[..., 6:]).clamp(0, 1)
    return torch.cat([start[..., :3] + step[..., :3], turned, grip], -1).to(pose)


def between(poses: Tensor) -> Tensor:
    """Actions between poses ``[..., T, 7]``: ``[..., T - 1, 7]``.

    Example:
        >>> poses = torch.rand(3, 7, dtype=torch.float64)
        >>> torch.allclose(moved(poses[:-1], between(poses)), poses[1:])
        True
    """
    before, after = poses[..., :-1, :], poses[..., 1:, :]
    turned = angles(rotation(after[..., 3:6]) @ rotation(before[..., 3:6]).transpose(-1, -2))
    return torch.cat([after[..., :3] - before[..., :3], turned, after[..., 6:] - before[..., 6:]], -1)


def in_camera(poses: Tensor, camera: Tensor) -> Tensor:
    """Poses ``[..., 7]`` in the frame of a camera ``[..., 6]`` (its place and angles)."""
    turn = rotation(camera[..., 3:6]).transpose(-1, -2)
    place = (turn @ (poses[..., :3] - camera[..., :3]).unsqueeze(-1)).squeeze(-1)
    return torch.cat([place, angles(turn @ rotation(poses[..., 3:6])), poses[..., 6:]], -1)
