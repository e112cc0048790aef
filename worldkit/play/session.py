"""What is being played: one or two futures of a model, how they are steered, and what is drawn of them.

It knows no browser and no terminal: these call its methods and show its `frames`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..data import ClipDataset, collate
from ..distributions import Sampler
from ..errors import ConfigError, NoDecoderError, WorldkitError
from ..latents import Latent
from ..model import ComposedWorldModel
from ..picking import PRESENT
from .moments import Future, Moment, first_moment

MODES = ("sample", "mean", "inferred")
"""Where latent actions come from: drawn from the model's policy, its mean, or read off what really happened."""
NOBODY = 255
_PAINTED = 0.3  # share of a pixel below which nobody painted it
LONGEST = 600
"""Frames of a recording; of a longer one the newest are kept."""


@dataclass(frozen=True)
class Steering:
    """What a player steers by: ``dim`` numbers from -1 to 1, or one of ``choices``; else both None.

    It is the model's action condition of this name, or, with ``latent``, its latent action; with ``factors``, of which
    there are so many, that of one factor.
    """

    name: str | None = None
    dim: int | None = None
    choices: int | None = None
    latent: bool = False
    factors: int = 0


@dataclass(frozen=True)
class Frame:
    """What is to be seen of a future.

    Attributes:
        t: Steps since the data.
        span: First and last step that can be looked at.
        picture: uint8 ``[H, W, 3]``; several views side by side.
        boxes: Particles that show: ``(y, x, half height, half width, opacity)`` in units of positions.
        owners: Which token painted a pixel most, ``[H, W]`` uint8, `NOBODY` where none did; None where the decoder does
            not say, or unasked.
        frozen: Whether something is.
        predictions: What the model's heads say of the last step.
    """

    t: int
    span: tuple[int, int]
    picture: np.ndarray = field(repr=False)
    boxes: list[list[float]] = field(repr=False)
    owners: np.ndarray | None = field(repr=False)
    frozen: bool
    predictions: Mapping[str, float]


