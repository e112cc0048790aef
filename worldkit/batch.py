"""`Batch`, and the conventions of the whole library.

Axes: ``B`` batch, ``V`` view, ``T`` time, ``C H W`` image, ``N`` tokens of a latent, ``L`` condition tokens, ``D``
width, ``A`` action. Video is ``[B, T, C, H, W]``, or ``[B, V, T, C, H, W]`` with several camera views. It travels as
uint8 and becomes float in ``[0, 1]`` on the device, inside the model.

Time: frames ``0 .. T-1``; ``actions[:, t]`` acts between frame ``t`` and frame ``t + 1``. Priors, latent actions and
conditions at index ``t`` concern that same transition. Positions are ``(y, x)`` in ``[-1, 1]``, y down, x to the right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .errors import ShapeError

_EXAMPLES = {"targets": "reward", "vectors": "proprio"}


@dataclass(frozen=True)
class Batch:
    """A batch of clips with what is known about them.

    Attributes:
        video: uint8 in [0, 255] or float in [0, 1]; ``[B, T, C, H, W]`` or ``[B, V, T, C, H, W]``.
        conditions: Condition name -> value: ``"action"`` ``[B, T, A]`` (with views: the same for every view, or
            ``[B, V, T, A]``; discrete: int64 ``[B, T]``), ``"language"`` ``[B, L, E]`` or a list of B strings,
            ``"goal_image"`` ``[B, C, H, W]`` (``[B, V, C, H, W]``).
        masks: Condition name -> bool tensor, True where the condition is given: ``[B]``, or finer (``"action"``:
            ``[B, T]``, ``"language"``: ``[B, L]``).
        done_mask: ``[B, T]``, 1 while the frame is inside the episode; ``None`` if every frame is.
        targets: What is known about transitions and may be learned, by name: ``"reward"`` ``[B, T]`` float,
            ``"terminated"`` ``[B, T]`` bool, ``"position"`` ``[B, T, S]``, ... Index t concerns the transition from
            frame t to frame t + 1, as actions do; the last one leads nowhere.
        first: bool ``[B, T]``, True where a frame begins an episode inside a clip: nothing before it says anything
            about it, and the transition that leads to it is none. ``None``: no frame but the first one, if that.
        vectors: What is observed beside the video, by name, index t at frame t: ``"proprio"`` ``[B, T, S]`` float; of
            single whole numbers (a class) int64 ``[B, T]``. Of models that see vectors alone the video is empty,
            ``[B, T, C, 0, 0]``.
    Raises:
        ShapeError: something that is no tensor where one is needed, or conditions, masks, targets or vectors that are
            no table, or targets, vectors or marks without one entry per clip and frame.
    Example:
        >>> Batch(video=torch.zeros(2, 5, 3, 32, 32, dtype=torch.uint8)).batch_size
        2
    """

    video: Tensor
    conditions: Mapping[str, Any] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    done_mask: Tensor | None = None
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    first: Tensor | None = None
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    _unit: Tensor | None = field(default=None, repr=False, compare=False)  # the video, once it was found in [0, 1]

    def __post_init__(self) -> None:
        require_tensor(self.video, "video", "b t c h w")
        object.__setattr__(self, "conditions", as_table(self.conditions, "conditions"))
        object.__setattr__(self, "masks", as_table(self.masks, "masks"))
        if self.done_mask is not None:
            require_tensor(self.done_mask, "done_mask", "b t")
        object.__setattr__(self, "targets", as_table(self.targets, "targets"))
        for name, value in self.targets.items():
            self._check_entries(value, f"target '{name}'", "b t", "index t concerns the transition from frame t to "
                                "t + 1, the last one leads nowhere")
        object.__setattr__(self, "vectors", as_table(self.vectors, "vectors"))
        for name, value in self.vectors.items():
            self._check_entries(value, f"vector '{name}'", "b t s", "what is observed at frame t")
            discrete = value.ndim == 2 and value.dtype == torch.int64
            if not discrete and (value.ndim != 3 or not value.is_floating_point()):
                raise ShapeError(f"vector '{name}' must be float [b, t, s], or int64 [b, t] of classes, got "
                                 f"{value.dtype} {list(value.shape)}")
        if self.first is not None:
            self._check_entries(self.first, "first", "b t", "True where a frame begins an episode")
            if self.first.ndim != 2 or self.first.dtype != torch.bool:
                raise ShapeError(f"first must be bool [b, t], True where a frame begins an episode, got "
                                 f"{self.first.dtype} {list(self.first.shape)}")

    def _check_entries(self, value: Any, name: str, axes: str, what: str) -> None:
        """Refuse what is no tensor with one entry per clip and frame."""
        require_tensor(value, name, axes)
        clips = (self.video.shape[0], self.video.shape[-4]) if self.video.ndim >= 5 else tuple(value.shape[:2])
        if tuple(value.shape[:2]) != clips:
            raise ShapeError(f"{name} must be [b={clips[0]} t={clips[1]} ...], one entry per clip and frame ({what}), "
                             f"got {list(value.shape)}")

    @classmethod
    def of_vectors(cls, vectors: Mapping[str, Tensor], *, channels: int = 3, **others: Any) -> Batch:
        """A batch without pictures: empty video for these vectors.

        Args:
            vectors: See above; at least one.
            channels: Of the empty video, as the model's ``obs`` has it.
            **others: Conditions, targets, ...
        Example:
            >>> Batch.of_vectors({"position": torch.zeros(2, 5, 3)}).video.shape
            torch.Size([2, 5, 3, 0, 0])
        """
        some = next(iter(as_table(vectors, "vectors").values()), None)
        if some is None:
            raise ShapeError('of_vectors needs a vector: Batch.of_vectors({"proprio": ...})')
        require_tensor(some, "vectors", "b t s")
        return cls(some.new_zeros(*some.shape[:2], channels, 0, 0, dtype=torch.uint8), vectors=vectors, **others)

    @property
    def batch_size(self) -> int:
        return self.video.shape[0]

    def context(self, frames: int) -> Batch:
        """What is seen in the first ``frames`` frames, without conditions and targets: the context of a rollout."""
        first = None if self.first is None else self.first[:, :frames]
        return Batch(self.video[..., :frames, :, :, :], first=first,
                     vectors={name: value[:, :frames] for name, value in self.vectors.items()})

    def as_float(self) -> Batch:
        """The same batch with its video as float in [0, 1], which is checked once (`to_float_video`)."""
        if self._unit is not None and self._unit is self.video:
            return self
        video = to_float_video(self.video)
        return replace(self, video=video, _unit=video)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch on another device. Values that are not tensors (strings) stay as they are."""

        return self._each(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Pinned copy; called by ``DataLoader(pin_memory=True)``."""
        return self._each(lambda x: x.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with every tensor changed."""
        def one(value: Any) -> Any:
            return change(value) if torch.is_tensor(value) else value

        def table(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: one(value) for name, value in values.items()}

        return Batch(one(self.video), table(self.conditions), table(self.masks), one(self.done_mask),
                     table(self.targets), one(self.first), table(self.vectors))


def require_tensor(x: Any, name: str, axes: str) -> None:
    """Refuse what is no tensor.

    Args:
        x: Any value.
        name: What it is called in the message.
        axes: Axes it should have: ``"b t c h w"``.
    Raises:
        ShapeError: saying what was given and how to make a tensor of it.
    """
    if torch.is_tensor(x):
        return
    convertible = hasattr(x, "__array__") or isinstance(x, (list, tuple))
    advice = "; torch.as_tensor(...) makes one of it" if convertible else ""
    raise ShapeError(f"{name} must be a tensor [{axes}], got {type(x).__name__}{advice}")


def as_table(x: Any, name: str) -> Mapping[str, Any]:
    """A mapping of names to values as it is; None is an empty one.

    Raises:
        ShapeError: for anything else.
    """
    if x is not None and not isinstance(x, Mapping):
        example = _EXAMPLES.get(name, "action")
        raise ShapeError(f'{name} must be a table, {name}={{"{example}": ...}}, got {type(x).__name__}')
    return {} if x is None else x


def check_shape(x: Tensor, pattern: str, *, name: str, **sizes: int) -> dict[str, int]:
    """Check the rank and the stated sizes of a tensor, and return its axes by name.

    Args:
        x: Any tensor.
        pattern: Axis names separated by blanks: ``"b t c h w"``.
        name: What the tensor is called in the error message.
        **sizes: Required sizes: ``c=3``.
    Raises:
        ShapeError: naming the tensor, the expected pattern and the given shape.
    Example:
        >>> check_shape(torch.zeros(2, 5), "b t", name="mask", t=5)
        {'b': 2, 't': 5}
    """
    axes = pattern.split()
    wanted = " ".join(f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in axes)
    require_tensor(x, name, wanted)
    if x.ndim != len(axes):
        raise ShapeError(f"{name} must have {len(axes)} axes [{wanted}], got {x.ndim}: {list(x.shape)}"
                         f"{_of_views(axes, x)}")
    found = dict(zip(axes, x.shape, strict=True))
    for axis, size in sizes.items():
        if found[axis] != size:
            got = f"{list(x.shape)}: axis {axis} is {found[axis]}, not {size}"
            raise ShapeError(f"{name} must be [{wanted}], got {got}")
    return found


def _of_views(axes: list[str], x: Tensor) -> str:
    """What to do where a video has an axis of views and a model expects none, or the other way round; else nothing."""
    if "v" in axes and x.ndim == len(axes) - 1:
        return ". It has one view: the model that sees it is made with obs.views=1"
    if axes == ["b", "t", "c", "h", "w"] and x.ndim == 6:
        return f". It has {x.shape[1]} views: the model that sees them is made with obs.views={x.shape[1]}"
    return ""


def to_float_video(video: Tensor, *, name: str = "video") -> Tensor:
    """uint8 [0, 255] -> float [0, 1]; float video is checked and passed on.

    Raises:
        ShapeError: if it is no tensor, if a float video leaves [0, 1] (0..255 floats are the usual cause), or the dtype
            is neither.
    """
    require_tensor(video, name, "b t c h w")
    if video.dtype == torch.uint8:
        return video.float() / 255
    if not video.is_floating_point():
        raise ShapeError(f"{name} must be uint8 in [0, 255] or float in [0, 1], got {video.dtype}")
    if not video.numel() or type(video) is not Tensor:  # of models that see vectors alone; of a dry run
        return video
    low, high = torch.aminmax(video.detach())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # written so that NaN fails, too
        raise ShapeError(
            f"{name} of dtype {video.dtype} must lie in [0, 1], got values from {low:.4g} to {high:.4g}; "
            "divide by 255, or pass uint8"
        )
    return video
