"""`Operator`: raw frames and actions of a robot's loop -> `worldkit.Batch`, as training made its clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batch import Batch
from ..config import WorldModelConfig
from ..errors import ConfigError, ShapeError
from ..pictures import fit_pictures, grey
from .specification import OperatorSpec


def get_operator(model: Any) -> Operator:
    """The preprocessing that a model was trained with.

    Args:
        model: A `worldkit.WorldModel`. Models of ``worldkit train`` and ``train-agent`` know how their frames were
            made; of others it is what the configuration tells, with ``resize="pad"`` (``spec.recorded`` is False then).
    Raises:
        ConfigError: ``model`` is none.
    Example:
        >>> import worldkit as wk
        >>> operator = get_operator(wk.create_model("lpwm-push-mini"))
        >>> batch = operator(np.zeros((480, 640, 3), np.uint8), action=[0.5, -0.5])
        >>> batch.video.shape, batch.conditions["action"].tolist()
        (torch.Size([1, 1, 3, 32, 32]), [[[0.5, -0.5]]])
    """
    config = getattr(model, "config", None)
    if not isinstance(config, WorldModelConfig):
        raise ConfigError(f"get_operator takes a world model, worldkit.create_model(...), got {type(model).__name__}; "
                          "of an agent: get_operator(agent.model)")
    spec = getattr(model, "operator", None) or OperatorSpec.of_config(config)
    spec.check_fits(config)
    return Operator(spec)


class Operator:
    """Raw frames and actions -> `worldkit.Batch`; see the call.

    Args:
        spec: What is to be done; ``operator.spec.to_dict()`` is JSON.
    """

    def __init__(self, spec: OperatorSpec):
        self.spec = spec

    def __call__(
        self, frame: Any = None, action: Any = None, *, vectors: Mapping[str, Any] | None = None, language: Any = None,
        goal: Any = None,
    ) -> Batch:
        """A batch of one clip, as training saw it.

        Args:
            frame: uint8 RGB, channels last: ``[h, w, C]`` of any size, or several in the order of time,
                ``[T, h, w, C]``. Of several cameras a table by name, or a list in the model's order.
            action: What is done after the frames, in the units of the training data: ``[A]`` or a whole number for one,
                ``[T, A]`` or ``[T]`` for several; several kinds of actions as a table by name.
            vectors: What is observed beside the frames, by name: ``[S]`` (``[T, S]``), classes whole numbers.
            language: An instruction, or its embeddings ``[L, E]``.
            goal: A picture of what is to be reached, like a frame.
        Returns:
            ``video`` ``[1, T, C, H, W]`` uint8 (``[1, V, T, ...]``), conditions and vectors with a batch axis of 1.
        Raises:
            ShapeError: something has another type or shape; the message says which is expected.
            ConfigError: a condition or vector that the model does not know.
        """
        conditions, masks = self._actions(action), {}
        for name, value in self._named(language, self.spec.languages, "language").items():
            conditions[name], mask = self._language(name, value)
            masks |= {} if mask is None else {name: mask}
        for name, value in self._named(goal, self.spec.goals, "goal").items():
            conditions[name] = self._video(value, f"goal '{name}'")[..., 0, :, :, :]
        seen = self._vectors(vectors or {})
        if not self.spec.height:
            if frame is not None:
                raise ShapeError("this model sees no pictures: leave frame out, and give vectors")
            return Batch.of_vectors(seen, channels=self.spec.channels, conditions=conditions, masks=masks)
        if frame is None:
            raise ShapeError("this model sees pictures: operator(frame, ...), uint8 [h, w, C]")
        return Batch(self._video(frame, "frame"), conditions, masks, vectors=seen)

    def action(self, value: Any, name: str | None = None) -> Any:
        """What a robot does: the reverse of an action as the model is told it.

        Args:
            value: float ``[A]`` (``[1, 1, A]``), or of choices a whole number, or scores of them.
            name: Which condition; not needed of a model with one kind of action.
        Returns:
            float32 ``[A]``, within what training saw, or an int.
        Raises:
            ShapeError: it is no action of this model.
        """
        name = self._only(self.spec.actions, "action") if name is None else name
        if name not in self.spec.actions:
            raise ConfigError(f"this model is told no action '{name}'; it knows: {_words(self.spec.actions)}")
        rule = self.spec.actions[name]
        found = np.asarray(value.detach().cpu() if torch.is_tensor(value) else value)
        if rule.num_actions is not None:
            if found.size == rule.num_actions > 1 and found.dtype.kind == "f":
                return int(found.reshape(-1).argmax())
            if found.size != 1 or not 0 <= int(found.reshape(())) < rule.num_actions:
                raise ShapeError(f"action '{name}' must be a number from 0 to {rule.num_actions - 1}, or "
                                 f"{rule.num_actions} scores, got {found.tolist()}")
            return int(found.reshape(()))
        if found.size != rule.dim or not np.isfinite(found).all():
            raise ShapeError(f"action '{name}' must be {rule.dim} finite numbers, got {found.tolist()}")
        array = found.reshape(-1).astype(np.float32)
        return np.clip(array, np.float32(rule.low), np.float32(rule.high)) if rule.low else array

    def every(self, camera_rate: float) -> int:
        """Of a camera, every how many frames the model is to be shown one.

        Args:
            camera_rate: Frames per second of the camera.
        Raises:
            ConfigError: the rates do not fit, or the model's is not known.
        Example:
            >>> Operator(OperatorSpec(height=32, width=32, frame_rate=10)).every(30)
            3
        """
        rate = self.spec.frame_rate
        if rate is None:
            raise ConfigError("at which rate this model saw frames in training is not known")
        times = camera_rate / rate
        if round(times) < 1 or abs(times - round(times)) > 0.02 * times:
            raise ConfigError(f"the model saw {rate:g} frames a second; of a camera with {camera_rate:g} that is no "
                              f"whole step: let it give {rate:g}, {2 * rate:g}, {3 * rate:g} ...")
        return round(times)

    def __repr__(self) -> str:
        s = self.spec
        seen = f"{s.height}x{s.width}x{s.channels}, {s.resize}" if s.height else "no pictures"
        cameras = f", cameras {', '.join(s.cameras)}" if s.cameras and s.views > 1 else ""
        rate = f", {s.frame_rate:g} frames a second" if s.frame_rate else ""
        told = _words([*s.actions, *s.languages, *s.goals, *s.vectors, *s.discrete])
        return f"Operator({seen}{cameras}{rate}; besides: {told}{'' if s.recorded else '; not recorded in training'})"

    # -- parts

    def _video(self, frame: Any, what: str) -> Tensor:
        """``[1, (V,) T, C, H, W]`` of raw frames."""
        if self.spec.views == 1:
            if isinstance(frame, Mapping):
                if len(frame) != 1 or self.spec.cameras and set(frame) != set(self.spec.cameras):
                    raise ShapeError(f"{what} has the cameras {_words(frame)}, the model one"
                                     + (f", {self.spec.cameras[0]}" if self.spec.cameras else ""))
                frame = next(iter(frame.values()))
            return self._camera(frame, what)[None]
        views = self._cameras(frame, what)
        if len({len(view) for view in views}) > 1:
            raise ShapeError(f"{what}: cameras give {', '.join(str(len(view)) for view in views)} frames")
        return torch.stack(views)[None]

    def _cameras(self, frame: Any, what: str) -> list[Tensor]:
        names = self.spec.cameras
        if isinstance(frame, Mapping):
            if not names:
                raise ShapeError(f"{what}: the order of this model's {self.spec.views} cameras is not recorded: give "
                                 "a list")
            if set(frame) != set(names):
                raise ShapeError(f"{what} has the cameras {_words(frame)}, the model {_words(names)}")
            return [self._camera(frame[name], f"{what} of camera '{name}'") for name in names]
        if len(frame) != self.spec.views:
            raise ShapeError(f"{what} must be one picture per camera, {self.spec.views} of them "
                             f"({_words(names) if names else 'in the order of training'}), got {len(frame)}")
        return [self._camera(view, f"{what} of camera {number}") for number, view in enumerate(frame)]

    def _camera(self, frame: Any, what: str) -> Tensor:
        """``[T, C, H, W]`` of raw frames of one camera."""
        pixels = np.asarray(frame.cpu() if torch.is_tensor(frame) else frame)
        if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] not in (1, 3):
            hint = ": channels come last" if pixels.ndim in (3, 4) and pixels.shape[-3] in (1, 3) else ""
            raise ShapeError(f"{what} must be uint8 RGB [h, w, 3] (grey: [h, w, 1]) or [T, h, w, 3], got "
                             f"{pixels.dtype} {list(pixels.shape)}{hint}")
        pixels = pixels if pixels.ndim == 4 else pixels[None]
        if pixels.shape[-1] != self.spec.channels:
            pixels = grey(pixels) if self.spec.channels == 1 else np.repeat(pixels, self.spec.channels, -1)
        fitted = fit_pictures(pixels, (self.spec.height, self.spec.width), self.spec.resize)
        return torch.from_numpy(np.array(np.moveaxis(fitted, -1, -3)))

    def _actions(self, action: Any) -> dict[str, Tensor]:
        found = {}
        for name, value in self._named(action, self.spec.actions, "action").items():
            rule = self.spec.actions[name]
            x = torch.as_tensor(np.asarray(value.detach().cpu() if torch.is_tensor(value) else value))
            if rule.num_actions is not None:
                if x.is_floating_point() or x.ndim > 1 or (x < 0).any() or (x >= rule.num_actions).any():
                    raise ShapeError(f"action '{name}' must be numbers from 0 to {rule.num_actions - 1}, one or [T], "
                                     f"got {x.dtype} {x.tolist()}")
                found[name] = x.long().reshape(1, -1)
                continue
            if x.ndim not in (1, 2) or x.shape[-1] != rule.dim or not torch.isfinite(x.float()).all():
                raise ShapeError(f"action '{name}' must be {rule.dim} finite numbers, [A] or [T, A], got "
                                 f"{list(x.shape)}")
            found[name] = x.float().reshape(1, -1, rule.dim)
        return found

    def _language(self, name: str, value: Any) -> tuple[Any, Tensor | None]:
        rule = self.spec.languages[name]
        if isinstance(value, str):
            if rule.model is None:
                raise ShapeError(f"'{name}' has no text encoder: give embeddings [{rule.max_length}, {rule.embed_dim}]")
            from ..conditioners.text import encode_text_with_mask

            tokens, mask = encode_text_with_mask([value], rule.model, rule.max_length, attend_padding=not rule.masked)
            return tokens, mask if rule.masked else None
        x = torch.as_tensor(np.asarray(value.cpu() if torch.is_tensor(value) else value)).float()
        if tuple(x.shape) != (rule.max_length, rule.embed_dim):
            raise ShapeError(f"'{name}' must be a text, or embeddings [{rule.max_length}, {rule.embed_dim}], got "
                             f"{list(x.shape)}")
        return x[None], None

    def _vectors(self, vectors: Mapping[str, Any]) -> dict[str, Tensor]:
        wanted = {**self.spec.vectors, **self.spec.discrete}
        if set(vectors) != set(wanted):
            raise ConfigError(f"vectors are {_words(vectors)}, the model observes {_words(wanted)}")
        found = {}
        for name, value in vectors.items():
            x = torch.as_tensor(np.asarray(value.cpu() if torch.is_tensor(value) else value))
            if name in self.spec.discrete:
                found[name] = x.long().reshape(1, -1)
                continue
            if x.ndim not in (1, 2) or x.shape[-1] != wanted[name]:
                raise ShapeError(f"vector '{name}' must be [{wanted[name]}] or [T, {wanted[name]}], got "
                                 f"{list(x.shape)}")
            found[name] = x.float().reshape(1, -1, wanted[name])
        return found

    def _named(self, given: Any, known: Any, what: str) -> dict[str, Any]:
        """What was given, by the names of the conditions it feeds."""
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            return {self._only(known, what): given}
        if unknown := [name for name in given if name not in known]:
            raise ConfigError(f"this model is told no {what} '{unknown[0]}'; it knows: {_words(known)}")
        return dict(given)

    def _only(self, known: Any, what: str) -> str:
        if len(known) != 1:
            told = "none" if not known else f"several, {_words(known)}: give a table by name"
            raise ConfigError(f"{what}: this model knows {told}")
        return next(iter(known))


def _words(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"