class Session:
    """A game with a model.

    Args:
        model: A model with a dynamics and a decoder.
        clips: Data set of clips whose first frames a dream begins with; what follows them is what really happened.
        context_frames: Frames of data that the model sees first.
        seed: Of everything drawn.
        clip: Number of the first clip.
        latent: Steer by the model's latent action instead of its action condition.
    Raises:
        NoDecoderError: the model cannot draw.
        WorldkitError: it has no dynamics, or no latent action to be steered by.
    Example:
        >>> import worldkit as wk
        >>> clips = wk.data.open_dataset("balls-32", split="test", num_frames=12)
        >>> session = Session(wk.create_model("lpwm-balls-mini"), clips, context_frames=5)
        >>> session.step(); session.branch(); session.step()
        >>> [frame.t for frame in session.frames()]
        [2, 2]
    """

    def __init__(self, model: ComposedWorldModel, clips: ClipDataset, *, context_frames: int, seed: int = 0,
                 clip: int = 0, latent: bool = False):
        model.require_dynamics()
        if model.decoder is None:
            raise NoDecoderError("this model has no decoder, so there is nothing to see: play one that draws")
        if not model.config.obs.height:
            raise NoDecoderError("this model sees numbers and no pictures, so there is nothing to see: play one that "
                                 "draws")
        self.model, self.clips, self.context_frames = model.eval(), clips, context_frames
        self.device = next(model.parameters()).device
        self.random = torch.Generator(self.device).manual_seed(seed)
        self.steering = _latent_steering(model) if latent else _steering(model)
        self.action: Any = None  # what the keys or the pad say: numbers, or a choice
        self.factor = 0  # whose latent action that is, where every factor has its own
        self.mode = "sample" if self.modes else "mean"
        self.show_owners = False
        self.recording: deque[np.ndarray] | None = None
        self.recorded: list[np.ndarray] = []
        self.begin(clip)

    @property
    def modes(self) -> tuple[str, ...]:
        """Choices of `mode`; of models without randomness none, of those without latent actions not "inferred"."""
        if self.model.latent_action is None:
            return MODES[:2]
        return MODES

    # -- where and when

    def begin(self, clip: int | None = None) -> None:
        """Begin with a clip; None: any other one."""
        count = len(self.clips)
        if clip is None:
            clip = int(torch.randint(count, (), generator=self.random, device=self.device))
        if not 0 <= clip < count:
            raise ConfigError(f"clip {clip} is out of range: the data have {count} clips, 0 to {count - 1}")
        batch = collate([self.clips[clip]]).to(self.device)
        told = {}
        for name in self.model.conditioners:
            if name not in batch.conditions:
                raise ConfigError(f"this model is told '{name}', and the data have no such entry: play it on data that "
                                  "have")
            told[name] = batch.conditions[name]
        self.clip, self._video, self._told = clip, batch.video, told
        self._inferred: Tensor | None = None
        seen, generator = batch.context(self.context_frames), self._generator()
        self.futures = [Future(first_moment(self.model, seen, told, Sampler(generator=generator)))]

    def step(self) -> None:
        """Every future makes a step: on to the next moment, or, after looking back, anew from there."""
        for future in self.futures:
            moment = future.now
            future.push(moment.next(self._action(), self._latent_action(moment), means=self.mode == "mean"))
        if self.recording is not None:
            self.recording.append(self.film_frame())

    def look(self, t: int) -> None:
        """Look at another moment of all futures; the next step goes on from there."""
        for future in self.futures:
            future.look(t)

    def branch(self) -> None:
        """A second future from here, drawn anew; where nothing is drawn it goes on alike until something is changed."""
        now = self.futures[0].now
        self._second(now.resampled(self._generator()))

    def drop(self, which: int = 1) -> None:
        """Only one of two futures is left: the other one than ``which``."""
        if len(self.futures) > 1:
            self.futures = [self.futures[1 - which]]

    def _second(self, moment: Moment) -> None:
        self.futures = [self.futures[0], self.futures[0].branch(moment)]

    # -- what if

    def pick(self, which: int, at: Sequence[float]) -> list[int]:
        """Tokens of the thing at a place ``(y, x)`` of a future; empty: there is none, or none is told apart."""
        self._one_view()
        scene = self._future(which).now.scene()
        if not scene.tells_apart:
            return []
        if scene.z.positions is not None:  # whoever painted the place, before whoever's box merely reaches it
            now = scene.z[:, scene.frame :]
            with contextlib.suppress(WorldkitError), torch.no_grad():
                return now.object_at(at, drawn=self.model.decode(now, masks=True))
        try:
            return scene.at(at)
        except WorldkitError:
            return []

    def outline(self, which: int, at: Sequence[float]) -> list[float] | None:
        """The box around the thing at a place, ``(y0, x0, y1, x1)`` in [-1, 1]; None: there is nothing."""
        tokens = self.pick(which, at)
        if not tokens:
            return None
        scene = self._future(which).now.scene()
        box, obs = scene.box(scene.z, tokens, scene.frame), self.model.config.obs
        if not len(box):
            return [at[0] - 0.1, at[1] - 0.1, at[0] + 0.1, at[1] + 0.1]
        return (box[0] / torch.tensor([obs.height, obs.width] * 2) * 2 - 1).tolist()

    def move(self, which: int, at: Sequence[float], by: Sequence[float]) -> bool:
        """What if the thing at a place lay elsewhere? False: nothing is there.

        A change of the first future makes a second one, beside it; the second is changed where it is.
        """
        return self._change(which, at, lambda moment, tokens: moment.moved(tokens, by))

    def remove(self, which: int, at: Sequence[float]) -> bool:
        """What if the thing at a place were not there?"""
        return self._change(which, at, lambda moment, tokens: moment.without(tokens))

    def freeze(self, which: int, at: Sequence[float]) -> bool:
        """The thing at a place stays as it is from here on; if it is frozen, it is so no longer."""
        def change(moment: Moment, tokens: Sequence[int]) -> Moment:
            frozen = any({*tokens} & {*held.tokens} for held in moment.held)
            return moment.thawed() if frozen else moment.freezing(tokens)

        return self._change(which, at, change)

    def _change(self, which: int, at: Sequence[float], change: Any) -> bool:
        tokens = self.pick(which, at)
        if not tokens:
            return False
        moment = change(self._future(which).now, tokens)
        if which == 0:
            self._second(moment)
        else:
            self.futures[1].put(moment)
        return True

    def _future(self, which: int) -> Future:
        if not 0 <= which < len(self.futures):
            raise ConfigError(f"there is no future {which}: there are {len(self.futures)}")
        return self.futures[which]

    def _one_view(self) -> None:
        if self.model.config.obs.views > 1:
            raise ConfigError("things are picked in pictures of one camera, and this model has several")

    # -- steering

    def steer(self, action: Any) -> None:
        """What the next steps are told: numbers from -1 to 1, a choice, or None for nothing."""
        steering = self.steering
        if action is not None and steering.dim is not None:
            action = [min(max(float(x), -1.0), 1.0) for x in action]
            if len(action) != steering.dim:
                raise ConfigError(f"an action of this model is {steering.dim} numbers, got {len(action)}")
        elif action is not None and steering.choices is not None:
            action = int(action)
            if not 0 <= action < steering.choices:
                raise ConfigError(f"actions of this model run from 0 to {steering.choices - 1}, got {action}")
        elif action is not None:
            raise ConfigError("this model is not steered by actions")
        self.action = action

    def aim(self, factor: int) -> None:
        """Steer another factor, of a model each of whose factors has a latent action of its own; the one before is
        let go.

        Raises:
            ConfigError: there is no such factor.
        """
        count = self.steering.factors
        if not 0 <= factor < count:
            there = f"it has {count}, 0 to {count - 1}" if count else "its latent action is one for all"
            raise ConfigError(f"this model has no factor {factor} to be steered: {there}")
        self.factor, self.action = factor, None

    def follow(self, mode: str) -> None:
        """Where latent actions come from, see `MODES`."""
        if mode not in self.modes:
            raise ConfigError(f"this model follows one of {', '.join(self.modes)}, got {mode!r}")
        self.mode = mode

    def _action(self) -> dict[str, Tensor]:
        steering, told = self.steering, {}
        conditioners: Any = self.model.conditioners
        for name, conditioner in conditioners.items():
            if not conditioner.per_frame:
                continue
            value = self._told[name].narrow(conditioner.time_axis, 0, 1)
            if name == steering.name:
                fill = self.action if self.action is not None else 0
                value = torch.as_tensor(fill, dtype=value.dtype, device=self.device).expand_as(value)
            told[name] = value
        return told

    def _latent_action(self, moment: Moment) -> Tensor | None:
        """What the player says, or what really happened then, if that is to be followed and known."""
        if self.steering.latent and self.action is not None:
            like = self._really_happened()
            value = torch.as_tensor(self.action, dtype=like.dtype, device=like.device)
            if self.steering.factors:
                return self.model.latent_action.edited(self._others(moment, like), self.factor, value)
            return value.expand(1, 1, *like.shape[2:]).clone()
        if self.mode != "inferred":
            return None
        found, at = self._really_happened(), self.context_frames - 1 + moment.t
        return found[:, at : at + 1] if at < found.shape[1] else None

    def _others(self, moment: Moment, like: Tensor) -> Tensor:
        """Latent actions of a step, ``[1, 1, K, A]``, as `mode` has it, for the factors that are not steered."""
        at = self.context_frames - 1 + moment.t
        if self.mode == "inferred" and at < like.shape[1]:
            return like[:, at : at + 1]
        still = torch.zeros_like(like[:, :1])
        return still if self.mode == "mean" else torch.randn(still.shape, generator=self.random, device=self.device)

    def _really_happened(self) -> Tensor:
        """Latent actions of the clip, ``[1, T - 1, N or 1, A]``."""
        if self._inferred is None:
            frames = self._video.shape[-4]
            told = {name: x for name, x in self._told.items()}
            self._inferred = self.model.infer_latent_actions(self._video, conditions=told)[:, : frames - 1]
        return self._inferred

    def _generator(self) -> torch.Generator:
        seed = int(torch.randint(2**62, (), generator=self.random, device=self.device))
        return torch.Generator(self.device).manual_seed(seed)

    # -- what is seen

    def frames(self) -> list[Frame]:
        """What is to be seen, one of each future."""
        return [self._frame(future) for future in self.futures]

    def truth(self) -> np.ndarray | None:
        """What the data show at this moment, uint8 ``[H, W, 3]``; None: they end before it."""
        at = self.context_frames - 1 + self.futures[0].now.t
        return None if at >= self._video.shape[-4] else _picture(self._video[0, ..., at, :, :, :])

    @torch.no_grad()
    def _frame(self, future: Future) -> Frame:
        moment = future.now
        z = moment.recent[:, -1:]
        drawn = moment.dream.picture(masks=self.show_owners)
        views = self.model.config.obs.views
        owners = None
        if self.show_owners and drawn.masks is not None and views == 1:
            share, owner = drawn.masks[0, 0, :, 0].max(0)
            owner = owner if drawn.tokens is None else drawn.tokens[0, 0][owner]
            owners = torch.where(share > _PAINTED, owner % NOBODY, NOBODY).to(torch.uint8).cpu().numpy()
        said = {name: float(x.flatten()[0]) for name, x in moment.dream.predictions.items() if x.numel() == 1}
        return Frame(moment.t, future.span, _picture(drawn.video[0, ..., 0, :, :, :]),
                     _boxes(z) if views == 1 else [], owners, bool(moment.held), said)

    def film_frame(self) -> np.ndarray:
        """All futures side by side, uint8 ``[H, W, 3]``."""
        pictures = [frame.picture for frame in self.frames()]
        gap = np.full((pictures[0].shape[0], 1, 3), 255, np.uint8)
        parts = [part for picture in pictures for part in (gap, picture)][1:]
        return np.concatenate(parts, 1)

    def record(self, on: bool) -> None:
        """Begin to record what is seen, or stop; `gif` gives what was recorded."""
        if on:
            self.recording = deque([self.film_frame()], LONGEST)
        elif self.recording is not None:
            self.recorded, self.recording = list(self.recording), None

    def gif(self, *, fps: float = 10, side: int = 256) -> bytes:
        """The last recording as an endless GIF.

        Raises:
            ConfigError: nothing was recorded.
        """
        from ..viz.images import enlarge, gif_bytes

        if not self.recorded:
            raise ConfigError("nothing was recorded yet")
        width = max(frame.shape[1] for frame in self.recorded)
        film = np.stack([np.pad(f, ((0, 0), (0, width - f.shape[1]), (0, 0)), constant_values=255)
                         for f in self.recorded])
        pictures, _ = enlarge(torch.from_numpy(film).permute(0, 3, 1, 2), side)
        return gif_bytes(pictures, fps=fps)


def _steering(model: ComposedWorldModel) -> Steering:
    conditioners: Any = model.conditioners
    for name, conditioner in conditioners.items():
        config = conditioner.config
        if hasattr(config, "num_actions"):
            return Steering(name, config.dim, config.num_actions)
    return Steering()


def _latent_steering(model: ComposedWorldModel) -> Steering:
    """Codes are chosen among; vectors are pushed, the same of every token, or that of one factor."""
    module = model.require_latent_action("steering by latent actions")
    if module.choices is not None:
        return Steering("latent action", choices=module.choices, latent=True)
    factors = module.count if module.count > 1 else 0
    return Steering("latent action", dim=module.config.action_dim, latent=True, factors=factors)


def _picture(frame: Tensor) -> np.ndarray:
    """``[C, H, W]`` (``[V, C, H, W]``) of one frame as uint8 ``[H, W, 3]``."""
    if frame.dtype != torch.uint8:
        frame = (frame.clamp(0, 1) * 255).round().to(torch.uint8)
    frame = rearrange(frame, "v c h w -> c h (v w)") if frame.ndim == 4 else frame
    frame = frame.expand(3, -1, -1) if frame.shape[0] == 1 else frame[:3]
    return np.ascontiguousarray(frame.permute(1, 2, 0).cpu().numpy())


def _boxes(z: Latent) -> list[list[float]]:
    """Visible particles of one frame, see `Frame.boxes`."""
    key, scale = z.spec.find("position"), z.get("scale")
    if key is None or scale is None:
        return []
    where, half = z.values[key][0, 0], torch.sigmoid(scale[0, 0])
    opacity = z.values[key[0], "transparency"][0, 0] if z.spec.find("transparency") else torch.ones_like(where[:, :1])
    rows = torch.cat([where, half, opacity], -1)
    return [[round(x, 4) for x in row] for row in rows[opacity[:, 0] > PRESENT].tolist()]
